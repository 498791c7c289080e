"""Formats without marks of their own: completion of text, and rounds named in words."""

from __future__ import annotations

from swift.templates import TEMPLATES, TemplateRecord

BOS, EOS = ("bos_token_id",), ("eos_token_id",)
WIZARD = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)

TEMPLATES.add(
    TemplateRecord(
        "default",
        system_prefix=("{{SYSTEM}}\n\n",),
        prompt=("### Human:\n{{QUERY}}\n\n### Assistant:\n",),
        chat_sep=("\n\n",),
        suffix=(EOS,),
        default_system="You are a helpful assistant.",
        auto_add_bos=True,
    ),
    TemplateRecord(
        "default-generation",
        prompt=("{{QUERY}}",),
        chat_sep=None,
        suffix=(EOS,),
        auto_add_bos=True,
        generation=True,
    ),
    TemplateRecord(
        "default-generation-bos",
        prefix=(BOS,),
        prompt=("{{QUERY}}",),
        chat_sep=None,
        suffix=(EOS,),
        generation=True,
    ),
    TemplateRecord(
        "xverse",
        prefix=("{{SYSTEM}}",),
        prompt=("Human: {{QUERY}}\n\nAssistant: ",),
        chat_sep=(EOS,),
        suffix=(EOS,),
    ),
    TemplateRecord(
        "ziya",
        prefix=(BOS, "{{SYSTEM}}"),
        prompt=("<human>:{{QUERY}}\n<bot>:",),
        chat_sep=("\n",),
        suffix=(EOS,),
    ),
    TemplateRecord(
        "sus",
        prefix=("{{SYSTEM}}",),
        prompt=("### Human: {{QUERY}}\n\n### Assistant: ",),
        chat_sep=("<|endoftext|>",),
        suffix=("<|endoftext|>",),
    ),
    TemplateRecord(
        "orion",
        prefix=("<s>{{SYSTEM}}",),
        prompt=("Human: {{QUERY}}\n\nAssistant: </s>",),
        chat_sep=("</s>",),
        suffix=("</s>",),
        checked="https://github.com/ggml-org/llama.cpp tests/test-chat-template.cpp (Orion-14B-Chat)",
        differs={"system": "a system text comes first; the model's own template leaves one out"},
    ),
    TemplateRecord(
        "mengzi",
        system_prefix=("指令：{{SYSTEM}}",),
        prompt=("输入：{{QUERY}}输出：\n",),
        suffix=(EOS,),
    ),
    TemplateRecord(
        "wizardlm2",
        prefix=("{{SYSTEM}}",),
        prompt=("USER: {{QUERY}} ASSISTANT:",),
        chat_sep=("</s>",),
        suffix=("</s>",),
        default_system=WIZARD,
    ),
    TemplateRecord(
        "wizardlm2-awq",
        prefix=("{{SYSTEM}}",),
        prompt=("User:\n{{QUERY}}\n\nAssistant:\n",),
        chat_sep=("\n\n",),
        suffix=("</s>",),
    ),
)
