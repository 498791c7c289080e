from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swift.cli import main
from swift.datasets import DATASETS
from swift.datasets.info import register_dataset, register_infos
from swift.datasets.load import load_datasets
from swift.errors import ConfigError, NotFoundError, SeveralErrors, UsageError


@pytest.fixture(autouse=True)
def own_rows() -> Iterator[None]:
    list(DATASETS)
    kept = dict(DATASETS._records)
    yield
    DATASETS._records.clear()
    DATASETS._records.update(kept)


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(name: str) -> list[list[tuple[str, str]]]:
    train = load_datasets(name, test_ratio=0).train
    return sorted([(m["role"], m["content"]) for m in row["messages"]] for row in train)


ROUND = [("user", "q"), ("assistant", "a")]


def test_a_file_describes_data_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "own" / "rows.jsonl", [{"talk": [{"who": "U", "says": "q"}, {"who": "B", "says": "a"}]}])
    turns = {
        "user_role": "U",
        "assistant_role": "B",
        "conversations_key": "talk",
        "from_key": "who",
        "value_key": "says",
    }
    info = {"mine": {"dataset_path": "rows.jsonl", "conversations": turns, "tags": ["x"], "help": "my rows"}}
    (tmp_path / "own" / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.chdir(tmp_path)
    (record,) = register_infos(["own/dataset_info.json"])
    assert (record.name, record.tags, record.help, record.drop_bad_rows) == ("mine", ("x",), "my rows", False)
    assert said("mine") == [ROUND]
    loaded = load_datasets("mine", test_ratio=0)
    assert loaded.train[0]["where"] == f"{tmp_path}/own/rows.jsonl:1"


@pytest.mark.parametrize("how", [json.dumps, dict])
def test_a_text_and_a_mapping_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", [{"Q": "q", "A": "a"}, {"Q": "q"}, {"Q": 3, "A": "a"}])
    entry = {"dataset_path": "rows.jsonl", "columns": {"Q": "query", "A": "response"}}
    register_infos([how({"mine": {**entry, "conversations": None}})])
    with pytest.raises(ValueError, match="2 of 3 rows"):
        said("mine")
    (tmp_path / "more.jsonl").write_text('{"text": "x"}\n')
    hub = {"dataset_id": "a/b", "hf_dataset_id": "c/d", "subsets": ["s"], "split": "test"}
    (record,) = register_infos([how({"far": hub})])
    assert (record.ms, record.hf, record.subsets, record.split) == ("a/b", "c/d", ("s",), ("test",))


def test_bad_rows_are_deleted_where_that_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"conversations": [{"from": "user", "value": "q"}]}, {"conversations": [
        {"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]}])  # fmt: skip
    entry = {"dataset_path": str(path), "conversations": {"error_strategy": "delete"}}
    register_infos([{"mine": entry}])
    loaded = load_datasets("mine", test_ratio=0)
    assert loaded.ledger.summary() == "rows: 2 read = 1 trained + 0 validation + 1 bad row"


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ('{"a": {"datset_path": "x"}}', "a: 'datset_path' is not known\n  fix: did you mean dataset_path"),
        ('{"a": {"dataset_id": "x/y", "zzz": 1}}', "fix: known: dataset_id, ms_dataset_id"),
        ('{"a": {"dataset_id": "x/y", "conversations": {"user_rol": "x"}}}', "did you mean user_role"),
        ('{"a": {"dataset_id": "x/y", "conversations": {"error_strategy": "drop"}}}', "'drop' is not known"),
        ('{"a": {"dataset_id": 3}}', "a: dataset_id is to be text"),
        ('{"a": {"dataset_id": "x/y", "columns": []}}', "a: columns is to be an object"),
        ('{"a": {"dataset_id": "x/y", "tags": "x"}}', "a: tags is to be a list"),
        ('{"a": 3}', "a is no object"),
        ('{"a": {', "--custom_dataset_info:1: column 8: "),
        ("{" * 3, "--custom_dataset_info:1: column 2"),
    ],
)
def test_what_is_not_known_is_refused(info: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        register_infos([info])
    assert says in str(caught.value)
    assert "a" not in DATASETS


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(SeveralErrors) as caught:
        register_infos(['{"a": {"x": 1, "tags": 3}, "b": 4}'])
    assert len(caught.value.errors) == 3


def test_files_that_are_no_description(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        register_infos(["none.json"])
    for content, says in ((b"[]", "is no object"), (b"\xff", "is not UTF-8"), (b"[" * 90_000, "nested too deeply"), (b" " * 2**21, "larger")):  # fmt: skip
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(ConfigError, match=says):
            register_infos([str(tmp_path / "x.json")])


def test_register_dataset(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"q": "q", "a": 1}, {"q": "q", "a": -1}, {"q": "skip", "a": 0}])

    def keep(row: dict[str, Any]) -> dict[str, Any] | None:
        return None if row["q"] == "skip" else row

    register_dataset(
        "mine", dataset_path=path, preprocess=keep, labels={"a": ["no", "a"]}, fill={"query": "{q}", "response": "{a}"}
    )
    assert said("mine") == [ROUND]
    dropped = load_datasets("mine", test_ratio=0).ledger.dropped["left out by the data set's own rule"]
    assert dropped == [f"{path}:2", f"{path}:3"]
    with pytest.raises(UsageError, match="there is a data set called mine already"):
        register_dataset("mine", "a/b")
    assert register_dataset("mine", "a/b", exist_ok=True).ms == "a/b"
    with pytest.raises(UsageError, match="nothing to read"):
        register_dataset("other")
    with pytest.raises(UsageError, match="cannot be a data set's name"):
        register_dataset("a#b", "a/b")
    with pytest.raises(NotFoundError, match="does not exist"):
        register_dataset("other", dataset_path=tmp_path / "none.jsonl")


def test_the_command_lists_and_searches(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["datasets"]) == 0
    out = capsys.readouterr().out
    assert f"{len(DATASETS)} data sets" in out
    assert main(["datasets", "LAW", "zh", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "tigerbot-law-zh" in [row["name"] for row in found]
    assert all("law" in str(row).lower() for row in found)
    info = json.dumps({"my-law": {"dataset_id": "a/b"}})
    assert main(["datasets", "my-law", "--custom_dataset_info", info]) == 0
    assert "a/b" in capsys.readouterr().out
    assert main(["datasets", "alpca"]) == 2
    assert "did you mean alpaca" in capsys.readouterr().err
