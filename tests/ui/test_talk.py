"""Conversations as values: what of them is kept, saved, opened and shown."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.errors import DataError
from swift.templates.calls import read_calls
from swift.ui.shown import messages_of, shown_reply
from swift.ui.talk import LONGEST_FILE, Facts, Reply, Round, Talk, read_talk, write_talk
from swift.ui.words import CHINESE, ENGLISH

FACTS = Facts(12, 34, 5.678, 9, "length", 1, 3)
CALLS = partial(read_calls, style="hermes", names=["weather"])
texts = st.text(max_size=20)
replies = st.builds(Reply, texts, texts, st.none() | st.just(FACTS))
rounds = st.builds(Round, texts, st.lists(replies, min_size=1, max_size=2).map(tuple), st.none() | st.just("weather"))


@given(st.lists(rounds, min_size=1, max_size=5).map(tuple), texts)
def test_what_is_saved_is_opened_again(turns: tuple[Round, ...], system: str) -> None:
    assert read_talk(write_talk(Talk(turns), system)) == (Talk(turns), system)


def test_what_is_saved_is_a_row_of_a_data_set() -> None:
    from swift.templates.conversation import read_messages

    talk = Talk(
        (Round("hi", (Reply("base", "hello"), Reply("poet", "o thou"))), Round("22", (Reply("base", "ok"),), "weather"))
    )
    saved = json.loads(write_talk(talk, "be kind"))
    messages = read_messages(saved)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert saved["messages"][2]["others"] == [{"content": "o thou", "model": "poet"}]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "not a list"),
        ("3", "not a list"),
        ('{"messages": [{"role": "user"}]}', "not a list"),
        ('{"messages": []}', "alternate"),
        ('[{"role": "user", "content": "a"}]', "alternate"),
        ('[{"role": "assistant", "content": "a"}, {"role": "user", "content": "a"}]', "alternate"),
        (" " * (LONGEST_FILE + 1), "more than"),
        (json.dumps([{"role": role, "content": ""} for role in ("user", "assistant")] * 2001), "rounds"),
    ],
)
def test_a_file_that_holds_no_conversation_is_told(text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        read_talk(text)


@pytest.mark.parametrize("facts", [3, {"new": 1}, {**FACTS.__dict__, "speed": "fast"}, {**FACTS.__dict__, "x": 1}])
def test_facts_that_are_none_are_left_out(facts: Any) -> None:
    row = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "model": 7, "facts": facts}]
    assert read_talk(json.dumps(row))[0].rounds[0].replies == (Reply("7", "b"),)


def test_facts_are_said_in_the_language() -> None:
    line = FACTS.line(ENGLISH)
    assert line.startswith("34 tokens · 5.7/s · 12 read · seed 9 · cut off")
    assert "first 1 of 3 rounds" in line
    assert "种子 9" in FACTS.line(CHINESE)


def test_turns_go_and_stay() -> None:
    talk = Talk(tuple(Round(str(k), (Reply("", "a"),)) for k in range(4)))
    assert [turn.asked for turn in talk.without(1).rounds] == ["0", "2", "3"]
    assert [turn.asked for turn in talk.until(2).rounds] == ["0", "1"]
    assert Round("q", (Reply("a", "1"),)).reply(1).text == "1"
    assert Round("q", (Reply("a", "1"), Reply("b", "2"))).reply(1).text == "2"


@pytest.mark.parametrize(
    ("text", "ended", "shown"),
    [
        ("plain", True, [("", "plain")]),
        ("", True, []),
        ("<think>\nhm\n</think>\n\nyes", True, [("Thoughts", "hm"), ("", "yes")]),
        ("<think>hm", False, [("Thinking …", "hm")]),
        ("<think>hm", True, [("Thoughts", "hm")]),
        ("<think>\n\n</think>\n\nyes", True, [("", "yes")]),
        ("hm</think>yes", True, [("Thoughts", "hm"), ("", "yes")]),
        ("<think>a</think>b<think>c</think>d", True, [("Thoughts", "a"), ("Thoughts", "c"), ("", "bd")]),
        (
            'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>',
            True,
            [("", "Let me see."), ("Calls weather", '```json\n{"city": "Rome"}\n```')],
        ),
        ('<tool_call>{"name": "other"}</tool_call>', True, [("", '<tool_call>{"name": "other"}</tool_call>')]),
    ],
)
def test_thoughts_and_calls_are_folded(text: str, ended: bool, shown: list[tuple[str, str]]) -> None:
    messages = shown_reply(text, ENGLISH, CALLS, ended=ended)
    assert [(message.get("metadata", {}).get("title", ""), message["content"]) for message in messages] == shown
    going = [message["metadata"]["status"] == "pending" for message in messages if "metadata" in message]
    assert any(going) == (not ended)


def test_every_message_knows_its_round() -> None:
    talk = Talk(
        (Round("q", (Reply("", "<think>t</think>a"),)), Round("22 °C", (Reply("", "b"),), "weather")), Round("now")
    )
    messages, numbers = messages_of(talk, 0, ENGLISH, CALLS)
    assert [message["role"] for message in messages] == ["user", "assistant", "assistant", "user", "assistant", "user"]
    assert numbers == [0, 0, 0, 1, 1, 2]
    assert messages[3]["metadata"]["title"] == "weather answers"
