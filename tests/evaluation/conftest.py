"""A tiny model, two adapters on it, and rows to measure them on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.tiny import save_tiny

QUESTIONS = [
    "What is the capital of France?",
    "hi",
    "你是谁？",
    "one two three " * 8 + "four",
    "Who are you?",
    "and you?",
]
LABELS = ["Paris.", "hello you", "我是一个小模型。", "four five six", "I am a small model", "fine"]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `model`, the adapters `one` and `two`, `qa.jsonl` and `mc.jsonl`."""
    directory = tmp_path_factory.mktemp("evaluation")
    save_tiny(directory / "model", initializer_range=0.2)
    for seed, name in enumerate(("one", "two"), 1):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(directory / "model")
        tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
        tuned.save_pretrained(directory / name)
    write(directory / "qa.jsonl", [{"query": q, "response": r} for q, r in zip(QUESTIONS, LABELS, strict=True)])
    choices = ["one", "two three", "four five six"]
    write(
        directory / "mc.jsonl", [{"question": q, "choices": choices, "answer": k % 3} for k, q in enumerate(QUESTIONS)]
    )
    return directory


@pytest.fixture
def options(place: Path, tmp_path: Path) -> dict[str, Any]:
    """What every evaluation here is told."""
    return {
        "model_id_or_path": str(place / "model"),
        "eval_dataset": [str(place / "qa.jsonl")],
        "eval_output_dir": str(tmp_path / "out"),
        "name": "it",
        "max_new_tokens": 8,
        "bootstrap_samples": 100,
    }
