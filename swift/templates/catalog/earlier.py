"""Earlier forms of formats, kept for adapters that were trained with them: `-v1` came before `-v2`."""

from __future__ import annotations

from swift.templates import TEMPLATES, TemplateRecord
from swift.templates.catalog.chatml import HELPFUL, chatml

DIGITAL = "You are a helpful digital assistant. Please provide safe, ethical and accurate information to the user."

TEMPLATES.add(
    chatml("chatml-v1", HELPFUL, auto_add_bos=True),
    TemplateRecord(
        "yi1_5-v1",
        prefix=("{{SYSTEM}}",),
        prompt=("<|im_start|>user\n{{QUERY}}<|im_end|> \n<|im_start|>assistant\n",),
        chat_sep=("<|im_end|>\n",),
        suffix=("<|im_end|>",),
    ),
    TemplateRecord(
        "chatglm3-v2",
        prefix=(("[gMASK]", "sop"),),
        system_prefix=(("[gMASK]", "sop"), "<|system|>\n{{SYSTEM}}"),
        prompt=("<|user|>\n{{QUERY}}<|assistant|>\n",),
        suffix=("<|user|>",),
    ),
    TemplateRecord(
        "phi3-v1",
        prefix=("<s>",),
        system_prefix=("<s><|system|>\n{{SYSTEM}}<|end|>\n",),
        prompt=("<|user|>\n{{QUERY}}<|end|>\n<|assistant|>\n",),
        chat_sep=("<|end|>\n",),
        suffix=("<|end|>",),
        default_system=DIGITAL,
    ),
)
