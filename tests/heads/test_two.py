"""Two processes learn what one does: rows that fill up the last batches weigh nothing, negatives are those of both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.heads.conftest import rows_of
from tests.road.conftest import write_jsonl

ROOT = Path(__file__).parents[2]


def run(place: Path, model: Path, processes: int, data: Path, *words: str) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """The last weights of a run of an epoch and a half, and its losses."""
    output = place / f"run-{processes}"
    command = [
        sys.executable, "-m", "swift.cli", "sft", "--model_id_or_path", str(model), "--dataset", str(data),
        "--output_dir", str(output), "--add_output_dir_suffix", "false", "--report_to", "none", "--logging_steps", "1",
        "--num_train_epochs", "1", "--batch_size", str(8 // processes), "--gradient_accumulation_steps", "1",
        "--eval_batch_size", "2", "--lora_dropout_p", "0", "--learning_rate", "1e-3", *words,
    ]  # fmt: skip
    several = {"NPROC_PER_NODE": str(processes)} if processes > 1 else {}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **several}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((output / "logging.jsonl").read_text().splitlines()[-1])
    return load_file(Path(report["last_model_checkpoint"]) / "adapter_model.safetensors"), report["log_history"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("search", ("--task_type", "embedding")),
        ("names", ("--task_type", "seq_cls", "--num_labels", "2")),
        ("search", ("--task_type", "reranker")),
    ],
)
def test_two_processes_learn_what_one_does(tmp_path: Path, tiny_dir: Path, kind: str, words: tuple[str, ...]) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", rows_of(kind, 29))
    held = str(write_jsonl(tmp_path / "held.jsonl", rows_of(kind, 7, seed=3)))
    one, alone = run(tmp_path, tiny_dir, 1, data, *words, "--val_dataset", held)
    two, both = run(tmp_path, tiny_dir, 2, data, *words, "--val_dataset", held)
    assert [line["loss"] for line in both if "loss" in line] == pytest.approx(
        [line["loss"] for line in alone if "loss" in line], abs=2e-6
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=2e-5, rtol=0)
    last = [next(line for line in reversed(lines) if "eval_loss" in line) for lines in (alone, both)]
    names = (
        {name for name in last[0] if name.startswith("eval_")}
        - {"eval_loss"}
        - {n for n in last[0] if "per_second" in n}
    )
    for name in names - {"eval_runtime"}:
        assert last[1][name] == pytest.approx(last[0][name], abs=1e-6), name
