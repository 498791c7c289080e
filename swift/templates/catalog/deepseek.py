"""DeepSeek: chat, V2, V2.5, Coder, and the formats that share its rounds."""

from __future__ import annotations

from swift.templates import TEMPLATES, TemplateRecord

BOS, EOS = ("bos_token_id",), ("eos_token_id",)
CODER = (
    "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, and you "
    "only answer questions related to computer science. For politically sensitive questions, security and privacy "
    "issues, and other non-computer science questions, you will refuse to answer\n"
)


def _deepseek(name: str) -> TemplateRecord:
    return TemplateRecord(
        name,
        prefix=(BOS,),
        system_prefix=(BOS, "{{SYSTEM}}\n\n"),
        prompt=("User: {{QUERY}}\n\nAssistant:",),
        chat_sep=(EOS,),
        suffix=(EOS,),
    )


TEMPLATES.add(
    _deepseek("deepseek"),
    _deepseek("deepseek2"),
    TemplateRecord(
        "deepseek2_5",
        prefix=("<｜begin▁of▁sentence｜>",),
        system_prefix=("<｜begin▁of▁sentence｜>{{SYSTEM}}",),
        prompt=("<｜User｜>{{QUERY}}<｜Assistant｜>",),
        chat_sep=("<｜end▁of▁sentence｜>",),
        suffix=("<｜end▁of▁sentence｜>",),
    ),
    TemplateRecord(
        "deepseek-coder",
        prefix=("{{SYSTEM}}",),
        prompt=("### Instruction:\n{{QUERY}}\n### Response:\n",),
        chat_sep=("\n<|EOT|>\n",),
        suffix=("\n<|EOT|>",),
        default_system=CODER,
    ),
    TemplateRecord(
        "numina-math",
        prefix=(BOS,),
        system_prefix=(BOS, "{{SYSTEM}}"),
        prompt=("### Problem: {{QUERY}}\n### Solution: ",),
        chat_sep=("\n",),
        suffix=(EOS,),
    ),
)
