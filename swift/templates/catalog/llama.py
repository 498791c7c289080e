"""Llama 2, 3, 3.2, Mistral and formats that grew out of Llama's."""

from __future__ import annotations

from swift.templates import TEMPLATES, Piece, TemplateRecord

LLAMA2 = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe. "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def _llama3(name: str, prefix: tuple[Piece, ...], system_prefix: tuple[Piece, ...] | None) -> TemplateRecord:
    reply = "<|eot_id|>" + _header("assistant")
    return TemplateRecord(
        name,
        prefix=prefix,
        system_prefix=system_prefix,
        prompt=(_header("user") + "{{QUERY}}" + reply,),
        tool_prompt=(_header("tool") + "{{QUERY}}" + reply,),
        chat_sep=("<|eot_id|>",),
        suffix=("<|eot_id|>",),
    )


# Llama 3.2 writes the day of the conversation; a fixed one keeps training and inference equal.
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"

TEMPLATES.add(
    TemplateRecord(
        "llama",
        prefix=("<s>[INST] ",),
        system_prefix=("<s>[INST] <<SYS>>\n{{SYSTEM}}\n<</SYS>>\n\n",),
        prompt=("{{QUERY}} [/INST]",),
        chat_sep=("</s><s>[INST] ",),
        suffix=("</s>",),
        default_system=LLAMA2,
    ),
    _llama3("llama3", ("<|begin_of_text|>",), ("<|begin_of_text|>" + _header("system") + "{{SYSTEM}}<|eot_id|>",)),
    _llama3("llama3_2", ("<|begin_of_text|>" + _header("system") + DATES + "{{SYSTEM}}<|eot_id|>",), None),
    TemplateRecord(
        "longwriter-llama3",
        prefix=("[INST]",),
        system_prefix=("<<SYS>>\n{{SYSTEM}}\n<</SYS>>\n\n[INST]",),
        prompt=("{{QUERY}}[/INST]",),
        chat_sep=("[INST]",),
        suffix=("<|end_of_text|>",),
    ),
    TemplateRecord(
        "mistral-nemo",
        prefix=("<s>[INST] ",),
        prompt=("{{SYSTEM}}\n\n", "{{QUERY}}[/INST]"),
        chat_sep=("</s>[INST] ",),
        suffix=("</s>",),
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
