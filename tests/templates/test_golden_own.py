"""Rows against their model's own chat templates, as trl and transformers ship them: token for token."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.templates import TEMPLATES
from swift.templates.check import cases, check, check_one
from swift.templates.encoding import Template
from swift.templates.template import get_template
from tests.templates.chats import WITH_SYSTEM, said, talk
from tests.templates.own import SHIPPED, own_ids, own_text, own_tokenizer

# The prompt opens a thought, so the last reply has one; the model's own template leaves it out of what is finished.
KEEP_LAST = {"deepseek-r1"}
# For models that do not think, checked with a template whose prompt opens a thought.
OPENED_PROMPT = {"deepseek2_5", "deepseek-v3"}
NOT_THOUGHT = [name for name in SHIPPED if (t := TEMPLATES[name].thinking) is None or t.keeps == "none"]
THINKING = [name for name in SHIPPED if name not in {*NOT_THOUGHT, *KEEP_LAST, "gpt-oss"}]
TODAY = re.compile(r"Current date: [0-9-]{10}")
TURNS = (
    ("Hello?", "Hi."),
    ("1+1?", "Two.", "And 2+2?", "Four."),
    ("你是谁？", "一个模型。🙂", "naïve\n\ncode:\n\tx = 1", "```\nprint(1)\n```", "c", "d", "e", "f"),
    ("  outer ", " space  ", "\nthere \n", "\n\nand here\n"),
    ("", "An answer to nothing."),
    ("{{ messages }} {% raw %}", "{{QUERY}} {{SYSTEM}}"),
)
THOUGHT = "<think>\nOne and one.\n\nSo two.\n</think>\n\nIt is two."


def systems(name: str) -> list[str | None]:
    """What to try as a system text: the gemma of before refuses any."""
    return [None] if name == "gemma" else [None, "Be short.", "你好。\n- a\n- b"]


def template_of(name: str) -> Template:
    return get_template(name, own_tokenizer(name))


def ours(name: str, messages: list[dict]) -> tuple[str, list[int]]:
    template = template_of(name)
    ids = template.encode({"messages": messages})[0]["input_ids"]
    return template.tokenizer.decode(ids), ids


def theirs(name: str, messages: list[dict], prompt: bool = False) -> str:
    return TODAY.sub("Current date: 2024-07-26", own_text(name, messages, prompt))


def parted_alike(name: str, messages: list[dict]) -> bool:
    """Whether the tokens of the prompt are those with which the conversation begins, which is for us always so."""
    prompt, whole = own_ids(name, messages[:-1], True), own_ids(name, messages)
    earlier = [m["content"] for m in messages[:-1] if m["role"] == "assistant"]
    return whole[: len(prompt)] == prompt and all(text == text.lstrip() for text in earlier)


def check_conversation(name: str, messages: list[dict]) -> None:
    (text, ids), own = ours(name, messages), theirs(name, messages)
    if name.startswith("glm"):
        text, ids = text.removesuffix("<|user|>"), ids[:-1]
    assert own.startswith(text), (text, own)
    assert own[len(text) :] in ("", "\n", f"\n{own_tokenizer(name).eos_token}")
    if name != "gpt-oss" and parted_alike(name, messages):
        assert own_ids(name, messages)[: len(ids)] == ids


def check_prompt(name: str, messages: list[dict]) -> None:
    (text, ids), own = ours(name, messages), theirs(name, messages, True)
    if name in OPENED_PROMPT:
        assert own == text + "<think>\n"
        return
    assert text == own
    earlier = [m["content"] for m in messages if m["role"] == "assistant"]
    if name != "gpt-oss" and all(content == content.lstrip() for content in earlier):
        assert ids == own_ids(name, messages, True)


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_is_unlike_the_models_own_without_a_reason(name):
    """Tools, typed special tokens, empty system texts: what `swift template check` says of the row."""
    bad = [f"{found.case}: {found.status} {found.faults}" for found in check(template_of(name)) if not found.good]
    assert bad == []


@pytest.mark.parametrize("name", [name for name in SHIPPED if TEMPLATES[name].differs])
def test_no_difference_is_named_that_is_none(name):
    template, named = template_of(name), TEMPLATES[name].differs
    found = [check_one(template, case, known=False) for case in cases(template.tokenizer) if case.name in named]
    assert [finding.case for finding in found if finding.status == "equal"] == []


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3-instruct", "llama3_1", "llama3_2"])
def test_tools_are_written_as_the_models_own(name):
    template = template_of(name)
    found = [check_one(template, case, known=False) for case in cases(template.tokenizer) if case.row.get("tools")]
    assert [finding.status for finding in found if not finding.why or "single tool-calls" not in finding.why] == [
        "equal"
    ] * (4 if name.startswith("llama") else 5)


def test_what_is_shipped_is_used():
    """A file that has gone would leave nothing to compare with."""
    assert len(SHIPPED) >= 20
    assert len(THINKING) >= 4


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in KEEP_LAST])
def test_a_conversation_is_the_models_own(name, turns):
    for system in systems(name):
        check_conversation(name, talk(*turns, system=system)["messages"])


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("name", SHIPPED)
def test_a_prompt_is_the_models_own(name, turns):
    for system in systems(name):
        check_prompt(name, talk(*turns, "Then?", system=system)["messages"])


@pytest.mark.parametrize("name", THINKING)
def test_thoughts_are_written_as_the_models_own(name):
    for turns in (("Q", THOUGHT), ("Q", THOUGHT, "R", "Plain."), ("Q", "Plain.", "R", THOUGHT), ("Q", THOUGHT) * 3):
        check_conversation(name, talk(*turns)["messages"])
        check_prompt(name, talk(*turns, "S")["messages"])


@pytest.mark.parametrize("name", sorted(KEEP_LAST | {"deepseek2_5", "deepseek-v3"}))
def test_thoughts_of_earlier_replies_of_deepseek(name):
    if name in KEEP_LAST:
        check_prompt(name, talk("Q", THOUGHT, "R", "Plain.", "S")["messages"])
    template = get_template("deepseek-r1", own_tokenizer(name))
    inputs, _ = template.encode(talk("Q", THOUGHT, "R", THOUGHT))
    end = template.end_text
    spoken = [template.tokenizer.decode(ids) for ids in said(template, inputs)]
    assert spoken == ["\n\nIt is two." + end, THOUGHT.removeprefix("<think>\n") + end]


def test_the_thought_of_harmony_is_its_analysis():
    messages = talk("Q", "Before.", "R", "<think>\nHm.\n</think>\n\nSo.")["messages"]
    field = [*messages[:-1], {"role": "assistant", "content": "So.", "thinking": "Hm."}]
    assert ours("gpt-oss", messages)[0] == theirs("gpt-oss", field)
    template = get_template("gpt-oss", own_tokenizer("gpt-oss"))
    spoken = [template.tokenizer.decode(ids) for ids in said(template, template.encode({"messages": messages})[0])]
    assert spoken == [
        "<|channel|>final<|message|>Before.<|return|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>So.<|return|>",
    ]


WORDS = st.sampled_from([*"ab \n.é你🙂<>|{}", "</", "[INST", "think", "\t", "  "])
TEXT = st.lists(WORDS, max_size=8).map("".join)


@given(turns=st.lists(TEXT, min_size=2, max_size=8), system=TEXT, name=st.sampled_from(SHIPPED))
@settings(max_examples=200, deadline=None)
def test_any_conversation_is_the_models_own(turns, system, name):
    system = system if system.strip() and name in WITH_SYSTEM and name != "gemma" else None
    if name.startswith("glm"):  # an empty reply is not followed by a newline there
        turns = [text if text.strip() else "x" for text in turns]
    messages = talk(*turns[: 2 * (len(turns) // 2)], system=system)["messages"]
    check_prompt(name, messages[:-1])
    if name not in KEEP_LAST:
        check_conversation(name, messages)
