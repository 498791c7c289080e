"""`swift sft --tensor_parallel_size 2`: the run of one process, its checkpoints, and going on from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from swift import storage
from swift.tuners import Swift
from tests.parallel import sft
from tests.parallel.group import found
from tests.road.conftest import conversations, write_jsonl
from tests.tiny import save_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("home")
    save_tiny(directory / "m", "llama")
    write_jsonl(directory / "chat.jsonl", conversations(43))
    return directory


def run(home: Path, name: str, world: int, *said: object, batch: int = 4) -> dict[str, Any]:
    """The report of a run of two epochs, with eight rows a step however many processes there are."""
    words = [
        *("--model_id_or_path", home / "m", "--dataset", home / "chat.jsonl", "--output_dir", home / name),
        *("--add_output_dir_suffix", "false", "--num_train_epochs", 2, "--batch_size", batch),
        *("--gradient_accumulation_steps", 2, "--eval_steps", 5, "--save_steps", 5, "--save_total_limit", 9),
        *("--learning_rate", 1e-3, "--max_length", 256, "--logging_steps", 1, "--max_grad_norm", 0.5, *said),
    ]
    return found(Path(sft.__file__), world, home / f"{name}.json", *words)


def curve(report: dict[str, Any], key: str) -> list[float]:
    return [line[key] for line in report["log_history"] if key in line]


def check_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in ("loss", "grad_norm", "eval_loss", "acc", "eval_acc"):
        assert len(curve(one, key)) > 1
        assert curve(other, key) == pytest.approx(curve(one, key), abs=1e-5), key
    assert one["last_model_checkpoint"].endswith(Path(other["last_model_checkpoint"]).name)


def furthest(one: Path, other: Path, file: str) -> float:
    a, b = load_file(one / file), load_file(other / file)
    assert {name: t.shape for name, t in a.items()} == {name: t.shape for name, t in b.items()}
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_two_processes_are_one_and_go_on_exactly(home: Path, kind: str) -> None:
    said = ["--sft_type", kind, *(["--lora_target_modules", "ALL", "--lora_rank", "4"] if kind == "lora" else [])]
    one = run(home, f"{kind}-one", 1, *said)
    two = run(home, f"{kind}-two", 2, *said, "--tensor_parallel_size", 2)
    check_same(one, two)
    last = Path(one["last_model_checkpoint"]), Path(two["last_model_checkpoint"])
    file = "adapter_model.safetensors" if kind == "lora" else "model.safetensors"
    assert furthest(*last, file) < 1e-5
    assert storage.verify(last[1]) == []
    same = {name for name in {p.name for p in last[0].iterdir()} if not name.startswith("rng_state")}
    assert same <= {p.name for p in last[1].iterdir()}
    states = [torch.load(directory / "optimizer.pt", weights_only=True)["state"] for directory in last]
    shapes = [{key: {n: t.shape for n, t in entry.items()} for key, entry in state.items()} for state in states]
    assert shapes[0] == shapes[1]
    if kind == "lora":
        marks = [json.loads((directory / "base_fingerprint.json").read_text())["weights"] for directory in last]
        assert marks[0] == marks[1]
        Swift.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "m"), last[1])
    else:
        AutoModelForCausalLM.from_pretrained(last[1])
    half = Path(two["last_model_checkpoint"]).parent / "checkpoint-5"
    again = run(home, f"{kind}-again", 2, *said, "--tensor_parallel_size", 2, "--resume_from_checkpoint", half)
    assert curve(again, "loss")[-1] == curve(two, "loss")[-1]
    assert furthest(last[1], Path(again["last_model_checkpoint"]), file) == 0


def test_two_models_of_two_processes_are_one(home: Path) -> None:
    said = ["--lora_target_modules", "ALL", "--lora_dropout_p", 0]
    one = run(home, "alone", 1, *said)
    four = run(home, "four", 4, *said, "--tensor_parallel_size", 2, batch=2)
    check_same(one, four)
    last = Path(one["last_model_checkpoint"]), Path(four["last_model_checkpoint"])
    assert furthest(*last, "adapter_model.safetensors") < 1e-5
