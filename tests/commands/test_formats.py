"""Every format of rows and every kind of file as a user gives them on the command line."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from swift.cli import main
from swift.datasets import convert
from tests.datasets.test_load import FakeHub, fake_hub
from tests.road.conftest import write_jsonl

__all__ = ["fake_hub"]
TALK = [{"role": "user", "content": "two"}, {"role": "assistant", "content": "II"}]
OTHER = [TALK[0], {"role": "assistant", "content": "2"}]
CALL = {"function": {"name": "add", "arguments": {"a": 1}}}
FORMATS: dict[str, tuple[str, list[dict[str, Any]], list[str]]] = {
    "history": (
        "query/response",
        [
            {"query": "two", "response": "II", "history": [["one", "I"]], "system": "Roman."},
            {"query": "two", "response": "II", "history": "[['one', 'I']]", "system": ""},
        ],
        ["I", "II"],
    ),
    "text-alone": ("query/response", [{"response": "a text"}], ["a text"]),
    "choices": (
        "multiple choice",
        [{"question": "one and one?", "choices": ["I", "II"], "answer": "B"}],
        ["II"],
    ),
    "columns": (
        "multiple choice in columns",
        [{"question": "one and one?", "A": "I", "B": "II", "answer": "B"}],
        ["II"],
    ),
    "alpaca": (
        "alpaca",
        [{"instruction": "two", "input": "", "output": "II"}, {"instruction": "add", "input": "1 1", "output": "II"}],
        ["II"],
    ),
    "conversations": (
        "conversations",
        [
            {"conversations": [{"from": "system", "value": "Roman."}, {"from": "human", "value": "two"}, {"from": "gpt", "value": "II"}]},
            {"conversations": "[{'from': 'prompter', 'value': 'two'}, {'from': 'bot', 'value': 'II'}]"},
        ],
        ["II"],
    ),
    "messages": ("messages", [{"messages": TALK}, {"messages": [{"role": "system", "content": ""}, *TALK]}], ["II"]),
    "tools": (
        "messages",
        [{"messages": [TALK[0], {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "2"}, TALK[1]], "tools": [CALL]}],
        ["add", "II"],
    ),
    "sharegpt": ("sharegpt", [{"conversation": [{"human": "two", "assistant": "II"}]}], ["II"]),
    "text": ("text", [{"text": "a text"}], ["a text"]),
    "kto": ("query/response", [{"query": "two", "response": "II", "label": False}], ["II"]),
    "rejected": ("query/response", [{"query": "two", "response": "II", "rejected_response": "2"}], ["II"]),
    "preference": (
        "preference",
        [{"prompt": "two", "chosen": "II", "rejected": "2"}, {"chosen": TALK, "rejected": OTHER}],
        ["II"],
    ),
    "images": ("query/response", [{"query": "two", "response": "II", "images": ["a.png"]}], ["II"]),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory with my-model in it."""
    (tmp_path / "my-model").symlink_to(tiny_dir)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def preview(*words: str) -> dict[str, Any]:
    """What `swift data preview` accounts for."""
    shown = ["--rows", "99", "--output", "seen", "--template_type", "qwen", "--model_id_or_path", "my-model"]
    assert main(["data", "preview", *words, *shown]) == 0
    return json.loads(Path("seen/data_report.json").read_text(encoding="utf-8"))


def learnt(shown: str) -> set[str]:
    """What stands between the marks of what is learnt, without the end of a turn."""
    return {part.partition("⟧")[0].removesuffix("<|im_end|>") for part in shown.split("⟦")[1:]}


def test_every_format_is_known_and_its_answers_are_learnt(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (_, rows, _) in FORMATS.items():
        write_jsonl(here / f"{name}.jsonl", rows)
    report = preview(*(f"{name}.jsonl" for name in FORMATS))
    found = {Path(account["dataset"]).stem: account for account in report["datasets"]}
    assert {name: account["format"] for name, account in found.items()} == {name: f[0] for name, f in FORMATS.items()}
    assert all(account["train"]["rows"] == account["rows"] == len(FORMATS[name][1]) for name, account in found.items())
    assert {known for known, _, _ in FORMATS.values()} | {"prompt/completion"} == {f.name for f in convert.FORMATS}
    for name, (_, _, answers) in FORMATS.items():
        capsys.readouterr()
        preview(f"{name}.jsonl")
        said = learnt(capsys.readouterr().out)
        assert all(any(answer in part for part in said) for answer in answers), (name, said)
        assert not any("two" in part or "Roman" in part for part in said)


def test_what_goes_with_a_row_is_shown_as_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("kto", "false"), ("rejected", "rejected_response"), ("images", '["a.png"]')):
        write_jsonl(here / f"{name}.jsonl", FORMATS[name][1])
        preview(f"{name}.jsonl")
        assert value in capsys.readouterr().out.partition("As the model meets them")[0]


ROWS = [{"query": f"q{k}", "response": f"a{k}", "system": ""} for k in range(3)]


def lines(path: Path) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in ROWS).encode()


def table(path: Path, mark: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=mark)
        writer.writeheader()
        writer.writerows(ROWS)


def arrow(path: Path) -> None:
    rows = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows)


def zstd(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(lines(path))


FILES: dict[str, Callable[[Path], Any]] = {
    "a.jsonl": lambda path: path.write_bytes(lines(path)),
    "b.json": lambda path: path.write_text(json.dumps(ROWS), encoding="utf-8"),
    "c.csv": lambda path: table(path, ","),
    "d.tsv": lambda path: table(path, "\t"),
    "e.parquet": lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path),
    "f.arrow": arrow,
    "g.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(path))),
    "h.jsonl.zst": zstd,
    "i.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(lines(path))),
    "j.jsonl.xz": lambda path: path.write_bytes(lzma.compress(lines(path))),
    "k#l:m n.jsonl": lambda path: path.write_bytes(lines(path)),
}


def test_every_kind_of_file_alone_in_a_directory_and_by_a_pattern(here: Path) -> None:
    (here / "data" / "below").mkdir(parents=True)
    for name, make in FILES.items():
        make(here / "data" / name)
        make(here / "data" / "below" / name)
    report = preview(
        *(f"data/{name}" for name in FILES), "data", "data:below", "data/**/*.jsonl*", "data/k#l:m n.jsonl#2"
    )
    read = [account["rows"] for account in report["datasets"]]
    assert read == [*[3] * len(FILES), 3 * len(FILES), 3 * len(FILES), 3 * 2 * 6, 3]
    assert {account["format"] for account in report["datasets"]} == {"query/response"}
    tokens = {account["train"]["supervised"] for account in report["datasets"][: len(FILES)]}
    assert len(tokens) == 1


def test_hubs_are_said_before_the_id(here: Path, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USE_HF", raising=False)
    report = preview("HF::someone/some-set", "ms::someone/some-set#2", "someone/some-set:a/b")
    assert [account["dataset"] for account in report["datasets"]] == [
        "HF::someone/some-set", "ms::someone/some-set#2", "someone/some-set:a/b"
    ]  # fmt: skip
    assert [(hub_id, subset, hf) for hub_id, subset, _, hf in fake_hub.asked] == [
        ("someone/some-set", None, True),
        ("someone/some-set", None, False),
        ("someone/some-set", "a", False),
        ("someone/some-set", "b", False),
    ]
