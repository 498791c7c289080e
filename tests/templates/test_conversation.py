"""Rows in both shapes, and what is wrong with bad ones."""

from __future__ import annotations

import pytest

from swift.errors import DataError
from swift.templates.conversation import read_messages
from swift.templates.template import get_template
from tests.templates.chats import bare_tokenizer, talk


def roles(row: dict) -> list[tuple[str, str]]:
    return [(message["role"][0], message["content"]) for message in read_messages(row)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"query": "Q"}, [("u", "Q")]),
        ({"query": None}, [("u", "")]),
        ({"query": "Q", "response": "A"}, [("u", "Q"), ("a", "A")]),
        ({"query": "Q", "response": ""}, [("u", "Q"), ("a", "")]),
        ({"query": "", "response": "A"}, [("a", "A")]),
        ({"query": "", "response": ""}, [("u", "")]),
        ({"query": "Q", "history": None, "system": ""}, [("s", ""), ("u", "Q")]),
        (
            {"query": "3", "history": [["1", "2"], ["", ""], [None, "x"]]},
            [("u", "1"), ("a", "2"), ("a", "x"), ("u", "3")],
        ),
        (talk("1", "2", system="S"), [("s", "S"), ("u", "1"), ("a", "2")]),
    ],
)
def test_rows(row, expected):
    assert roles(row) == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "is empty"),
        ({"messages": "hello"}, r"messages\[0\] has no role"),
        ({"messages": [{"role": "bot", "content": "x"}]}, r"messages\[0\] has no role"),
        ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\] has no text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "has no text"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "x"}]}, "only come first"),
        ({"messages": [{"role": "user", "content": "a\ud800b"}]}, "surrogate"),
        ({"query": "Q", "history": [["1", None]]}, "has no text"),
    ],
)
def test_bad_rows(row, message):
    with pytest.raises(DataError, match=message):
        read_messages(row)


def test_bad_rows_of_a_batch_are_counted_apart():
    template = get_template("qwen", bare_tokenizer(), max_length=60)
    rows = [
        talk("1", "2"),
        {"messages": []},
        talk("x" * 500, "y"),
        talk("1", "2", "3"),
        {"messages": [{"role": "tool"}]},
    ]
    errors: list[tuple[int, DataError]] = []
    encoded = template.encode_batch(rows, errors)
    assert [k for k, _ in errors] == [1, 4]
    assert [bool(inputs) for inputs in encoded] == [True, False, False, True, False]
    assert encoded[0] == template.encode(rows[0])[0]
    with pytest.raises(DataError, match="is empty"):
        template.encode_batch(rows)


def test_an_example_shows_the_mask():
    template = get_template("qwen", bare_tokenizer(), "")
    shown = template.show(template.encode(talk("Q", "A"))[0])
    assert shown.startswith(
        "[INPUT] <|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n[LABELS] [-100 * "
    )
    assert shown.endswith("]A<|im_end|>")
    assert "[LABELS]" not in template.show(template.encode({"query": "Q"})[0])
