"""Llama 2 to 4, Mistral and formats that grew out of Llama's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swift.templates import TEMPLATES, Piece, TemplateRecord

LLAMA2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
REFLECTION = (
    "You are a world-class AI system, capable of complex reasoning and reflection. Reason through the query inside "
    "<thinking> tags, and then provide your final response inside <output> tags. If you detect that you made a mistake "
    "in your reasoning at any point, correct yourself inside <reflection> tags."
)
LLAMA_CPP = "https://github.com/ggml-org/llama.cpp "
CHECKED_2 = "https://github.com/chujiezheng/chat_templates chat_templates/llama-2-chat.jinja"
SPOKEN = ("user", "assistant")
ALL_ROLES = ("system", "user", "assistant")
# Llama 3.1 to 3.3 write the day of the conversation; a fixed one keeps training and inference equal.
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
LAST = {
    "system": "the system text stands in the last question, in training too; the model's own template writes it there "
    "in the prompt and leaves it out of a finished conversation"
}


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def _llama3(
    name: str, prefix: tuple[Piece, ...], system_prefix: tuple[Piece, ...] | None, tool: str = "ipython", **fields: Any
) -> TemplateRecord:
    reply = "<|eot_id|>" + _header("assistant")
    return TemplateRecord(
        name,
        prefix=prefix,
        system_prefix=system_prefix,
        prompt=(_header("user") + "{{QUERY}}" + reply,),
        tool_prompt=(_header(tool) + "{{QUERY}}" + reply,),
        chat_sep=("<|eot_id|>",),
        suffix=("<|eot_id|>",),
        trim=ALL_ROLES,
        **fields,
    )


def _llama3_1(name: str, checked: str) -> TemplateRecord:
    head, system = "<|begin_of_text|>" + _header("system"), DATES + "{{SYSTEM}}<|eot_id|>"
    with_tools = (head + "Environment: ipython\n" + system,)
    return _llama3(name, (head + system,), None, checked=checked, tools="llama3", tools_prefix=with_tools)


def _llama4(name: str) -> TemplateRecord:
    def turn(role: str, text: str) -> str:
        return f"<|header_start|>{role}<|header_end|>\n\n{text}<|eot|>"

    reply = "<|header_start|>assistant<|header_end|>\n\n"
    return TemplateRecord(
        name,
        prefix=("<|begin_of_text|>",),
        system_prefix=("<|begin_of_text|>" + turn("system", "{{SYSTEM}}"),),
        tools_prefix=("<|begin_of_text|>" + turn("system", "Environment: ipython\n{{SYSTEM}}"),),
        prompt=(turn("user", "{{QUERY}}") + reply,),
        tool_prompt=(turn("ipython", "{{QUERY}}") + reply,),
        chat_sep=("<|eot|>",),
        suffix=("<|eot|>",),
        trim=("system",),
        checked="transformers:models/llama4/processing_llama4.py",
        tools="llama3",
        differs=dict.fromkeys(
            ("a tool called", "a tool to be called", "two tools called at once"),
            "a call begins its reply; the model's own template writes empty marks of Python before it",
        ),
    )


def _mistral(
    name: str, space: str, checked: str, lead: str = "", differs: Mapping[str, str] | None = None, **fields: Any
) -> TemplateRecord:
    """The system text stands in the last question; `space` follows [INST], `lead` comes before a reply."""
    return TemplateRecord(
        name,
        prefix=(f"<s>[INST]{space}",),
        prompt=("{{SYSTEM}}\n\n", "{{QUERY}}[/INST]"),
        chat_sep=(f"</s>[INST]{space}",),
        suffix=("</s>",),
        lead=lead,
        checked=checked,
        differs=LAST if differs is None else differs,
        **fields,
    )


def _mistral7(name: str, space: str, checked: str, **fields: Any) -> TemplateRecord:
    """The system text has marks of its own; `space` follows every mark that opens."""
    return TemplateRecord(
        name,
        prefix=("<s>",),
        system_prefix=(f"<s>[SYSTEM_PROMPT]{space}{{{{SYSTEM}}}}[/SYSTEM_PROMPT]",),
        prompt=(f"[INST]{space}{{{{QUERY}}}}[/INST]",),
        chat_sep=("</s>",),
        suffix=("</s>",),
        lead=space,
        checked=checked,
        **fields,
    )


TEST = LLAMA_CPP + "tests/test-chat-template.cpp "

TEMPLATES.add(
    TemplateRecord(
        "llama",
        prefix=("<s>[INST] ",),
        system_prefix=("<s>[INST] <<SYS>>\n{{SYSTEM}}\n<</SYS>>\n\n",),
        prompt=("{{QUERY}} [/INST]",),
        chat_sep=("</s><s>[INST] ",),
        suffix=("</s>",),
        default_system=LLAMA2,
        checked=CHECKED_2,
        differs={"*": "a reply has no space before and behind it, and there is a default system text; without: llama2"},
    ),
    TemplateRecord(
        "llama2",
        prefix=("<s>[INST] ",),
        system_prefix=("<s>[INST] <<SYS>>\n{{SYSTEM}}\n<</SYS>>\n\n",),
        prompt=("{{QUERY}} [/INST]",),
        chat_sep=(" </s><s>[INST] ",),
        suffix=(" </s>",),
        lead=" ",
        trim=SPOKEN,
        checked=CHECKED_2,
    ),
    _llama3(
        "llama3",
        ("<|begin_of_text|>",),
        ("<|begin_of_text|>" + _header("system") + "{{SYSTEM}}<|eot_id|>",),
        "tool",
        checked="trl:llama3.jinja",
        tools="toolbench",
    ),
    _llama3_1("llama3_1", "trl:llama3_1.jinja"),
    _llama3_1("llama3_2", "trl:llama3_2.jinja"),
    _llama4("llama4"),
    _llama3(
        "reflection",
        ("<|begin_of_text|>",),
        ("<|begin_of_text|>" + _header("system") + "{{SYSTEM}}<|eot_id|>",),
        "tool",
        default_system=REFLECTION,
    ),
    TemplateRecord(
        "longwriter-llama3",
        prefix=("[INST]",),
        system_prefix=("<<SYS>>\n{{SYSTEM}}\n<</SYS>>\n\n[INST]",),
        prompt=("{{QUERY}}[/INST]",),
        chat_sep=("[INST]",),
        suffix=("<|end_of_text|>",),
    ),
    _mistral(
        "mistral-nemo",
        " ",
        TEST + "(Mistral-Nemo-Instruct-2407)",
        differs={"*": "[INST] is followed by a space; without: mistral-v3-tekken"},
    ),
    _mistral("mistral-v3", " ", TEST + "(Mistral-Large-Instruct-2407)", " ", trim=("assistant",)),
    _mistral("mistral-v3-tekken", "", TEST + "(Mistral-Nemo-Instruct-2407)"),
    _mistral7("mistral-v7", " ", TEST + "(Mistral-Large-Instruct-2411)"),
    _mistral7(
        "mistral-v7-tekken",
        "",
        LLAMA_CPP + "models/templates/mistralai-Mistral-Small-3.1-24B-Instruct-2503.jinja",
        differs={
            "*": "without a system text there is none; the model's own template writes one that has the day in it",
        },
    ),
    TemplateRecord(
        "zephyr",
        system_prefix=("<|system|>\n{{SYSTEM}}</s>\n",),
        prompt=("<|user|>\n{{QUERY}}</s>\n<|assistant|>\n",),
        chat_sep=("</s>\n",),
        suffix=("</s>",),
    ),
    TemplateRecord(
        "atom",
        prefix=("{{SYSTEM}}",),
        prompt=("<s>Human: {{QUERY}}\n</s><s>Assistant: ",),
        chat_sep=("</s>",),
        suffix=("</s>",),
    ),
)
