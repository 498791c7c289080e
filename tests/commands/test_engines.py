"""`swift sft` with an engine on two processes, from the options to a model that answers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.road.conftest import conversations, write_jsonl
from tests.trainers.shared import furthest

ENGINES = {"ddp": [], "fsdp": ["--fsdp", "full_shard"], "zero3": ["--deepspeed", "default-zero3"]}


def swift(place: Path, *words: object, processes: int = 1) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    env |= {"NPROC_PER_NODE": str(processes)} if processes > 1 else {}
    words = (sys.executable, "-m", "swift.cli", *map(str, words))
    done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def sft(place: Path, model: Path, output: str, *said: object, processes: int = 1) -> dict[str, object]:
    """Train two steps on all rows; what the last checkpoint says of itself."""
    if not (place / "chat.jsonl").exists():
        write_jsonl(place / "chat.jsonl", conversations(24))
    options = ["--model_id_or_path", model, "--dataset", "chat.jsonl", "--max_steps", 2, "--dataset_test_ratio", 0]
    options += ["--max_length", 128, "--output_dir", output, "--add_output_dir_suffix", "false"]
    swift(place, "sft", *options, *said, processes=processes)
    return json.loads((place / output / "checkpoint-2" / "manifest.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_an_engine_from_the_command_line(tmp_path: Path, tiny_dir: Path, kind: str) -> None:
    engines = {name: said for name, said in ENGINES.items() if name != "zero3" or importlib.util.find_spec("deepspeed")}
    written = {}
    for name, said in engines.items():
        common = ["--sft_type", kind, "--learning_rate", 1e-3]
        manifest = sft(tmp_path, tiny_dir, name, *common, *said, processes=2)
        assert manifest.get("engine") == {"fsdp": "fsdp", "zero3": "deepspeed-zero3"}.get(name)
        saved = tmp_path / name / "checkpoint-2"
        if name == "fsdp" and kind == "full":
            swift(tmp_path, "export", "--from_sharded", saved)
            saved = saved.with_name("checkpoint-2-model")
        written[name] = load_file(next(saved.glob("*.safetensors")))
        assert furthest(written["ddp"], written[name]) <= 1e-5
    swift(tmp_path, "infer", "--ckpt_dir", saved, "--query", "Who are you?", "--max_new_tokens", 4)


@pytest.mark.slow
def test_one_process_may_have_an_engine_too(tmp_path: Path, tiny_dir: Path) -> None:
    assert sft(tmp_path, tiny_dir, "fsdp", "--fsdp", "full_shard")["engine"] == "fsdp"
    if importlib.util.find_spec("deepspeed"):
        found = sft(tmp_path, tiny_dir, "zero2", "--deepspeed", "zero2-offload")
        assert found["engine"] == "deepspeed-zero2"
