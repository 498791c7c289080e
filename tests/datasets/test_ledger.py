from __future__ import annotations

import json

import pytest

from swift.datasets.ledger import BAD, NOT_SAMPLED, Ledger
from swift.datasets.places import Places
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
    ledger.count("train", None, supervised=5, masked=3)
    ledger.count("train", "a.jsonl", supervised=1, masked=2, truncated=4, examples=2)
    dropped = {"bad row": 1, "not sampled": 1, "longer than 9 tokens": 1}
    shares = {
        "train": {"rows": 2, "examples": 2, "supervised": 7, "masked": 7, "truncated": 8},
        "validation": {"rows": 1, "examples": 1, "supervised": 0, "masked": 0, "truncated": 0},
    }
    assert json.loads(json.dumps(ledger.to_json())) == {
        "rows_read": 6,
        **shares,
        "padded": None,
        "dropped": {
            "bad row": {"rows": 1, "lines": {"a.jsonl": [3]}},
            "not sampled": {"rows": 1, "lines": {"a.jsonl": [4]}},
            "longer than 9 tokens": {"rows": 1, "lines": {"a.jsonl": [1]}},
        },
        "cut": {},
        "bad_rows": ["a.jsonl:3: broken"],
        "datasets": [
            {"dataset": "a.jsonl", "format": "messages", "rows": 6, "dropped": dropped, "padded": None, **shares}
        ],
    }


def test_every_data_set_has_its_own_account() -> None:
    ledger = Ledger()
    ledger.read("a#5", 3, "messages")
    ledger.read("b", 2, "messages")
    ledger.read("b", 2, "alpaca")
    rows = [{"dataset": name} for name in ("a#5", "a#5", "b", "b", "b")]
    ledger.use("train", [*rows, rows[0], rows[0]])
    ledger.drop("not sampled", "a:3", "a#5")
    assert not ledger.balanced
    ledger.drop("not sampled", "a:4", "a#5")
    assert (ledger.rows_read, ledger.trained, ledger.balanced) == (7, 5, False)
    ledger.drop("not sampled", "b:4", "b")
    ledger.accounts["a#5"].rows += 1
    assert ledger.balanced
    assert [source["format"] for source in ledger.sources] == ["messages", "messages, alpaca"]
    ledger.count("train", "a#5", 1000, 3000, 7)
    ledger.pad(12, {"a#5": 12})
    assert ledger.screen().splitlines() == [
        "rows: 8 read = 5 trained + 0 validation + 3 not sampled (2 drawn again)",
        "  data set  read  train  validation  left out  learnt tokens  other tokens  cut off  padding",
        "  a#5          4      2           0         2          1,000         3,000        7       12",
        "  b            4      3           0         1              0             0        0        –",
        "training tokens: 4,000, of which 1,000 are learnt (25.0 %)",
        "tokens of padding: 12 (a#5 12)",
    ]


def test_rows_that_nobody_asked_to_leave_out_are_named() -> None:
    ledger = Ledger(max_bad_rows=9)
    ledger.read("a", 9)
    for line in range(1, 8):
        ledger.drop("longer than 9 tokens", f"a.jsonl:{line}")
    ledger.drop(NOT_SAMPLED, "a.jsonl:8")
    ledger.cut.append("a.jsonl:9")
    named = [line for line in ledger.screen().splitlines() if "a.jsonl" in line]
    assert named == [
        "longer than 9 tokens: a.jsonl:1, a.jsonl:2, a.jsonl:3, a.jsonl:4, a.jsonl:5 and 2 more",
        "cut to the maximal length: a.jsonl:9",
    ]


def test_a_ledger_goes_on_from_its_state() -> None:
    ledger = Ledger(max_bad_rows=3, most_places=2)
    ledger.read("a", 9, "text")
    ledger.use("train", [{"dataset": "a"}])
    ledger.count("train", "a", 3, 4)
    ledger.reject(*bad(3), dataset="a")
    ledger.reject(*bad(4), dataset="a", excused=True)
    for line in ("5", "6 (row 2)", "7"):
        ledger.drop("not sampled", f"a.jsonl:{line}", "a")
    ledger.cut.append("a.jsonl:1")
    again = Ledger(max_bad_rows=3, most_places=2)
    again.from_state(json.loads(json.dumps(ledger.to_state())))
    assert again.to_json() == ledger.to_json()
    assert again.to_state() == ledger.to_state()
    assert again.to_json()["dropped"]["not sampled"] == {"rows": 3, "lines": {"a.jsonl": [5, "6 (row 2)"]}}
    for one in (ledger, again):
        one.drop("not sampled", "a.jsonl:8", "a")
        one.use("train", [{"dataset": "a"}] * 2)
    assert again.to_json() == ledger.to_json()


def test_a_million_places_take_little_memory() -> None:
    places = Places()
    for line in range(10**5):
        places.append(f"a/rather/long/path/to/train.jsonl:{line}")
    kept = places.by_file()
    assert len(places) == len(kept["a/rather/long/path/to/train.jsonl"]) == 10**5
    assert sum(lines.itemsize * len(lines) for lines in places._files.values()) == 8 * 10**5  # type: ignore[union-attr]
    with pytest.raises(TypeError):
        hash(places)
    assert "3" in repr(Places.from_state({"total": 1, "lines": {"a": [3]}}))


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
    assert str(caught.value) == "error[DATA-02]: a.jsonl:418: broken\n  fix: mend it, or drop it: --max_bad_rows 1"
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
