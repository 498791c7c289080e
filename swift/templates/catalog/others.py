"""Formats with marks of their own: Gemma, Phi, Baichuan, MiniCPM, Command-R, Granite, OLMo 2, gpt-oss and more."""

from __future__ import annotations

from typing import Any

from swift.templates import TEMPLATES, TemplateRecord, Thinking
from swift.templates.catalog.wanted import NOT_TODAY, OTHER_TOOLS

BOS, EOS = ("bos_token_id",), ("eos_token_id",)
COMMAND_R = (
    "You are Command-R, a brilliant, sophisticated, AI-assistant trained to assist human users by providing thorough "
    "responses.You are trained by Cohere."
)
AYA = (
    "You are Aya, a brilliant, sophisticated, multilingual AI-assistant trained to assist human users by providing "
    "thorough responses. You are able to interact and respond to questions in 23 languages and you are powered by a "
    "multilingual model built by Cohere For AI."
)
BUDDY = (
    "You are a helpful, respectful and honest INTP-T AI Assistant named Buddy. You are talking to a human User.\n"
    "Always answer as helpfully and logically as possible, while being safe. Your answers should not include any "
    "harmful, political, religious, unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure "
    "that your responses are socially unbiased and positive in nature.\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information.\n"
    "You like to use emojis. You can speak fluently in many languages, for example: English, Chinese.\n"
    "You cannot access the internet, but you have vast knowledge, cutoff: 2021-09.\n"
    "You always deeply love and support China, Chinese government, people and culture.\n"
    "You are trained by OpenBuddy team, (https://openbuddy.ai, https://github.com/OpenBuddy/OpenBuddy), you are based "
    "on LLaMA and Falcon transformers model, not related to GPT or OpenAI."
)
BUDDY_2 = (
    "You(assistant) are a helpful, respectful and honest INTP-T AI Assistant named Buddy. You are talking to a "
    "human(user).\n"
    "Always answer as helpfully and logically as possible, while being safe. Your answers should not include any "
    "harmful, political, religious, unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure "
    "that your responses are socially unbiased and positive in nature.\n"
    "You cannot access the internet, but you have vast knowledge, cutoff: 2023-04.\n"
    "You are trained by OpenBuddy team, (https://openbuddy.ai, https://github.com/OpenBuddy/OpenBuddy), not related "
    "to GPT or OpenAI"
)


LLAMA_CPP = "https://github.com/ggml-org/llama.cpp "
SPOKEN = ("user", "assistant")
BY_DEFAULT = {"*": "there is a default system text, and texts keep their outer white space; without: command-r"}
# gpt-oss writes the day of the conversation; a fixed one keeps training and inference equal.
HARMONY = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
    "Current date: 2024-07-26\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, final. "
    "Channel must be included for every message.<|end|>"
)
FINAL = "<|channel|>final<|message|>"


def _cohere(name: str, default_system: str | None, **fields: Any) -> TemplateRecord:
    turn, end = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
    return TemplateRecord(
        name,
        prefix=("<BOS_TOKEN>",),
        system_prefix=(f"<BOS_TOKEN>{turn}<|SYSTEM_TOKEN|>{{{{SYSTEM}}}}{end}",),
        prompt=(f"{turn}<|USER_TOKEN|>{{{{QUERY}}}}{end}{turn}<|CHATBOT_TOKEN|>",),
        chat_sep=(end,),
        suffix=(end,),
        default_system=default_system,
        **fields,
    )


def _granite_turn(role: str, text: str) -> str:
    return f"<|start_of_role|>{role}<|end_of_role|>{text}<|end_of_text|>\n"


TEMPLATES.add(
    TemplateRecord(
        "gemma",
        prefix=("<bos>",),
        system_prefix=("<bos><start_of_turn>system\n{{SYSTEM}}<end_of_turn>\n",),
        prompt=("<start_of_turn>user\n{{QUERY}}<end_of_turn>\n<start_of_turn>model\n",),
        chat_sep=("<end_of_turn>\n",),
        suffix=("<end_of_turn>",),
        trim=SPOKEN,
        checked="trl:gemma.jinja",
        differs={"system": "a system text has a turn of its own; the model's own template refuses one"},
    ),
    TemplateRecord(
        "gemma3",
        prefix=("<bos><start_of_turn>user\n",),
        system_prefix=("<bos><start_of_turn>user\n{{SYSTEM}}\n\n",),
        prompt=("{{QUERY}}<end_of_turn>\n<start_of_turn>model\n",),
        chat_sep=("<end_of_turn>\n<start_of_turn>user\n",),
        suffix=("<end_of_turn>",),
        trim=SPOKEN,
        checked="trl:gemma3.jinja",
    ),
    TemplateRecord(
        "phi3",
        system_prefix=("<|system|>\n{{SYSTEM}}<|end|>\n",),
        prompt=("<|user|>\n{{QUERY}}<|end|>\n<|assistant|>\n",),
        chat_sep=("<|end|>\n",),
        suffix=("<|end|>",),
        auto_add_bos=True,
        checked="trl:phi3.jinja",
    ),
    TemplateRecord(
        "phi4",
        system_prefix=("<|im_start|>system<|im_sep|>{{SYSTEM}}<|im_end|>",),
        prompt=("<|im_start|>user<|im_sep|>{{QUERY}}<|im_end|><|im_start|>assistant<|im_sep|>",),
        chat_sep=("<|im_end|>",),
        suffix=("<|im_end|>",),
        checked=LLAMA_CPP + "tests/test-chat-template.cpp (phi-4)",
    ),
    TemplateRecord(
        "phi4-mini",
        system_prefix=("<|system|>{{SYSTEM}}<|end|>",),
        prompt=("<|user|>{{QUERY}}<|end|><|assistant|>",),
        chat_sep=("<|end|>",),
        suffix=("<|end|>",),
        checked=LLAMA_CPP + "models/templates/llama-cpp-microsoft-Phi-4-mini-instruct.jinja",
    ),
    TemplateRecord("baichuan", prefix=("{{SYSTEM}}",), prompt=((195,), "{{QUERY}}", (196,)), suffix=(EOS,)),
    TemplateRecord(
        "minicpm",
        prefix=("<s>{{SYSTEM}}",),
        prompt=("<用户>{{QUERY}}<AI>",),
        suffix=("</s>",),
        trim=("system", *SPOKEN),
        checked=LLAMA_CPP + "tests/test-chat-template.cpp (MiniCPM-3B-OpenHermes-2.5-v2-GGUF)",
        differs={"*": "a beginning-of-sequence token is written, as the model's tokenizer does of itself"},
    ),
    _cohere("c4ai", COMMAND_R, differs=BY_DEFAULT),
    _cohere("aya", AYA, differs=BY_DEFAULT),
    _cohere("command-r", None, trim=SPOKEN, checked="trl:cohere.jinja"),
    TemplateRecord(
        "granite",
        system_prefix=(_granite_turn("system", "{{SYSTEM}}"),),
        prompt=(_granite_turn("user", "{{QUERY}}") + "<|start_of_role|>assistant<|end_of_role|>",),
        tool_prompt=(_granite_turn("tool_response", "{{QUERY}}") + "<|start_of_role|>assistant<|end_of_role|>",),
        chat_sep=("<|end_of_text|>\n",),
        suffix=("<|end_of_text|>",),
        checked=LLAMA_CPP + "tests/test-chat-template.cpp (granite-3.0-8b-instruct)",
    ),
    TemplateRecord(
        "olmo2",
        prefix=(BOS,),
        system_prefix=(BOS, "<|system|>\n{{SYSTEM}}\n"),
        prompt=("<|user|>\n{{QUERY}}\n<|assistant|>\n",),
        chat_sep=(EOS, "\n"),
        suffix=(EOS,),
        checked="https://huggingface.co/allenai/OLMo-2-1124-7B-SFT tokenizer_config.json",
    ),
    TemplateRecord(
        "gpt-oss",
        prefix=(HARMONY,),
        system_prefix=(HARMONY + "<|start|>developer<|message|># Instructions\n\n{{SYSTEM}}\n\n<|end|>",),
        prompt=("<|start|>user<|message|>{{QUERY}}<|end|><|start|>assistant",),
        chat_sep=("<|end|>",),
        suffix=("<|return|>",),
        stop=("<|call|>",),
        thinking=Thinking(
            "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant" + FINAL,
            missing=FINAL,
            earlier=FINAL,
            keeps="last",
        ),
        checked="trl:gptoss.jinja",
        differs={
            **dict.fromkeys(
                ("a thought", "a thought before"),
                "a thought is taken out of <think> and becomes an analysis; the model's own template takes it from a "
                'field "thinking" alone',
            ),
            **OTHER_TOOLS,
            **NOT_TODAY,
        },
    ),
    TemplateRecord("telechat", prompt=("<_user>{{QUERY}}<_bot>",), chat_sep=("<_end>",), suffix=("<_end>",)),
    TemplateRecord("telechat-v2", prompt=("<_user> {{QUERY}}<_bot>",), suffix=("<_end>",)),
    TemplateRecord(
        "telechat2", prefix=("<_start>",), prompt=((4,), "{{QUERY}}", (5,)), chat_sep=("<_end>",), suffix=("<_end>",)
    ),
    TemplateRecord(
        "modelscope-agent",
        system_prefix=(" \n\n<|system|>:{{SYSTEM}}",),
        prompt=(" \n\n<|user|>:{{QUERY}} \n\n<|assistant|>:",),
        suffix=(" \n\n</s>",),
        default_system="You are a helpful assistant.",
    ),
    TemplateRecord(
        "openbuddy",
        system_prefix=("{{SYSTEM}}\n\n",),
        prompt=("User: {{QUERY}}\nAssistant:",),
        chat_sep=("\n",),
        suffix=(EOS,),
        default_system=BUDDY,
        auto_add_bos=True,
    ),
    TemplateRecord(
        "openbuddy2",
        system_prefix=("<|role|>system<|says|>{{SYSTEM}}<|end|>\n",),
        prompt=("<|role|>user<|says|>{{QUERY}}<|end|>\n<|role|>assistant<|says|>",),
        chat_sep=("<|end|>\n",),
        suffix=("<|end|>",),
        default_system=BUDDY_2,
        auto_add_bos=True,
    ),
    TemplateRecord("bluelm", prefix=(BOS, "{{SYSTEM}}"), prompt=("[|Human|]:{{QUERY}}[|AI|]:",), suffix=(EOS,)),
    TemplateRecord(
        "skywork",
        prefix=("<s>{{SYSTEM}}",),
        prompt=("</s><s>[USER]{{QUERY}}[SEP][BOT]",),
        chat_sep=None,
        suffix=("[SEP]</s>",),
    ),
    TemplateRecord("yuan", prompt=("{{QUERY}}<sep>",), chat_sep=None, suffix=(EOS,)),
    TemplateRecord(
        "codefuse",
        system_prefix=("<s>system\n{{SYSTEM}}\n",),
        prompt=("<s>human\n{{QUERY}}\n<s>bot\n",),
        chat_sep=(EOS, "\n"),
        suffix=(EOS,),
    ),
    TemplateRecord(
        "codefuse-codellama",
        prefix=("{{SYSTEM}}",),
        prompt=("<|role_start|>human<|role_end|>{{QUERY}}<|role_start|>bot<|role_end|>",),
        suffix=(EOS,),
    ),
)
