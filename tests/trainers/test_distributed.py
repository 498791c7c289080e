"""Two processes on gloo train what one does: the same loss, weights, evaluation and checkpoints."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift import storage
from tests.trainers import two


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train(out: Path, label: str, world: int, *said: object) -> dict[str, Any]:
    words = [str(out), label, *map(str, said)]
    if world == 1:
        two.main(*words)
    else:
        start_group(world, words)
    return json.loads((out / f"{label}.json").read_text())


def start_group(world: int, words: list[str]) -> None:
    root = Path(__file__).parents[2]
    place = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    group = []
    for rank in range(world):
        own = {"PYTHONPATH": root, "RANK": rank, "LOCAL_RANK": rank, **place}
        env = {**os.environ, **{key: str(value) for key, value in own.items()}}
        group.append(
            subprocess.Popen([sys.executable, two.__file__, *words], env=env, stderr=subprocess.PIPE, text=True)
        )
    try:
        for process in group:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in group:
            process.kill()


@pytest.mark.slow  # with LoRA and 21 rows `test_fsdp.py` has it too, in processes that it starts anyway
@pytest.mark.parametrize("rows", [16, 21])
def test_two_processes_are_one(tmp_path: Path, rows: int) -> None:
    one, two = train(tmp_path, "one", 1, rows, 8), train(tmp_path, "two", 2, rows, 4)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-6)
    assert two["accuracies"] == pytest.approx(one["accuracies"], abs=1e-9)
    for a, b in zip(one["evaluations"], two["evaluations"], strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    alone, shared = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    assert max(float((alone[name] - shared[name]).abs().max()) for name in alone) <= 1e-6
    for step in (2, 4):
        saved = tmp_path / "two" / f"checkpoint-{step}"
        assert storage.verify(saved) == []
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(os.listdir(saved))
    assert not list((tmp_path / "two").glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("order", ["", *two.ORDERS])
def test_two_processes_go_on_exactly(tmp_path: Path, order: str) -> None:
    straight = train(tmp_path, "two", 2, 21, 2, "", order)
    resumed = train(tmp_path, "again", 2, 21, 2, tmp_path / "two" / "checkpoint-4", order)
    assert resumed == straight
    first, second = load_file(tmp_path / "two.safetensors"), load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_two_processes_group_rows_as_one_does(tmp_path: Path) -> None:
    one, both = (train(tmp_path, f"of {world}", world, 21, 8 // world, "", "grouped") for world in (1, 2))
    assert both["losses"] == pytest.approx(one["losses"], abs=1e-6)
    assert both["accuracies"] == pytest.approx(one["accuracies"], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", two.METHODS)
def test_two_processes_draw_and_project_alike(tmp_path: Path, method: str) -> None:
    one, both = (train(tmp_path, name, world, 16, 8 // world, "", method) for name, world in (("one", 1), ("two", 2)))
    assert both["losses"] == pytest.approx(one["losses"], abs=1e-5)
    straight = load_file(tmp_path / "two.safetensors")
    train(tmp_path, "again", 2, 16, 4, tmp_path / "two" / "checkpoint-2", method)
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(straight[name], again[name]) for name in straight)
