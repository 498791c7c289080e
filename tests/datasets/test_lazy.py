from __future__ import annotations

import json
from typing import Any

import pytest
from torch.utils.data import DataLoader

from swift.datasets.encode import encode
from swift.datasets.lazy import LazyDataset
from swift.errors import DataError
from tests.datasets.fake import FakeTemplate
from tests.datasets.test_encode import opened, talk


def given(rows: LazyDataset) -> list[dict[str, Any]]:
    return [rows[k] for k in range(len(rows))]


def test_rows_are_those_that_are_encoded_before() -> None:
    again = talk(3)
    rows = [talk(1, "hello"), again, talk(2, "more", "text"), again]
    late, ledger = opened(rows), opened(rows)
    eager = encode(rows, FakeTemplate(), ledger)
    lazy = LazyDataset(rows, FakeTemplate(), late)
    assert given(lazy) == [eager[k] for k in range(4)]
    lazy.settle()
    assert late.to_json() == ledger.to_json()


def test_nothing_is_encoded_before_it_is_drawn() -> None:
    rows = [talk(k) for k in range(1, 9)]
    template = FakeTemplate()
    lazy = LazyDataset(rows, template, opened(rows))
    assert template.calls == 0
    assert lazy[5] == lazy[5]
    assert template.calls == 2
    lazy.settle()
    assert lazy.ledger.parts["train"].supervised == 2


def test_what_cannot_be_used_is_counted_and_the_next_takes_its_place() -> None:
    rows = [talk(1), talk(2, "q" * 50), talk(3, "!"), talk(4, "z"), talk(5, "q", "~")]
    ledger = opened(rows, max_bad_rows=1)
    lazy = LazyDataset(rows, FakeTemplate(max_length=20, refuses="!", silent="~"), ledger)
    found = given(lazy)
    assert found[1] == found[2] == found[3]
    assert found[4] == found[0]
    lazy.settle()
    assert ledger.dropped == {
        "longer than 20 tokens": ["x.jsonl:2"],
        "bad row": ["x.jsonl:3"],
        "no supervised token": ["x.jsonl:5"],
    }
    assert ledger.balanced
    assert ledger.trained == 2


def test_a_bad_row_beyond_those_allowed_has_a_name() -> None:
    rows = [talk(1), talk(2, "!")]
    lazy = LazyDataset(rows, FakeTemplate(refuses="!"), opened(rows))
    assert lazy[1] == lazy[0]
    with pytest.raises(DataError, match=r"x\.jsonl:2"):
        lazy.settle()


def test_no_row_at_all_is_refused() -> None:
    rows = [talk(1, "q" * 50), talk(2, "q" * 50)]
    lazy = LazyDataset(rows, FakeTemplate(max_length=20), opened(rows))
    with pytest.raises(DataError, match="no row is left to train on"):
        lazy[0]


def test_a_loader_with_processes_counts_all_the_same() -> None:
    rows = [talk(k, "q" * (30 if k == 4 else k)) for k in range(1, 9)]
    ledger, other = opened(rows), opened(rows)
    lazy = LazyDataset(rows, FakeTemplate(max_length=20, truncation_strategy="truncation_left"), ledger)
    loader = DataLoader(lazy, 2, num_workers=2, collate_fn=list, multiprocessing_context="fork")
    found = [row for batch in loader for row in batch]
    lazy.settle()
    eager = encode(rows, FakeTemplate(max_length=20, truncation_strategy="truncation_left"), other)
    assert found == [eager[k] for k in range(8)]
    assert json.dumps(ledger.to_json()) == json.dumps(other.to_json())
