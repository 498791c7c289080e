"""Rows with preferences, and runs on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift.arguments.fields import options_of
from swift.arguments.rlhf import RLHFArguments
from swift.arguments.values import spelt
from swift.checkpoint import SHARDS
from swift.commands.rlhf import rlhf_main

WORDS = ["one", "two three", "four five six", "seven eight", "nine ten", "fine, thank you", "Paris"]


def pair(k: int) -> dict[str, Any]:
    """A row of which answers and questions have many lengths."""
    asked = f"how are you {' '.join(WORDS[: k % 4])}?"
    return {
        "query": asked,
        "response": f"{WORDS[k % 7]} is {WORDS[k % 5]}",
        "rejected_response": WORDS[(k + 3) % 7] * (k % 3 + 1),
    }


def single(k: int) -> dict[str, Any]:
    row = pair(k)
    good = k % 3 > 0
    return {"query": row["query"], "response": row["response" if good else "rejected_response"], "label": good}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("rows")
    return {
        "pairs": write(place / "pairs.jsonl", [pair(k) for k in range(21)]),
        "singles": write(place / "singles.jsonl", [single(k) for k in range(21)]),
    }


Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path, data: dict[str, str]) -> Run:
    """Trains on pairs, or on single answers for kto, and gives the report with weights and place."""
    place = tmp_path_factory.mktemp("runs")
    count = iter(range(1000))

    def train(rlhf_type: str = "dpo", **said: Any) -> dict[str, Any]:
        options = {
            "model_id_or_path": str(tiny_dir), "dataset": [data["singles" if rlhf_type == "kto" else "pairs"]],
            "template_type": "auto", "output_dir": str(place / str(next(count))), "add_output_dir_suffix": False,
            "max_steps": 3, "batch_size": 8, "gradient_accumulation_steps": 1, "logging_steps": 1, "eval_steps": 2,
            "dataset_test_ratio": 0.2, "optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant",
            "warmup_ratio": 0.0, "disable_tqdm": True, "report_to": "none", "lora_rank": 4, "lora_dropout_p": 0.0,
            "group_by_length": False, "max_grad_norm": 0.0, "weight_decay": 0.0,
        }  # fmt: skip
        report = rlhf_main([], **{**options, "rlhf_type": rlhf_type, **said})
        report["place"] = Path(said.get("output_dir", options["output_dir"]))
        report["weights"] = weights_of(report["last_model_checkpoint"])
        report["losses"] = [line["loss"] for line in report["log_history"] if "loss" in line]
        report["evaluations"] = [line for line in report["log_history"] if "eval_loss" in line]
        return report

    return train


def weights_of(checkpoint: str) -> dict[str, torch.Tensor]:
    files = (file for file in Path(checkpoint).rglob("*.safetensors") if "fingerprint" not in file.name)
    (path,) = [file for file in files if SHARDS not in file.parts]
    return load_file(path)


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of two runs' weights."""
    assert one["weights"].keys() == other["weights"].keys()
    return max(float((one["weights"][name] - value).abs().max()) for name, value in other["weights"].items())


def in_two(command: str, one: dict[str, Any], place: Path, **more: Any) -> list[dict[str, Any]]:
    """What is logged where two processes do what a run did, with other options, into `place`."""
    saved = json.loads((one["place"] / "sft_args.json").read_text())
    names = options_of(RLHFArguments)
    said = {name: value for name, value in saved.items() if name in names and value != names[name].default}
    said |= {"output_dir": str(place), **more}
    words = [word for name, value in said.items() for word in spelt(name, value)]
    env = {**os.environ, "NPROC_PER_NODE": "2", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-m", "swift.cli", command, *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (place / "logging.jsonl").read_text().splitlines()]
