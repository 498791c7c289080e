from __future__ import annotations

import json
from pathlib import Path

import pytest

import swift.datasets
from swift.datasets import DATASETS, DatasetName, DatasetRecord, find_by_hub_id
from swift.datasets.load import get_dataset
from swift.datasets.spec import HUB_ID
from swift.errors import UnknownNameError

RECORDS = DATASETS.values()


def test_names_are_attributes() -> None:
    assert DatasetName.blossom_math_zh == "blossom-math-zh"
    assert {"alpaca_en", "self_cognition", "ms_bench"} <= set(dir(DatasetName))
    with pytest.raises(UnknownNameError, match="alpaca-en"):
        DATASETS["alpaca-eng"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_every_row_says_where_its_data_is(record: DatasetRecord) -> None:
    assert record.path or record.ms or record.hf
    assert all(HUB_ID.fullmatch(hub_id) for hub_id in (record.ms, record.hf) if hub_id)
    assert record.split
    assert all(isinstance(part, str) and part for part in (*record.split, *record.subsets, *record.tags))
    for hub_id in filter(None, (record.ms, record.hf)):
        found = find_by_hub_id(hub_id.upper())
        assert found is not None
        assert hub_id in (found.ms, found.hf)


def test_an_unknown_id_is_no_row() -> None:
    assert find_by_hub_id("nobody/nothing") is None
    assert find_by_hub_id("") is None


def test_named_conversions() -> None:
    assert DATASETS["blossom-math-zh"].convert({"input": "1+1?", "output": "Add.", "answer": "2"}) == {  # type: ignore[misc]
        "query": "1+1?",
        "response": "Add.\n\nAnswer: 2",
    }
    strip = DATASETS["long-alpaca-12k"].convert
    assert strip({"instruction": "q", "output": "Answer: a Answer: b"}) == {  # type: ignore[misc]
        "query": "q",
        "response": "a Answer: b",
    }


def test_self_cognition_is_balanced_and_complete() -> None:
    lines = (Path(swift.datasets.__file__).parent / "self_cognition.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) >= 110
    chinese = [row for row in rows if row["tag"] == "zh"]
    assert abs(len(chinese) - len(rows) / 2) <= 5
    assert len({row["query"] for row in rows}) == len(rows)
    for row in rows:
        assert any("\u4e00" <= c <= "\u9fff" for c in row["response"]) == (row["tag"] == "zh")
        assert "{{NAME}}" in row["response"] or "{{AUTHOR}}" in row["response"]
    assert sum("{{AUTHOR}}" in row["response"] for row in rows) > 90


def test_self_cognition_speaks_the_language_of_its_row() -> None:
    train, val = get_dataset("self-cognition", model_name=["小红", "Ruby"], model_author=["红队", "Red Team"])
    assert val is None
    texts = ["\n".join(m["content"] for m in row["messages"]) for row in train or []]
    assert not [text for text in texts if "{{" in text]
    assert not [text for text in texts if ("小红" in text or "红队" in text) and ("Ruby" in text or "Red Team" in text)]
    assert sum("小红" in text for text in texts) > 40
    assert sum("Ruby" in text for text in texts) > 40
