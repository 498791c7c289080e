"""Rows that are encoded while others are read come out as those that are read first, with the same account."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.arguments.sft import SftArguments
from swift.commands import rows as rows_of_run
from swift.commands.rows import encode_rows
from swift.datasets import ahead
from swift.datasets.ahead import Ahead
from swift.datasets.blocks import InMemory
from swift.datasets.digest import digest_of_rows
from swift.datasets.encode import EncodedDataset, encode, settle
from swift.datasets.load import load_datasets
from swift.errors import DataError
from swift.templates.template import get_template
from tests.datasets.fake import FakeTemplate
from tests.datasets.test_encode import opened, talk

TEXTS = st.text("a~!x", max_size=12)


@pytest.mark.parametrize("processes", [1, 2])
@given(st.lists(st.tuples(TEXTS, TEXTS, st.booleans()), min_size=1, max_size=30), st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_same_rows_with_the_same_account(processes: int, texts: list[tuple[str, str, bool]], cut: bool) -> None:
    rows: list[Any] = [talk(k, query, answer) for k, (query, answer, _) in enumerate(texts, 1)]
    again = [k for k, (*_, twice) in enumerate(texts) if twice]

    def drawn(held: list[Any]) -> list[Any]:
        return [*held, *(held[k] for k in again)]

    def template() -> FakeTemplate:
        return FakeTemplate(18, "truncation_left" if cut else "delete", "!", "~")

    def outcome(ledger: Any, done: Any) -> Any:
        try:
            found = done()
        except DataError as error:
            return error.what, ledger.to_json()
        return [found[k] for k in range(len(found))], digest_of_rows(found), ledger.to_json()

    first = opened(drawn(rows), max_bad_rows=3)
    expected = outcome(first, lambda: encode(drawn(rows), template(), first, batch_size=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead, "BATCH", 3)
        patch.setattr(ahead, "CHARACTERS", 40)
        with Ahead(template(), InMemory(), processes) as early:
            held = drawn([early.take(row) for row in rows])
    second = opened(held, max_bad_rows=3)
    assert outcome(second, lambda: settle(held, early.judged, second)) == expected


def write(path: Path, count: int, bad: int = 0) -> str:
    with path.open("w", encoding="utf-8") as file:
        for k in range(count):
            messages = [{"role": "user", "content": f"q{k}"}, {"role": "assistant", "content": "a" * (1 + k % 9)}]
            file.write(json.dumps({"messages": messages} if k != bad - 1 else {"messages": 3}) + "\n")
    return str(path)


@pytest.mark.parametrize("options", [{}, {"dataset_test_ratio": 0.2}, {"val_dataset": True}, {"max_length": 28}])
def test_a_run_has_the_same_rows_either_way(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(ahead, "BATCH", 4)
    one, two = write(tmp_path / "a.jsonl", 30, bad=7), write(tmp_path / "b.jsonl", 12)
    said = {"dataset": [one, two], "max_bad_rows": 1, "dataset_test_ratio": 0.0, "preprocess_num_proc": 2} | options
    if "val_dataset" in said:
        said["val_dataset"] = [write(tmp_path / "c.jsonl", 5)]
    template = get_template("chatml", tokenizer, "", said.get("max_length"))
    found = []
    for early in (True, False):
        monkeypatch.setattr(rows_of_run, "_takes_every_row", lambda args, early=early: early)
        data = encode_rows(SftArguments(**said), template)
        parts = [part for part in (data.train, data.val) if part is not None]
        found.append([[part[k] for k in range(len(part))] for part in parts if isinstance(part, EncodedDataset)])
        found.append([digest_of_rows(part) for part in parts])
        found.append(data.ledger.to_json())
    assert found[:3] == found[3:]
    assert len(found[0]) == 1 + ("val_dataset" in said or said["dataset_test_ratio"] > 0)


def test_a_data_set_that_cannot_be_read_is_told_before_another_is_encoded(tmp_path: Path) -> None:
    good, other = write(tmp_path / "a.jsonl", 5000), tmp_path / "b.jsonl"
    other.write_text('{"colour": "red"}\n')
    held: list[Any] = []
    with pytest.raises(DataError, match="colour fit no known format"):
        load_datasets([good, str(other)], hold=lambda row: held.append(row) or row)
    assert held == []


def test_nothing_is_encoded_once_there_are_too_many_bad_rows(tmp_path: Path) -> None:
    held: list[Any] = []
    with pytest.raises(DataError, match=r'a\.jsonl:7: "messages"'):
        load_datasets([write(tmp_path / "a.jsonl", 500, bad=7)], hold=lambda row: held.append(row) or row)
    assert len(held) == 6


@pytest.mark.parametrize(
    ("options", "early"),
    [
        ({"dataset": ["a.jsonl"]}, True),
        ({"dataset": ["a.jsonl#5"]}, False),
        ({"dataset": ["a.jsonl@0.5", "b.jsonl"]}, False),
        ({"dataset": ["a.jsonl@0.5"]}, False),
        ({"dataset": ["a.jsonl"], "val_dataset": ["b.jsonl#2"]}, False),
        ({"dataset": ["a.jsonl", "b.jsonl"], "interleave": True}, False),
        ({"dataset": ["a.jsonl"], "preprocess_num_proc": 2}, True),
        ({"dataset": ["a.jsonl"], "train_dataset_mix_ds": ["b.jsonl"], "train_dataset_mix_ratio": 0.5}, False),
    ],
)
def test_what_may_be_left_out_is_not_encoded_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], early: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write(tmp_path / f"{name}.jsonl", 3)
    assert rows_of_run._takes_every_row(SftArguments(**options)) == early


@pytest.mark.parametrize("processes", [1, 2])
def test_a_failure_of_a_template_ends_the_reading(processes: int) -> None:
    class Broken(FakeTemplate):
        def encode_batch(self, rows: Any, errors: Any) -> list[dict[str, Any]]:
            raise DataError("DATA-06", "the chat template takes too long")

    early = Ahead(Broken(), InMemory(), processes)

    def read() -> None:
        with early:
            for k in range(100_000):
                early.take(talk(k))

    with pytest.raises(DataError, match="takes too long"):
        read()
    assert early.judged.fates == []
