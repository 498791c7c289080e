"""DeepSeek: chat, V2, V2.5, V3, R1 and its distilled models, Coder, and the formats that share its rounds."""

from __future__ import annotations

from typing import Any

from swift.templates import TEMPLATES, TemplateRecord, Thinking
from swift.templates.catalog.wanted import KEPT_THOUGHT

BOS, EOS = ("bos_token_id",), ("eos_token_id",)
CODER = (
    "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, and you "
    "only answer questions related to computer science. For politically sensitive questions, security and privacy "
    "issues, and other non-computer science questions, you will refuse to answer\n"
)


LLAMA_CPP = "https://github.com/ggml-org/llama.cpp "
NO_SPACE = {"*": "a reply follows the colon at once; with the space that the model's own template writes: deepseek-v2"}
NO_THINKING = {
    **dict.fromkeys(
        ("a prompt", "a prompt after a round"),
        "this row is for the models that do not think; the template that it was checked with opens a thought",
    ),
    **dict.fromkeys(
        ("a thought", "a thought before"), "this row writes a reply as it is; there is no rule for thoughts"
    ),
}


def _deepseek(name: str, **fields: Any) -> TemplateRecord:
    return TemplateRecord(
        name,
        prefix=(BOS,),
        system_prefix=(BOS, "{{SYSTEM}}\n\n"),
        prompt=("User: {{QUERY}}\n\nAssistant:",),
        chat_sep=(EOS,),
        suffix=(EOS,),
        **fields,
    )


def _deepseek3(name: str, checked: str, **fields: Any) -> TemplateRecord:
    return TemplateRecord(
        name,
        prefix=("<｜begin▁of▁sentence｜>",),
        system_prefix=("<｜begin▁of▁sentence｜>{{SYSTEM}}",),
        prompt=("<｜User｜>{{QUERY}}<｜Assistant｜>",),
        chat_sep=("<｜end▁of▁sentence｜>",),
        suffix=("<｜end▁of▁sentence｜>",),
        checked=checked,
        **fields,
    )


# A thought of R1 stands in its marks as it is.
R1 = Thinking("<think>", "</think>", opened="<think>\n", strip="", answer="")
V3_1 = LLAMA_CPP + "models/templates/deepseek-ai-DeepSeek-V3.1.jinja"
CLOSED = "</think>"

TEMPLATES.add(
    _deepseek("deepseek", differs=NO_SPACE),
    _deepseek("deepseek2", differs=NO_SPACE),
    _deepseek("deepseek-v2", lead=" ", checked=LLAMA_CPP + "tests/test-chat-template.cpp (DeepSeek-V2)"),
    _deepseek3("deepseek2_5", "trl:deepseekv3.jinja", differs=NO_THINKING),
    _deepseek3("deepseek-v3", "trl:deepseekv3.jinja", differs=NO_THINKING),
    _deepseek3("deepseek-r1", "trl:deepseek_r1_distill.jinja", thinking=R1, differs=KEPT_THOUGHT),
    _deepseek3(
        "deepseek-v3.1",
        V3_1,
        thinking=Thinking("", CLOSED, CLOSED, CLOSED, CLOSED, keeps="none", strip="", answer=""),
    ),
    _deepseek3(
        "deepseek-v3.1-think",
        V3_1,
        variables={"thinking": True},
        thinking=Thinking("<think>", CLOSED, "<think>", "<think></think>", CLOSED, strip="", answer=""),
        differs=KEPT_THOUGHT,
    ),
    TemplateRecord(
        "deepseek-coder",
        prefix=("{{SYSTEM}}",),
        prompt=("### Instruction:\n{{QUERY}}\n### Response:\n",),
        chat_sep=("\n<|EOT|>\n",),
        suffix=("\n<|EOT|>",),
        default_system=CODER,
        checked=LLAMA_CPP + "tests/test-chat-template.cpp (deepseek-coder-33b-instruct)",
        differs={"*": "no beginning-of-sequence token is written, and the newline before a reply is in its prompt"},
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
