"""Of the processes of one machine one encodes the rows; the others read what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swift import dist, launch
from swift.arguments.reading import parse
from swift.arguments.sft import SftArguments
from swift.commands import rows
from swift.commands.prepare import find_source, load_template
from swift.decide import decide_sft
from tests.road.conftest import conversations, write_jsonl

WAYS = {
    "kept for the next run": [],
    "kept by nobody": ["--data_cache", "false"],
    "packed": ["--data_cache", "false", "--packing", "true", "--max_length", "200"],
    "weighed": ["--data_cache", "false", "--loss_scale", "last_round"],
}


def listed(data: Any) -> list[list[Any]]:
    parts = [[data[k] for k in range(len(data))] for data in (data.train, data.val or [])]
    return [[{name: np.asarray(value).tolist() for name, value in row.items()} for row in part] for part in parts]


@pytest.mark.parametrize("way", WAYS)
def test_one_of_two_encodes(way: str, tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "chat.jsonl", conversations(40))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    model = ["--model_id_or_path", str(tiny_dir), "--dataset", str(tmp_path / "chat.jsonl")]
    args = parse(SftArguments, [*model, "--dataset_test_ratio", "0.2", *WAYS[way]])
    args = decide_sft(args, dist.Hardware(), find_source(args))
    template = load_template(args, find_source(args))
    alone = rows.encode_rows(args, template)
    workers = tmp_path / "workers"
    workers.mkdir()
    for name, value in {"SWIFT_WORKERS": str(workers), "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    first = rows.read_data(args, template)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(rows, "encode_rows", lambda *said: pytest.fail("encoded twice"))
    second = rows.read_data(args, template)
    assert listed(first) == listed(second) == listed(alone)
    assert second.ledger.to_json() == first.ledger.to_json() == alone.ledger.to_json()
    assert (tmp_path / "hf").exists() == (way == "kept for the next run")
    launch.forget(workers)
    assert not list(workers.iterdir())


def test_without_room_each_encodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFT_WORKERS", str(tmp_path))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")

    def full(*said: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rows, "encode_rows", full)
    assert rows._for_the_others(SftArguments(), None) is None  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    dist.tell("rows", "")
    assert dist.hear("rows") == ""
