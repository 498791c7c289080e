"""Runs with a teacher, which is another model with the same tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swift.commands.rlhf import rlhf_main
from tests.preference.conftest import pair, weights_of

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    found = [{name: pair(k)[name] for name in ("query", "response")} for k in range(21)]
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path, tiny_llama_dir: Path, rows: str) -> Run:
    """Learns from a teacher, and gives the report with weights, losses and place."""
    place = tmp_path_factory.mktemp("runs")
    count = iter(range(1000))

    def train(**said: Any) -> dict[str, Any]:
        options = {
            "rlhf_type": "gkd", "model_id_or_path": str(tiny_dir), "teacher_model": str(tiny_llama_dir),
            "dataset": [rows], "template_type": "auto", "output_dir": str(place / str(next(count))),
            "add_output_dir_suffix": False, "max_steps": 3, "batch_size": 8, "gradient_accumulation_steps": 1,
            "logging_steps": 1, "eval_steps": 3, "dataset_test_ratio": 0.2, "optim": "sgd", "learning_rate": 20.0,
            "lr_scheduler_type": "constant", "warmup_ratio": 0.0, "disable_tqdm": True, "report_to": "none",
            "lora_rank": 4, "lora_dropout_p": 0.0, "group_by_length": False, "max_grad_norm": 0.0, "weight_decay": 0.0,
            "max_new_tokens": 6, "lmbda": 0.0,
        }  # fmt: skip
        options.update(said)
        report = rlhf_main([], **options)
        report["place"] = Path(options["output_dir"])
        report["weights"] = weights_of(report["last_model_checkpoint"])
        report["losses"] = [line["loss"] for line in report["log_history"] if "loss" in line]
        report["evaluations"] = [line["eval_loss"] for line in report["log_history"] if "eval_loss" in line]
        return report

    return train
