"""ChatML and the models that use it: Qwen, Yi, InternLM2, DBRX."""

from __future__ import annotations

from swift.templates import TEMPLATES, TemplateRecord

HELPFUL = "You are a helpful assistant."
QWEN2_5 = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
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


def chatml(name: str, default_system: str | None = None, start: str = "", auto_add_bos: bool = False) -> TemplateRecord:
    """A ChatML row; `start` stands before everything."""
    return TemplateRecord(
        name,
        prefix=(start,) if start else (),
        system_prefix=(start + "<|im_start|>system\n{{SYSTEM}}<|im_end|>\n",),
        prompt=("<|im_start|>user\n{{QUERY}}<|im_end|>\n<|im_start|>assistant\n",),
        chat_sep=("<|im_end|>\n",),
        suffix=("<|im_end|>",),
        default_system=default_system,
        auto_add_bos=auto_add_bos,
    )


TEMPLATES.add(
    chatml("chatml", auto_add_bos=True),
    chatml("qwen", HELPFUL),
    chatml("qwen2_5", QWEN2_5),
    chatml("yi"),
    chatml("yi1_5"),
    chatml("yi-coder", HELPFUL),
    chatml("internlm2", INTERNLM, start="<s>"),
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
