"""Chat templates of several families, written for these tests, and tokenizers for them."""

from __future__ import annotations

from functools import cache

from swift.templates import TEMPLATES
from swift.templates.atoms import PLACE
from tests.tiny import tiny_tokenizer

QWEN2_5 = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{%- endif %}"
    "{%- for m in messages %}{%- if m.role == 'tool' %}"
    "{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{%- elif not (m.role == 'system' and loop.first) %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
QWEN3 = (
    "{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{%- endif %}{%- set ns = namespace(last=messages|length - 1) %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- if m.role in ('user', 'tool') or (m.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{%- elif m.role == 'assistant' %}{%- set content = m.content %}{%- set thought = '' %}"
    "{%- if '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# like Qwen 3, and the prompt for a reply opens its thought
QWEN3_6 = QWEN3.replace(
    "prompt %}{{- '<|im_start|>assistant\n' }}", "prompt %}{{- '<|im_start|>assistant\n<think>\n' }}"
).replace("(loop.last or thought)", "true")
LLAMA3 = (
    "{% for m in messages %}{% set c = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set c = bos_token + c %}{% endif %}{{ c }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set loop_messages = messages[1:] %}"
    "{%- else %}{%- set loop_messages = messages %}{%- endif %}{{- bos_token }}"
    "{%- for m in loop_messages %}{%- if m.role == 'user' %}{%- if loop.last and system is defined %}"
    "{{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}"
    "{%- endif %}{%- else %}{{- ' ' + m.content | trim + eos_token }}{%- endif %}{%- endfor %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GLM4 = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
WORDS = (
    "{% for m in messages %}{{ '### ' + m.role + ':\n' + m.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATS = {
    "qwen2.5": QWEN2_5,
    "qwen3": QWEN3,
    "qwen3.6": QWEN3_6,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "llama2": LLAMA2,
    "glm4": GLM4,
    "phi3": PHI3,
    "vicuna": VICUNA,
    "words": WORDS,
    "generation": GENERATION,
}
ENDS = {
    "qwen2.5": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "qwen3.6": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "mistral": "</s>",
    "llama2": " </s>",
    "glm4": "<|user|>",
    "phi3": "<|end|>",
    "vicuna": "</s>",
    "words": "</s>",
    "generation": "<|im_end|>",
}
MARKS = (
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "<|end_of_text|>"),
    *("<bos>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>"),
    *("<|end|>", "[gMASK]", "<sop>", "sop", "<eoa>", "<|User|>", "<|Bot|>", "<|System|>", "<|EOT|>", "[SEP]"),
    *(
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<_user>",
        "<_bot>",
        "<_end>",
    ),
    *("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    *("<|im_sep|>", "<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>", "<|start_of_role|>"),
    *("<|end_of_role|>", "<|header_start|>", "<|header_end|>", "<|eot|>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]"),
    *(
        "[/SYSTEM_PROMPT]",
        "<|SYSTEM_TOKEN|>",
        "<|role|>",
        "<|says|>",
        "<sep>",
        "<|role_start|>",
        "<|role_end|>",
        "<_start>",
    ),
)
THINK = ("<think>", "</think>")


@cache
def marked_tokenizer():
    """The tiny tokenizer with the marks of every family; `</s>` ends a sequence."""
    tokenizer = tiny_tokenizer(500, MARKS)
    tokenizer.eos_token = "</s>"
    tokenizer.add_tokens(list(THINK))
    return tokenizer


@cache
def bare_tokenizer():
    """The tiny tokenizer, which has the marks of ChatML alone."""
    return tiny_tokenizer()


@cache
def chat_tokenizer(name: str):
    """The tokenizer with one of `CHATS` as its chat template."""
    tokenizer = tiny_tokenizer(500, MARKS)
    tokenizer.eos_token = "</s>"
    tokenizer.add_tokens(list(THINK))
    tokenizer.chat_template = CHATS[name]
    return tokenizer


def talk(*contents: str, system: str | None = None) -> dict:
    """A row of messages from user and assistant in turn."""
    head = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return {"messages": [*head, *({"role": roles[k % 2], "content": c} for k, c in enumerate(contents))]}


def said(template, inputs: dict) -> list[list[int]]:
    """The stretches of labels that are supervised."""
    stretches: list[list[int]] = []
    open_ = False
    for label in inputs["labels"]:
        if label != -100:
            stretches = stretches if open_ else [*stretches, []]
            stretches[-1].append(label)
        open_ = label != -100
    return stretches


def as_said(name: str, text: str, last: bool) -> str:
    """What the model says for a reply without a thought, as row `name` writes it after its last question or before."""
    record = TEMPLATES[name]
    text = text.strip() if "assistant" in record.trim else text
    if record.thinking is None:
        return record.lead + text
    text = text.lstrip(record.thinking.answer) if last and record.thinking.keeps != "last" else text
    instead = record.thinking.missing if last else record.thinking.earlier
    return (record.lead + instead + text).removeprefix(record.thinking.opened)


ROUNDS_ONE = [name for name in TEMPLATES if TEMPLATES[name].chat_sep is None]
WITH_SYSTEM = [
    name
    for name in TEMPLATES
    if TEMPLATES[name].system_prefix is not None
    or any(
        "SYSTEM" in PLACE.findall(p) for p in (*TEMPLATES[name].prefix, *TEMPLATES[name].prompt) if isinstance(p, str)
    )
]
