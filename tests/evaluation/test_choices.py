"""Rows of choices, in the shapes in which data sets have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift.datasets.load import load_datasets
from swift.errors import DataError


def load(path: Path, rows) -> list[dict]:
    if path.suffix == ".csv":
        path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_datasets([str(path)], test_ratio=0.0).train


FOUR = ["one", "two", "three", "four"]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "?", "choices": FOUR, "answer": 2},
        {"query": "?", "choices": FOUR, "answer": "C"},
        {"question": "?", "choices": FOUR, "response": "three"},
        {"prompt": "?", "choices": FOUR, "label": 2},
        {"question": "?", "choices": {"text": FOUR, "label": ["1", "2", "3", "4"]}, "answerKey": "3"},
        {"question": "?", "choices": {"text": FOUR, "label": list("ABCD")}, "answerKey": "C"},
        {"question": "?", "A": "one", "B": "two", "C": "three", "D": "four", "answer": "C"},
    ],
)
def test_every_shape_is_the_same_conversation(row, tmp_path: Path) -> None:
    (found,) = load(tmp_path / "rows.jsonl", [row])
    assert found["messages"] == [{"role": "user", "content": "?"}, {"role": "assistant", "content": "three"}]
    assert found["choices"] == FOUR
    assert "label" not in found


def test_a_table_of_letters_as_ceval_has_it(tmp_path: Path) -> None:
    head = ["id", "question", "A", "B", "C", "D", "answer", "explanation"]
    (found,) = load(tmp_path / "val.csv", [head, ["0", "?", *FOUR, "D", "because"]])
    assert (found["messages"][-1]["content"], found["choices"]) == ("four", FOUR)


def test_letters_are_those_of_their_columns_and_blanks_do_not_count(tmp_path: Path) -> None:
    gap = {"question": "?", "A": "one", "B": "two", "C": None, "D": "four"}
    rows = [
        {**gap, "answer": "D"},
        {**gap, "answer": 3},
        {"question": "?", "choices": [" no", " yes"], "answer": " yes"},
    ]
    found = [load(tmp_path / "rows.jsonl", [row])[0]["messages"][-1]["content"] for row in rows]
    assert found == ["four", "four", " yes"]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"A": "one", "B": "two", "D": "four", "answer": "C"}, "is 'C': neither"),
        ({"A": "one", "B": "two", "D": "four", "answer": 2}, "is 2: neither"),
        ({"choices": FOUR, "answer": 4}, '"answer" is 4: neither'),
        ({"choices": FOUR, "answer": -1}, "is -1: neither"),
        ({"choices": FOUR, "answer": "E"}, "is 'E': neither"),
        ({"choices": ["one"], "answer": 0}, '"choices" has 1 different choices'),
        ({"choices": ["one", "one"], "answer": 0}, "has 1 different"),
        ({"choices": ["one", ""], "answer": 0}, r'"choices\[1\]" is empty'),
        ({"choices": ["one", 2], "answer": 0}, r'"choices\[1\]" is a number'),
        ({"choices": 3, "answer": 0}, "not a list of texts"),
    ],
)
def test_what_is_wrong_is_named(row, match, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=match) as caught:
        load(tmp_path / "rows.jsonl", [{"question": "?", **row}])
    assert "rows.jsonl:1" in caught.value.what
