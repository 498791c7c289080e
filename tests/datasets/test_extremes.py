"""Data of odd shapes and sizes: each row is used or accounted for, in bounded memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swift.datasets import source
from swift.datasets.encode import encode
from swift.datasets.load import load_datasets
from swift.datasets.mix import Mix
from swift.datasets.source import Reading, Source
from swift.datasets.spec import parse_spec
from swift.datasets.stream import Stream
from swift.errors import DataError, NotFoundError
from tests.datasets.fake import FakeTemplate
from tests.documents import ROOT

GOOD = {"query": "q", "response": "a"}
UNLEARNT = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "loss": False}]}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("rows", "max_length", "why"),
    [
        ([], None, "rows: 0 read = 0 trained + 0 validation"),
        (
            [{"query": "long", "response": "a" * 99}] * 3,
            9,
            "3 read = 0 trained + 0 validation + 3 longer than 9 tokens",
        ),
    ],
)
def test_no_row_left_is_told_with_counts(tmp_path: Path, rows: list[Any], max_length: int | None, why: str) -> None:
    path = write(tmp_path / "a.jsonl", rows)

    def load_and_encode() -> None:
        loaded = load_datasets(path, test_ratio=0)
        encode(loaded.train, FakeTemplate(max_length, silent="!"), loaded.ledger)

    with pytest.raises(DataError) as caught:
        load_and_encode()
    assert (caught.value.code, caught.value.exit_code) == ("DATA-05", 65)
    assert why in (caught.value.why or "")


def test_one_row_trains_and_more_are_not_asked_of_it(tmp_path: Path) -> None:
    loaded = load_datasets(write(tmp_path / "a.jsonl", [GOOD]), test_ratio=0.99)
    assert (len(loaded.train), loaded.val) == (1, None)


def test_of_several_formats_in_a_row_the_first_wins_and_the_rest_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rows = [{**GOOD, **UNLEARNT, **{f"c{k}": k for k in range(500)}}]
    loaded = load_datasets(write(tmp_path / "a.jsonl", rows), test_ratio=0)
    assert [message["content"] for message in loaded.train[0]["messages"]] == ["q", "a"]
    assert "rows of format query/response" in caplog.text
    assert "columns not used: messages, c1, " in caplog.text
    assert "and 490 more" in caplog.text


def test_columns_that_differ_in_case_are_told_how_to_be_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"Query": "q", "RESPONSE": "a"}])
    with pytest.raises(DataError, match="fit no known format") as caught:
        load_datasets(path)
    assert caught.value.fix == "--columns Query=query RESPONSE=response"
    assert load_datasets(path, columns=["Query=query", "RESPONSE=response"]).train


def test_types_may_not_change_between_rows(tmp_path: Path) -> None:
    rows = [GOOD, {"query": 1, "response": "a"}, {"query": "q", "response": ["a"]}, {"query": None, "response": "a"}]
    loaded = load_datasets(write(tmp_path / "a.jsonl", rows), test_ratio=0, max_bad_rows=2)
    assert [row["where"].rpartition(":")[2] for row in loaded.train] in (["1", "4"], ["4", "1"])
    assert loaded.ledger.to_json()["dropped"]["bad row"]["rows"] == 2


def test_a_row_without_end_is_dropped_by_its_own_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MOST_CHARACTERS", 8)
    path = write(tmp_path / "a.jsonl", [GOOD, {"query": "q" * 8, "response": "a"}, {"query": "q" * 7, "response": "a"}])
    loaded = load_datasets(path, test_ratio=0)
    assert len(loaded.train) == 2
    assert loaded.ledger.to_json()["dropped"] == {source.ENDLESS: {"rows": 1, "lines": {path: [2]}}}
    stream = Stream(
        [Source(parse_spec(path), Reading({}, None, True))], FakeTemplate(), type(loaded.ledger)(), mix=Mix()
    )
    given = iter(stream)
    _ = [next(given) for _ in range(3)]
    stream.settle(3)
    assert stream.ledger.to_json()["dropped"] == loaded.ledger.to_json()["dropped"]


def test_paths_are_what_the_command_line_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file above, behind a link, or among very many; a link that leads nowhere is no file."""
    below = tmp_path / "below"
    below.mkdir()
    write(tmp_path / "above.jsonl", [GOOD])
    (below / "link.jsonl").symlink_to(tmp_path / "above.jsonl")
    (below / "broken.jsonl").symlink_to(tmp_path / "nowhere.jsonl")
    monkeypatch.chdir(below)
    assert len(load_datasets(["../above.jsonl", "link.jsonl", "*.jsonl"], test_ratio=0).train) == 3
    with pytest.raises(NotFoundError):
        load_datasets("broken.jsonl")
    many = tmp_path / "many"
    many.mkdir()
    for number in range(1000):
        (many / f"{number:04}.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    loaded = load_datasets(str(many), test_ratio=0)
    assert len(loaded.train) == loaded.ledger.rows_read == 1000


ROWS = {
    "text of 50 MB": {"query": "word " * 10_000_000, "response": "b"},
    "100,000 turns": {
        "messages": [{"role": ("user", "assistant")[k % 2], "content": f"turn {k}"} for k in range(100_000)]
    },
    "1 M tokens": {"query": "q", "response": "a b " * 500_000},
}
MEASURE = """
import json, resource, sys
from swift.cli import main
code = main(["data", "preview", sys.argv[1], "--model_type", "demo-chat", "--rows", "1", *sys.argv[2:]])
used = resource.getrusage(resource.RUSAGE_SELF)
measured = {"code": code, "mb": used.ru_maxrss / 1024, "seconds": used.ru_utime + used.ru_stime}
json.dump(measured, open("measured", "w"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("strategy", ["delete", "truncation_left"])
def test_one_huge_row_is_bounded(tmp_path: Path, kind: str, strategy: str) -> None:
    few = [{"query": "q", "response": "a", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}] * 3  # fmt: skip
    path = write(tmp_path / "a.jsonl", [*few, ROWS[kind]])
    words = [path, "--truncation_strategy", strategy, "--output", "out"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300
    )
    measured = json.loads((tmp_path / "measured").read_text())
    report = json.loads((tmp_path / "out" / "data_report.json").read_text())
    dropped = sum(reason["rows"] for reason in report["dropped"].values())
    assert (done.returncode, measured["code"]) == (0, 0)
    assert measured["mb"] < 2048
    assert measured["seconds"] < 60
    assert report["rows_read"] == 4 == report["train"]["rows"] + dropped
    assert dropped == (strategy == "delete" or kind == "text of 50 MB")
    assert bool(report["train"]["truncated"]) == (not dropped)
