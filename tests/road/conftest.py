"""A directory as a new user has it: a model, a file of conversations, nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from swift.commands.sft import sft_main

WORDS = "Paris Rome Berlin Madrid Oslo Vienna Dublin Lisbon Prague Athens".split()


def conversations(count: int) -> list[dict]:
    """Chats of ragged length, one or two rounds each."""
    rows = []
    for i in range(count):
        word = WORDS[i % len(WORDS)]
        messages = [
            {"role": "user", "content": f"What is the capital number {i}?"},
            {"role": "assistant", "content": f"The capital is {word}. " * (1 + i % 3)},
        ]
        if i % 4 == 0:
            messages += [{"role": "user", "content": "你好"}, {"role": "assistant", "content": f"世界 {word}"}]
        rows.append({"messages": messages})
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Path:
    """my-model and chat.jsonl side by side; copied by tests that write."""
    directory = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny_dir, directory / "my-model")
    write_jsonl(directory / "chat.jsonl", conversations(40))
    return directory


@pytest.fixture
def here(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory with my-model and chat.jsonl in it."""
    for name in ("my-model", "chat.jsonl"):
        (tmp_path / name).symlink_to(home / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The report of one LoRA run of four steps, shared by tests that only read it."""
    output = tmp_path_factory.mktemp("run")
    return sft_main(
        [
            "--model_id_or_path", str(home / "my-model"), "--dataset", str(home / "chat.jsonl"),
            "--output_dir", str(output), "--max_steps", "4", "--batch_size", "2", "--gradient_accumulation_steps", "2",
            "--eval_steps", "2", "--dataset_test_ratio", "0.1", "--lora_target_modules", "ALL", "--learning_rate", "1e-2",
            "--logging_steps", "1",
        ]
    )  # fmt: skip
