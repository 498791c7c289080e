"""ChatGLM 2, 3, GLM-4, GLM-4.5, CodeGeeX4. Role marks are tokens by name: early tokenizers do not read them in text."""

from __future__ import annotations

from typing import Any

from swift.templates import TEMPLATES, TemplateRecord, Thinking
from swift.templates.catalog.wanted import NO_THOUGHT, OTHER_TOOLS

CODEGEEX4 = (
    "你是一位智能编程助手，你叫CodeGeeX。你会为用户回答关于编程、代码、计算机方面的任何问题，"
    "并提供格式规范、可以执行、准确安全的代码，并在必要时提供详细的解释。"
)
START_2 = ("[gMASK]", "sop")
START_4 = ("[gMASK]", "<sop>")
USER, ASSISTANT, SYSTEM, OBSERVATION = ("<|user|>",), ("<|assistant|>",), ("<|system|>",), ("<|observation|>",)


LLAMA_CPP = "https://github.com/ggml-org/llama.cpp tests/test-chat-template.cpp "


def _glm4(name: str, end: str, default_system: str | None = None, **fields: Any) -> TemplateRecord:
    return TemplateRecord(
        name,
        prefix=(START_4,),
        system_prefix=(START_4, SYSTEM, "\n{{SYSTEM}}"),
        prompt=(USER, "\n{{QUERY}}", ASSISTANT, "\n"),
        tool_prompt=(OBSERVATION, "\n{{QUERY}}", ASSISTANT, "\n"),
        suffix=((end,),),
        default_system=default_system,
        stop=("<|user|>", "<|observation|>"),
        tools="glm4",
        **fields,
    )


def _glm4_5(name: str, thinking: Thinking, query: str = "{{QUERY}}", **fields: Any) -> TemplateRecord:
    return TemplateRecord(
        name,
        prefix=(START_4,),
        system_prefix=(START_4, SYSTEM, "\n{{SYSTEM}}"),
        prompt=(USER, f"\n{query}", ASSISTANT),
        tool_prompt=(OBSERVATION, "\n{{QUERY}}", ASSISTANT),
        suffix=(USER,),
        stop=("<|endoftext|>", "<|observation|>"),
        lead="\n",
        trim=("assistant",),
        thinking=thinking,
        checked="trl:glm4moe.jinja",
        **fields,
    )


NOTHING = "<think></think>\n"
THINKS = Thinking("<think>", "</think>\n", missing=NOTHING, earlier=NOTHING, strip=None, answer=None)
THINKS_NOT = Thinking(
    "<think>", "</think>\n", "\n<think></think>", NOTHING, NOTHING, keeps="none", strip=None, answer=None
)
TEMPLATES.add(
    TemplateRecord(
        "chatglm-generation",
        prefix=(START_2,),
        prompt=("{{QUERY}}",),
        chat_sep=None,
        suffix=(("eos_token_id",),),
        generation=True,
    ),
    TemplateRecord(
        "chatglm2",
        prefix=(START_2, "{{SYSTEM}}"),
        prompt=("[Round {{ROUND1}}]\n\n问：{{QUERY}}\n\n答：",),
        chat_sep=("\n\n",),
        suffix=(("eos_token_id",),),
    ),
    TemplateRecord(
        "chatglm3",
        prefix=(START_2,),
        system_prefix=(START_2, SYSTEM, "\n {{SYSTEM}}"),
        prompt=(USER, "\n {{QUERY}}", ASSISTANT, "\n"),
        tool_prompt=(OBSERVATION, "\n {{QUERY}}", ASSISTANT, "\n"),
        suffix=(USER,),
        stop=("<|observation|>",),
        checked=LLAMA_CPP + "(ChatGLM3)",
        differs={"*": "the newline before a reply is in its prompt, and no space follows it"},
    ),
    _glm4("chatglm4", "<|user|>", checked=LLAMA_CPP + "(ChatGLM4)"),
    _glm4("codegeex4", "<|endoftext|>", CODEGEEX4),
    _glm4_5("glm4_5", THINKS, differs=OTHER_TOOLS),
    _glm4_5(
        "glm4_5-nothink",
        THINKS_NOT,
        "{{QUERY}}/nothink",
        variables={"enable_thinking": False},
        differs={**NO_THOUGHT, **OTHER_TOOLS},
    ),
)
