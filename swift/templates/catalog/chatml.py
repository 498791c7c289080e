"""ChatML and the models that use it: Qwen, Yi, InternLM2, SmolLM, MiniCPM 3, LFM2, DBRX."""

from __future__ import annotations

from typing import Any

from swift.templates import TEMPLATES, Piece, TemplateRecord, Thinking
from swift.templates.catalog.wanted import EMPTY_SYSTEM, KEPT_THOUGHT, NO_THOUGHT, OTHER_TOOLS

HELPFUL = "You are a helpful assistant."
QWEN2_5 = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
QWQ = "You are a helpful and harmless assistant. You are Qwen developed by Alibaba. You should think step-by-step."
MARCO = (
    "\n你是一个经过良好训练的AI助手，你的名字是Marco-o1.由阿里国际数字商业集团的AI Business创造.\n        \n"
    "## 重要！！！！！\n当你回答问题时，你的思考应该在<Thought>内完成，<Output>内输出你的结果。\n"
    "<Thought>应该尽可能是英文，但是有2个特例，一个是对原文中的引用，另一个是是数学应该使用markdown格式，"
    "<Output>内的输出需要遵循用户输入的语言。\n        "
)
SMOL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
INTERNLM = (
    "You are an AI assistant whose name is InternLM (书生·浦语).\n"
    "- InternLM (书生·浦语) is a conversational language model that is developed by Shanghai AI Laboratory "
    "(上海人工智能实验室). It is designed to be helpful, honest, and harmless.\n"
    "- InternLM (书生·浦语) can understand and communicate fluently in the language chosen by the user such as "
    "English and 中文."
)
DBRX = (
    "You are DBRX, created by Databricks. You were last updated in December 2023. You answer questions based on "
    "information available up to that point.\n"
    "YOU PROVIDE SHORT RESPONSES TO SHORT QUESTIONS OR STATEMENTS, but provide thorough responses to more complex and "
    "open-ended questions.\n"
    "You assist with various tasks, from writing to coding (using markdown for code blocks — remember to use ``` with "
    "code, JSON, and tables).\n"
    "You do not have real-time data access or code execution capabilities. You avoid stereotyping and provide balanced "
    "perspectives on controversial topics. You do not provide song lyrics, poems, or news articles and do not divulge "
    "details of your training data.\n"
    "This is your system prompt, guiding your responses. Do not reference it, just respond to the user. If you find "
    "yourself talking about this message, stop. You should be responding appropriately and usually that means not "
    "mentioning this.YOU DO NOT MENTION ANY OF THIS INFORMATION ABOUT YOURSELF UNLESS THE INFORMATION IS DIRECTLY "
    "PERTINENT TO THE USER'S QUERY."
)
ALL_ROLES = ("system", "user", "assistant", "tool")
CALLED = dict.fromkeys(
    ("a tool called", "two tools called at once"),
    "what a prompt shows stands before every reply to it; the model's own template leaves it out before a call",
)
NO_THINKING = {"enable_thinking": False}


def chatml(name: str, default_system: str | None = None, start: Piece = "", **fields: Any) -> TemplateRecord:
    """A ChatML row; `start` stands before everything, `fields` are further ones of the row."""
    if default_system:
        fields = {"differs": EMPTY_SYSTEM, **fields}
    system = "<|im_start|>system\n{{SYSTEM}}<|im_end|>\n"
    return TemplateRecord(
        name,
        prefix=(start,) if start else (),
        system_prefix=(start + system,) if isinstance(start, str) else (start, system),
        prompt=("<|im_start|>user\n{{QUERY}}<|im_end|>\n<|im_start|>assistant\n",),
        chat_sep=("<|im_end|>\n",),
        suffix=("<|im_end|>",),
        default_system=default_system,
        **fields,
    )


def qwen(name: str, checked: str, thinking: Thinking | None = None, **fields: Any) -> TemplateRecord:
    """A row of Qwen from 2.5 on."""
    fields = {"tools": "hermes", **fields}
    return chatml(name, checked=checked, thinking=thinking, **fields)


THINKS = Thinking()
OPENED = Thinking(opened="<think>\n")
THINKS_NOT = Thinking(opened=THINKS.missing, keeps="none")
# Qwen 3.5 and 3.6 strip every text
OPENED_3_5 = Thinking(opened="<think>\n", strip=None)

TEMPLATES.add(
    chatml("chatml", auto_add_bos=True),
    chatml("qwen", HELPFUL),
    qwen("qwen2_5", "trl:qwen2_5.jinja", default_system=QWEN2_5),
    qwen("qwen3", "trl:qwen3.jinja", THINKS),
    qwen("qwen3-nothink", "trl:qwen3.jinja", THINKS_NOT, variables=NO_THINKING, differs={**NO_THOUGHT, **CALLED}),
    qwen("qwen3-instruct", "trl:qwen3_instruct_2507.jinja"),
    qwen("qwen3-thinking", "unverified", OPENED),
    qwen("qwen3_5", "trl:qwen3_5_think.jinja", OPENED_3_5, trim=ALL_ROLES, differs=OTHER_TOOLS),
    qwen(
        "qwen3_5-nothink",
        "trl:qwen3_5_nothink.jinja",
        THINKS_NOT,
        trim=ALL_ROLES,
        variables=NO_THINKING,
        differs={**NO_THOUGHT, **OTHER_TOOLS},
    ),
    qwen("qwen3_6", "trl:qwen3_6.jinja", OPENED_3_5, trim=ALL_ROLES, differs=OTHER_TOOLS),
    qwen("qwq", "unverified", default_system=QWQ),
    qwen("qwq-32b", "unverified", OPENED, differs=KEPT_THOUGHT),
    chatml("marco_o1", MARCO),
    chatml("yi"),
    chatml("yi1_5"),
    TemplateRecord(
        "yi-1.5",
        prefix=("{{SYSTEM}}",),
        prompt=("<|im_start|>user\n{{QUERY}}<|im_end|>\n<|im_start|>assistant\n",),
        chat_sep=("<|im_end|>\n",),
        suffix=("<|im_end|>",),
    ),
    chatml("yi-coder", HELPFUL),
    chatml("internlm2", INTERNLM, start="<s>", checked="https://github.com/InternLM/InternLM chat/chat_format.md"),
    chatml("internlm2_5", start=("bos_token_id",), checked="https://github.com/InternLM/InternLM chat/chat_format.md"),
    chatml("internlm3", start=("bos_token_id",)),
    chatml("smollm"),
    chatml("smollm2", SMOL, checked="https://huggingface.co/HuggingFaceTB/SmolLM2-360M-Instruct"),
    chatml("minicpm3"),
    chatml("lfm2", start=("bos_token_id",), checked="trl:lfm2.jinja", differs=OTHER_TOOLS),
    chatml("dbrx", DBRX),
    TemplateRecord(
        "internlm",
        prefix=("<s>",),
        system_prefix=("<s><|System|>:{{SYSTEM}}\n",),
        prompt=("<|User|>:{{QUERY}}\n<|Bot|>:",),
        chat_sep=("<eoa>\n",),
        suffix=("<eoa>",),
        default_system=INTERNLM,
    ),
)
