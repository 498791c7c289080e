"""ChatGLM 2, 3, GLM-4 and CodeGeeX4. Their role marks are tokens by name: early tokenizers do not read them in text."""

from __future__ import annotations

from swift.templates import TEMPLATES, TemplateRecord

CODEGEEX4 = (
    "你是一位智能编程助手，你叫CodeGeeX。你会为用户回答关于编程、代码、计算机方面的任何问题，"
    "并提供格式规范、可以执行、准确安全的代码，并在必要时提供详细的解释。"
)
START_2 = ("[gMASK]", "sop")
START_4 = ("[gMASK]", "<sop>")
USER, ASSISTANT, SYSTEM, OBSERVATION = ("<|user|>",), ("<|assistant|>",), ("<|system|>",), ("<|observation|>",)


def _glm4(name: str, end: str, default_system: str | None = None) -> TemplateRecord:
    return TemplateRecord(
        name,
        prefix=(START_4,),
        system_prefix=(START_4, SYSTEM, "\n{{SYSTEM}}"),
        prompt=(USER, "\n{{QUERY}}", ASSISTANT, "\n"),
        tool_prompt=(OBSERVATION, "\n{{QUERY}}", ASSISTANT, "\n"),
        suffix=((end,),),
        default_system=default_system,
        stop=("<|user|>", "<|observation|>"),
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
    ),
    _glm4("chatglm4", "<|user|>"),
    _glm4("codegeex4", "<|endoftext|>", CODEGEEX4),
)
