"""Two machines, which are network namespaces of this one: a group over both, and one that loses a machine and gets it back."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT

SCRIPT = str(ROOT / "scripts" / "two_machines.sh")


def unable() -> str | None:
    """Why there can be no second machine here; None where there can."""
    if sys.platform != "linux" or os.getuid() or not shutil.which("ip"):
        return "network namespaces need Linux, root and iproute2"
    made = subprocess.run(["ip", "netns", "add", "swift-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", "swift-probe"], capture_output=True)
    return f"no network namespace can be made: {made.stderr.strip()}" if made.returncode else None


WHY = unable()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY is not None, reason=str(WHY))]


def words(name: str, steps: int = 24, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "swift.cli", "sft", "--model_id_or_path", "my-model", "--dataset", "chat.jsonl",
        "--max_steps", str(steps), "--batch_size", "2", "--gradient_accumulation_steps", "1", "--save_steps", "4",
        "--evaluation_strategy", "no", "--save_total_limit", "-1", "--lora_target_modules", "ALL",
        "--add_output_dir_suffix", "false", "--output_dir", name, "--disable_tqdm", "true", *more,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    away = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NPROC_PER_NODE", "GLOO_SOCKET_IFNAME")
    kept = {name: value for name, value in os.environ.items() if name not in away}
    return {**kept, "PYTHONPATH": str(ROOT), "HOSTS": f"swift{os.getpid()}", "CUDA_VISIBLE_DEVICES": ""}


def digest(place: Path, step: int = 24) -> str:
    return hashlib.sha256((place / f"checkpoint-{step}" / "adapter_model.safetensors").read_bytes()).hexdigest()


def script(*said: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", SCRIPT, *said], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture
def hosts() -> Iterator[None]:
    """Both machines, up."""
    assert script("up").wait(20) == 0
    yield
    script("down").wait(20)


def test_a_machine_that_goes_and_comes_back(here: Path, hosts: None) -> None:
    more = ["--max_restarts", "2"]
    straight = [script("on", str(rank), *words("straight", 24, *more)) for rank in (0, 1)]
    said = [node.communicate(timeout=900)[0] for node in straight]
    assert [node.returncode for node in straight] == [0, 0], said
    nodes = [script("on", str(rank), *words("again", 24, *more)) for rank in (0, 1)]
    end = time.monotonic() + 600
    while not (here / "again" / "checkpoint-4").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert script("off", "1").wait(20) == 0
    assert nodes[1].wait(20) != 0
    time.sleep(2)
    assert nodes[0].poll() is None, nodes[0].communicate()[0]
    nodes[1] = script("on", "1", *words("again", 24, *more))
    said = [node.communicate(timeout=900)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "restart 1 of 2" in said[0]
    assert "going on from" in said[0]
    assert digest(here / "again") == digest(here / "straight")


def test_without_restarts_the_other_is_told(here: Path, hosts: None) -> None:
    nodes = [script("on", str(rank), *words("alone", 400)) for rank in (0, 1)]
    end = time.monotonic() + 600
    while not (here / "alone" / "checkpoint-4").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    script("off", "1").wait(20)
    said = nodes[0].communicate(timeout=600)[0]
    assert nodes[0].returncode == 70, said
    assert "error[RUN-05]: node 1 is lost (rank 1 of 2)" in said


def test_the_script_runs_both(here: Path) -> None:
    done = script("both", *words("both", 2, "--save_steps", "2"))
    said = done.communicate(timeout=600)[0]
    assert done.returncode == 0, said
    assert (here / "both" / "checkpoint-2" / "adapter_model.safetensors").is_file()
    assert f"swift{os.getpid()}" not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout


def test_an_error_of_one_machine_ends_both(here: Path, hosts: None) -> None:
    good, bad = words("bad", 4), words("bad", 4)
    bad[bad.index("chat.jsonl")] = "missing.jsonl"
    nodes = [script("on", "0", *good), script("on", "1", *bad)]
    said = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [66, 66], said
    assert "missing.jsonl" in said[0]
    assert "(rank 1 of 2)" in said[0]


def test_machines_that_share_no_disk_are_told_before_they_train(here: Path, hosts: None) -> None:
    (here / "own").mkdir()
    apart = ["unshare", "--mount", "bash", "-c", 'mount -t tmpfs none own && exec "$@"', "apart"]
    nodes = [script("on", "0", *words("own/run", 4)), script("on", "1", *apart, *words("own/run", 4))]
    said = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [73, 73], said
    assert "own/run of the first machine is not to be seen on" in said[0]
    assert not list((here / "own").rglob("checkpoint-*"))
