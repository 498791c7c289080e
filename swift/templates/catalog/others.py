"""Formats with marks of their own: Gemma, Phi-3, Baichuan, MiniCPM, Command-R, TeleChat and more."""

from __future__ import annotations

from swift.templates import TEMPLATES, TemplateRecord

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


def _cohere(name: str, default_system: str) -> TemplateRecord:
    turn, end = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
    return TemplateRecord(
        name,
        prefix=("<BOS_TOKEN>",),
        system_prefix=(f"<BOS_TOKEN>{turn}<|SYSTEM_TOKEN|>{{{{SYSTEM}}}}{end}",),
        prompt=(f"{turn}<|USER_TOKEN|>{{{{QUERY}}}}{end}{turn}<|CHATBOT_TOKEN|>",),
        chat_sep=(end,),
        suffix=(end,),
        default_system=default_system,
    )


TEMPLATES.add(
    TemplateRecord(
        "gemma",
        prefix=("<bos>",),
        system_prefix=("<bos><start_of_turn>system\n{{SYSTEM}}<end_of_turn>\n",),
        prompt=("<start_of_turn>user\n{{QUERY}}<end_of_turn>\n<start_of_turn>model\n",),
        chat_sep=("<end_of_turn>\n",),
        suffix=("<end_of_turn>",),
    ),
    TemplateRecord(
        "phi3",
        system_prefix=("<|system|>\n{{SYSTEM}}<|end|>\n",),
        prompt=("<|user|>\n{{QUERY}}<|end|>\n<|assistant|>\n",),
        chat_sep=("<|end|>\n",),
        suffix=("<|end|>",),
        auto_add_bos=True,
    ),
    TemplateRecord("baichuan", prefix=("{{SYSTEM}}",), prompt=((195,), "{{QUERY}}", (196,)), suffix=(EOS,)),
    TemplateRecord("minicpm", prefix=("<s>{{SYSTEM}}",), prompt=("<用户>{{QUERY}}<AI>",), suffix=("</s>",)),
    _cohere("c4ai", COMMAND_R),
    _cohere("aya", AYA),
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
