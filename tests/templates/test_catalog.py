"""What every row of the catalog says of itself, and the formats that a name alone does not show."""

from __future__ import annotations

import re

import pytest

from swift.templates import TEMPLATES, Thinking
from swift.templates.check import cases
from swift.templates.template import get_template
from swift.templates.tools import FORMATS
from tests.templates.chats import marked_tokenizer, said, talk
from tests.templates.golden import GOLDEN
from tests.templates.own import source

# the text templates of the two generations, whose names are kept
FIRST = """default default-generation default-generation-bos qwen chatml modelscope-agent yi yi1_5 baichuan chatglm2
chatglm-generation chatglm3 deepseek deepseek2 llama llama3 openbuddy openbuddy2 internlm internlm2 xverse yuan ziya
skywork bluelm codefuse-codellama codefuse deepseek-coder zephyr sus orion minicpm gemma phi3 telechat telechat-v2 dbrx
mengzi c4ai wizardlm2 wizardlm2-awq atom"""
SECOND = """qwen2_5 qwq marco_o1 yi-coder chatglm4 codegeex4 llama3_2 reflection longwriter-llama3 mistral-nemo
deepseek2_5 numina-math telechat2 aya"""
CURRENT = """qwen3 qwen3-nothink qwen3-instruct qwen3-thinking llama3_1 llama4 mistral-v3 mistral-v3-tekken mistral-v7
mistral-v7-tekken gemma3 phi4 phi4-mini deepseek-v2 deepseek-v3 deepseek-r1 deepseek-v3.1 glm4_5 internlm2_5 internlm3
yi-1.5 minicpm3 granite command-r olmo2 smollm2 gpt-oss"""
CHECKED = re.compile(
    r"unverified|trl:\w+\.jinja|transformers:[\w/]+\.py|https://(github\.com|huggingface\.co)/[\w./-]+.*"
)


@pytest.mark.parametrize("names", [FIRST, SECOND, CURRENT])
def test_no_format_is_left_out(names):
    assert [name for name in names.split() if name not in TEMPLATES] == []


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_a_row_says_what_it_was_compared_with(name):
    record = TEMPLATES[name]
    assert CHECKED.fullmatch(record.checked)
    if record.checked.startswith(("trl:", "transformers:")):
        assert "{%" in source(record.checked)


def test_a_row_that_was_not_compared_cannot_look_as_if():
    """What is marked is as much a promise as what is not."""
    unverified = [name for name in TEMPLATES if TEMPLATES[name].checked == "unverified"]
    assert {"qwen2_5", "qwen3", "llama3", "gemma3", "deepseek-r1", "gpt-oss", "phi3", "granite"}.isdisjoint(unverified)
    assert {"internlm3", "minicpm3", "yi-1.5", "telechat2"} <= set(unverified)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if TEMPLATES[name].differs])
def test_a_known_difference_is_of_a_conversation_that_is_checked(name):
    known = {case.name for case in cases(marked_tokenizer())} | {"*"}
    assert set(TEMPLATES[name].differs) <= known
    assert all(len(reason) > 20 for reason in TEMPLATES[name].differs.values())


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_a_row_names_what_exists(name):
    record = TEMPLATES[name]
    assert record.tools in FORMATS
    assert set(record.trim) <= {"system", "user", "assistant", "tool"}
    assert record.thinking is None or record.thinking.keeps in ("current", "last", "none")


def test_golden_texts_are_those_of_rows():
    assert set(GOLDEN) <= set(TEMPLATES)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("chatml-v1", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nQ"),
        ("chatml", "<|im_start|>user\nQ"),
        ("phi3-v1", "<s><|system|>\nYou are a helpful digital assistant."),
        ("smollm2", "<|im_start|>system\nYou are a helpful AI assistant named SmolLM"),
        ("qwq", "<|im_start|>system\nYou are a helpful and harmless assistant."),
        ("command-r", "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Q"),
        ("internlm2_5", "<s><|im_start|>user\nQ"),
        ("llama2", "<s>[INST] Q [/INST]"),
        ("mistral-v7-tekken", "<s>[INST]Q[/INST]"),
        ("deepseek-v3.1-think", "<｜begin▁of▁sentence｜><｜User｜>Q<｜Assistant｜><think>"),
    ],
)
def test_without_a_system_text(name, first):
    prompt, _ = get_template(name, marked_tokenizer()).encode({"query": "Q"})
    assert marked_tokenizer().decode(prompt["input_ids"]).startswith(first)


THOUGHT = "<think>\nHm.\n</think>\n\nYes."


@pytest.mark.parametrize(
    ("name", "shown", "spoken"),
    [
        ("qwen3", "<|im_start|>assistant\n", "<think>\nHm.\n</think>\n\nYes.<|im_end|>"),
        ("qwen3-nothink", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "Yes.<|im_end|>"),
        ("qwen3-thinking", "<|im_start|>assistant\n<think>\n", "Hm.\n</think>\n\nYes.<|im_end|>"),
        ("qwen3-instruct", "<|im_start|>assistant\n", THOUGHT + "<|im_end|>"),
        ("deepseek-r1", "<｜Assistant｜><think>\n", "Hm.\n</think>\n\nYes.<｜end▁of▁sentence｜>"),
        ("deepseek-v3.1", "<｜Assistant｜></think>", "\n\nYes.<｜end▁of▁sentence｜>"),
        ("deepseek-v3.1-think", "<｜Assistant｜><think>", "\nHm.\n</think>\n\nYes.<｜end▁of▁sentence｜>"),
        ("glm4_5", "<|assistant|>", "\n<think>Hm.</think>\nYes.<|user|>"),
        ("glm4_5-nothink", "/nothink<|assistant|>\n<think></think>", "\nYes.<|user|>"),
    ],
)
def test_what_is_shown_and_said_of_a_thought(name, shown, spoken):
    template = get_template(name, marked_tokenizer())
    inputs, _ = template.encode(talk("Q", THOUGHT))
    prompt, _ = template.encode({"query": "Q"})
    assert template.tokenizer.decode(prompt["input_ids"]).endswith(shown)
    assert [template.tokenizer.decode(ids) for ids in said(template, inputs)] == [spoken]


def test_a_thought_that_is_not_as_the_prompt_opens_it():
    template = get_template("deepseek-r1", marked_tokenizer())
    inputs, _ = template.encode(talk("Q", "<think>Hm.</think>Yes."))
    assert [template.tokenizer.decode(ids) for ids in said(template, inputs)] == [
        "Hm.</think>Yes.<｜end▁of▁sentence｜>"
    ]
    assert "<｜Assistant｜><think>\nHm." in template.tokenizer.decode(inputs["input_ids"])


def test_thoughts_between_the_answers_of_tools_are_kept():
    row = talk("Q", "<think>\nA.\n</think>\n\ncall", "T", THOUGHT)
    row["messages"][2]["role"] = "tool"
    template = get_template("qwen3", marked_tokenizer())
    spoken = [template.tokenizer.decode(ids) for ids in said(template, template.encode(row)[0])]
    assert spoken == ["<think>\nA.\n</think>\n\ncall<|im_end|>", THOUGHT + "<|im_end|>"]
    row["messages"][1]["content"] = "call"
    spoken = [template.tokenizer.decode(ids) for ids in said(template, template.encode(row)[0])]
    assert spoken[0] == "call<|im_end|>"


def test_an_answer_comes_back_without_what_the_template_writes():
    for name in ("qwen3", "glm4_5", "gpt-oss", "mistral-v3", "deepseek-v2"):
        template = get_template(name, marked_tokenizer())
        ids = said(template, template.encode(talk("Q", "Yes."))[0])[0]
        assert template.generate_ids_to_response(ids) == "Yes."


def test_a_thought_has_its_defaults_from_qwen3():
    assert TEMPLATES["qwen3"].thinking == Thinking()
