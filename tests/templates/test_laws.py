"""What holds for every row of the registry and any text: random conversations, with marks of every family in them."""

from __future__ import annotations

import copy

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swift.templates import TEMPLATES
from swift.templates.encoding import Template
from swift.templates.template import get_template
from tests.templates.chats import (
    MARKS,
    ROUNDS_ONE,
    THINK,
    WITH_SYSTEM,
    as_said,
    bare_tokenizer,
    marked_tokenizer,
    said,
    talk,
)

NAMES = list(TEMPLATES)
THINKING = [name for name in NAMES if (t := TEMPLATES[name].thinking) is not None and t.keeps != "none"]
# the system text stands in the last question, so an earlier prompt has it elsewhere
LAST_SYSTEM = [name for name in NAMES if any("SYSTEM" in str(piece) for piece in TEMPLATES[name].prompt)]
WORDS = st.sampled_from(
    [
        *"ab \n.é你🙂<>|{}",
        *MARKS,
        *THINK[:1],
        "<|im_end|>",
        "<|im_start|>",
        "</s>",
        "<s>",
        "<|im_",
        "end|>",
        "{{QUERY}}",
    ]
)
TEXT = st.lists(WORDS, max_size=10).map("".join)
NAME = st.sampled_from(NAMES)
TURNS = st.lists(TEXT, min_size=2, max_size=8)
HARMLESS = "x"


def conversation(name: str, turns: list[str], system: str) -> list[dict]:
    """A finished conversation that row `name` takes."""
    turns = turns[: 2 if name in ROUNDS_ONE else 2 * (len(turns) // 2)]
    asked = [text or HARMLESS if k % 2 == 0 else text for k, text in enumerate(turns)]
    return talk(*asked, system=system if name in WITH_SYSTEM else None)["messages"]


def encoded(template: Template, messages: list[dict]) -> dict:
    return template.encode({"messages": messages})[0]


def spoken(template: Template, inputs: dict) -> list[str]:
    return [template.tokenizer.decode(ids) for ids in said(template, inputs)]


@given(name=NAME, turns=TURNS, system=TEXT, bare=st.booleans())
@settings(max_examples=300, deadline=None)
def test_what_is_supervised_is_the_replies_with_their_ends(name, turns, system, bare):
    template = get_template(name, bare_tokenizer() if bare else marked_tokenizer())
    messages = conversation(name, turns, system)
    inputs = encoded(template, messages)
    replies = [m["content"] for m in messages if m["role"] == "assistant"]
    expected = [as_said(name, text, k == len(replies) - 1) + template.end_text for k, text in enumerate(replies)]
    assert "".join(spoken(template, inputs)) == "".join(expected)
    pairs = list(zip(inputs["input_ids"], inputs["labels"], strict=True))
    assert {label for i, label in pairs if label not in (-100, i)} <= set(template.end_ids)


@given(name=NAME, turns=TURNS, system=TEXT)
@settings(max_examples=200, deadline=None)
def test_ends_are_as_many_as_replies(name, turns, system):
    assume(not TEMPLATES[name].generation)
    template = get_template(name, marked_tokenizer())
    messages = conversation(name, turns, system)
    replies = [m for m in messages if m["role"] == "assistant"]
    labels = encoded(template, messages)["labels"]
    assert labels.count(template.end_ids[-1]) == len(replies)


@given(name=NAME, turns=TURNS, system=TEXT, bare=st.booleans())
@settings(max_examples=200, deadline=None)
def test_nobody_who_asks_can_write_a_special_token(name, turns, system, bare):
    tokenizer = bare_tokenizer() if bare else marked_tokenizer()
    template = get_template(name, tokenizer)
    special = set(tokenizer.all_special_ids)
    messages = conversation(name, turns, "a" + system if system else "")
    harmless = [m if m["role"] == "assistant" else {**m, "content": m["content"] and HARMLESS} for m in messages]
    trimmed = [role for role in TEMPLATES[name].trim if role != "assistant"]
    assume(all(m["content"].strip() or not m["content"] for m in messages if m["role"] in trimmed))
    counts = [sum(i in special for i in encoded(template, talked)["input_ids"]) for talked in (messages, harmless)]
    assert counts[0] == counts[1]


@given(name=NAME, turns=TURNS, system=TEXT, bare=st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_prompt_is_how_its_conversation_begins(name, turns, system, bare):
    """Inference asks with the ids with which training begins, at every turn."""
    template = get_template(name, bare_tokenizer() if bare else marked_tokenizer())
    messages = conversation(name, turns, "" if name in LAST_SYSTEM else system)
    whole = encoded(template, messages)["input_ids"]
    for k, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = encoded(template, messages[:k])
        answered = encoded(template, messages[: k + 1])
        count = len(prompt["input_ids"])
        assert prompt["labels"] is None
        assert answered["input_ids"][:count] == prompt["input_ids"]
        assert set(answered["labels"][count - 1 : count]) <= {-100}
        assert answered["labels"][count] != -100
        if TEMPLATES[name].thinking is None:
            assert whole[:count] == prompt["input_ids"]


@given(
    name=st.sampled_from(THINKING),
    thoughts=st.lists(st.text("ab \n.é", min_size=1).filter(str.strip), min_size=1, max_size=3),
)
@settings(max_examples=200, deadline=None)
def test_only_the_last_thought_is_written_and_all_of_it_is_supervised(name, thoughts):
    template = get_template(name, marked_tokenizer())
    turns = [text for k, thought in enumerate(thoughts) for text in ("Q", f"<think>\n{thought}Z\n</think>\n\nA{k}")]
    inputs = encoded(template, talk(*turns)["messages"])
    *earlier, last = spoken(template, inputs)
    assert all(f"A{k}" in text and "Z" not in text for k, text in enumerate(earlier))
    assert f"{thoughts[-1]}Z".strip() in last
    assert last.endswith(f"A{len(thoughts) - 1}{template.end_text}")
    assert template.tokenizer.decode(inputs["input_ids"]).count("Z") == 1


@given(name=NAME, turns=TURNS, system=TEXT, length=st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_truncation_keeps_ids_and_labels_together(name, turns, system, length):
    messages = conversation(name, turns, system)
    whole = encoded(get_template(name, marked_tokenizer()), messages)
    left = encoded(get_template(name, marked_tokenizer(), None, length, "truncation_left"), messages)
    cut = max(0, len(whole["input_ids"]) - length)
    assert left == {key: value[-length:] for key, value in whole.items()} | ({"truncated": cut} if cut else {})
    short = encoded(get_template(name, marked_tokenizer(), None, length), messages)
    assert short == (whole if len(whole["input_ids"]) <= length else {})


@given(name=NAME, turns=st.lists(TURNS, min_size=1, max_size=3), system=TEXT)
@settings(max_examples=200, deadline=None)
def test_encode_is_pure_and_a_batch_is_its_rows(name, turns, system):
    template = get_template(name, marked_tokenizer())
    rows = [{"messages": conversation(name, part, system)} for part in turns]
    before = copy.deepcopy(rows)
    first = [template.encode(row)[0] for row in rows]
    assert template.encode_batch(rows[::-1]) == first[::-1]
    assert rows == before
    assert get_template(name, marked_tokenizer()).encode_batch(rows) == first
