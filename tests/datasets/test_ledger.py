from __future__ import annotations

import json

import pytest

from swift.datasets.ledger import BAD, Ledger
from swift.errors import DataError


def bad(line: int) -> tuple[str, DataError]:
    return f"a.jsonl:{line}", DataError("DATA-02", f"a.jsonl:{line}: broken", fix="mend it")


def test_every_row_has_a_place() -> None:
    ledger = Ledger(max_bad_rows=1)
    ledger.read("a.jsonl", 6, "messages")
    assert not ledger.balanced
    ledger.reject(*bad(3))
    ledger.drop("not sampled", "a.jsonl:4")
    rows = [{"where": f"a.jsonl:{line}"} for line in (1, 2, 5)]
    ledger.use("train", [*rows, rows[0]])
    ledger.use("validation", [{"where": "a.jsonl:6"}])
    assert ledger.balanced
    assert ledger.trained == 3
    ledger.withdraw("train", "longer than 9 tokens", "a.jsonl:1", 2)
    assert ledger.balanced
    assert ledger.summary() == (
        "rows: 6 read = 2 trained + 1 validation + 1 bad row + 1 not sampled + 1 longer than 9 tokens"
    )
    assert json.loads(json.dumps(ledger.to_json())) == {
        "rows_read": 6,
        "train": {"rows": 2, "examples": 2},
        "validation": {"rows": 1, "examples": 1},
        "dropped": {
            "bad row": {"rows": 1, "lines": {"a.jsonl": [3]}},
            "not sampled": {"rows": 1, "lines": {"a.jsonl": [4]}},
            "longer than 9 tokens": {"rows": 1, "lines": {"a.jsonl": [1]}},
        },
        "cut": {},
        "bad_rows": ["a.jsonl:3: broken"],
        "datasets": [{"dataset": "a.jsonl", "format": "messages", "rows": 6}],
    }


def test_rows_drawn_again_are_told() -> None:
    ledger = Ledger()
    ledger.read("a", 1)
    row = {"where": "a.json:1 (row 2)"}
    ledger.use("train", [row] * 1001)
    assert ledger.summary() == "rows: 1 read = 1 trained + 0 validation (1,000 drawn again)"


def test_one_bad_row_is_its_own_error() -> None:
    ledger = Ledger()
    ledger.reject(*bad(418))
    with pytest.raises(DataError) as caught:
        ledger.check_bad_rows()
    assert str(caught.value) == "error[DATA-02]: a.jsonl:418: broken\n  fix: mend it"
    ledger.bad_rows[0].fix = None
    with pytest.raises(DataError, match="correct it, or drop it: --max_bad_rows 1"):
        ledger.check_bad_rows()


def test_the_first_five_bad_rows_are_listed() -> None:
    ledger = Ledger(max_bad_rows=6)
    ledger.read("a.jsonl", 50)
    for line in range(1, 8):
        ledger.reject(*bad(line))
    with pytest.raises(DataError) as caught:
        ledger.check_bad_rows()
    assert "7 of 50 rows" in caught.value.what
    assert caught.value.what.count("broken") == 5
    assert "--max_bad_rows 7" in (caught.value.fix or "")


def test_allowed_and_excused_bad_rows_are_told(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(max_bad_rows=1)
    ledger.check_bad_rows()
    assert not caplog.records
    ledger.reject(*bad(1))
    for line in range(2, 9):
        ledger.reject(*bad(line), excused=True)
    ledger.check_bad_rows()
    ledger.check_bad_rows()
    assert caplog.text.count("dropped 8 bad rows") == 1
    assert len(ledger.dropped[BAD]) == 8
    ledger.reject(*bad(9))
    with pytest.raises(DataError, match="--max_bad_rows 2") as caught:
        ledger.check_bad_rows()
    assert [line.strip() for line in caught.value.what.splitlines()[1:]] == ["a.jsonl:1: broken", "a.jsonl:9: broken"]
    assert len(ledger.to_json()["bad_rows"]) == 9
