"""The files and scripts for large models: what they say can be read, and each does its run with the built-in model."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swift.arguments.reading import parse
from swift.arguments.sft import SftArguments
from swift.datasets import DATASETS
from swift.models import MODELS
from tests.documents import ROOT, run_here

LARGE = sorted((ROOT / "configs" / "large").glob("*.yaml"))
ROWS = "full full_mp full_ddp_zero2 full_ddp_zero3 lora lora_mp lora_ddp lora_ddp_zero3 qlora_gptq_int4"
ROWS += " qlora_gptq_int8 qlora_bnb_int4 qlora_mp multinode"
PACKAGES = {"zero": "deepspeed", "bnb": "bitsandbytes", "qlora_mp": "bitsandbytes", "multinode": "deepspeed"}
SMALL = [
    "--model_type", "demo-chat", "--dataset", "chat.jsonl", "--max_steps", "1", "--batch_size", "1",
    "--gradient_accumulation_steps", "1", "--max_length", "512", "--add_output_dir_suffix", "false", "--dtype", "fp32",
    "--evaluation_strategy", "no",
]  # fmt: skip


def script_of(path: Path) -> Path:
    return ROOT / "scripts" / "large" / f"{path.stem}.sh"


def test_there_is_one_for_every_kind_of_run() -> None:
    assert {path.stem for path in LARGE} == set(ROWS.split())
    assert {path.stem for path in (ROOT / "scripts" / "large").glob("*.sh")} == set(ROWS.split())


@pytest.mark.parametrize("path", LARGE, ids=lambda path: path.stem)
def test_it_says_what_there_is(path: Path) -> None:
    args = parse(SftArguments, ["--config", str(path)])
    assert args.model_type is not None
    assert args.model_type in MODELS
    for spec in args.dataset:
        assert spec.partition("#")[0] in DATASETS
    assert (args.deepspeed is not None) == ("zero" in path.stem or path.stem == "multinode")
    assert (args.device_map == "auto") == path.stem.endswith("_mp")
    assert (args.quantization_bit == 4) == (path.stem in ("qlora_bnb_int4", "qlora_mp"))
    assert args.model_type.endswith(("-int4", "-int8")) == ("gptq" in path.stem)
    script = script_of(path).read_text(encoding="utf-8")
    assert f"configs/large/{path.name}" in script
    assert f"bash scripts/large/{path.stem}.sh" in path.read_text(encoding="utf-8").splitlines()[0]
    assert subprocess.run(["bash", "-n", str(script_of(path))]).returncode == 0


def needed(stem: str) -> str | None:
    return next((package for part, package in PACKAGES.items() if part in stem), None)


@pytest.mark.slow
@pytest.mark.parametrize("path", LARGE, ids=lambda path: path.stem)
def test_it_runs(path: Path, here: Path, free_port: int) -> None:
    package = needed(path.stem)
    if package and importlib.util.find_spec(package) is None:
        assert run_here(["sft", "--config", str(path), *SMALL, "--output_dir", "out", "--dry_run"]) == 0
        pytest.skip(f"{package} is not installed: checked without training")
    name = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": name, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    if "ddp" in path.stem:
        env["NPROC_PER_NODE"] = "2"
    words = ["bash", str(script_of(path)), *SMALL, "--output_dir", "out"]
    nodes = [env]
    if path.stem == "multinode":
        env |= {"NPROC_PER_NODE": "1", "NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
        nodes = [{**env, "NODE_RANK": rank} for rank in "01"]
    group = [subprocess.Popen(words, env=node, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for node in nodes]
    said = [process.communicate(timeout=400)[0].decode() for process in group]
    assert [process.returncode for process in group] == [0] * len(group), said
    weights = "model" if path.stem.startswith(("full", "multinode")) else "adapter_model"
    assert (here / "out" / "checkpoint-1" / f"{weights}.safetensors").is_file()
    shutil.rmtree(here / "out")
