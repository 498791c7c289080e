"""Two processes end where one process with the same global batch ends; failures keep their exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.documents import ROOT, run_here

COMMON = [
    "sft", "--model_id_or_path", "my-model", "--dataset", "chat.jsonl", "--lora_dropout_p", "0", "--max_steps", "3",
    "--learning_rate", "1e-3", "--batch_size", "2", "--dataset_test_ratio", "0.1", "--eval_steps", "3",
    "--add_output_dir_suffix", "false", "--lora_target_modules", "ALL",
]  # fmt: skip


def swift(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-m", "swift.cli", *argv], env=env, capture_output=True, text=True, timeout=240
    )


def test_two_processes_are_one(here: Path) -> None:
    two = swift(*COMMON, "--gradient_accumulation_steps", "2", "--output_dir", "two", NPROC_PER_NODE="2")
    assert two.returncode == 0, two.stderr
    assert run_here([*COMMON, "--gradient_accumulation_steps", "4", "--output_dir", "one"]) == 0
    weights = [load_file(here / name / "checkpoint-3" / "adapter_model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-5, atol=1e-6)
    assert not list((here / "two").glob(".tmp*"))


@pytest.mark.slow  # `tests/cli/test_agent.py` has it of small workers
def test_the_first_error_of_a_worker_is_the_exit_code(here: Path) -> None:
    (here / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": null}]}\n', encoding="utf-8")
    failed = swift("sft", "--model_id_or_path", "my-model", "--dataset", "bad.jsonl", NPROC_PER_NODE="2")
    assert failed.returncode == 65, failed.stderr
    assert "bad.jsonl:1" in failed.stderr
    assert "Traceback" not in failed.stderr
