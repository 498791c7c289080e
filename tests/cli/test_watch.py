"""Who holds up the others: by the age of what workers said, and by where they stand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swift import __file__ as package
from swift import watch

LIB = "/x/lib/python3.11/site-packages"
FORWARD = [f"{LIB}/torch/nn/modules/linear.py:130:forward", f"{LIB}/torch/nn/parallel/distributed.py:1886:forward"]
STACKS = {
    "waits in a call of all": ([f"{LIB}/torch/distributed/distributed_c10d.py:3000:all_reduce", "/a/t.py:1:train"], 3),
    "waits under a wrapper": ([f"{LIB}/torch/_x.py:1:wait", f"{LIB}/torch/distributed/c10d_logger.py:9:wrap"], 3),
    "sends its buffers": ([f"{LIB}/torch/nn/parallel/distributed.py:2363:_broadcast", "/a/t.py:1:train"], 3),
    "computes": ([*FORWARD, "/a/t.py:1:train"], 1),
    "may compute or wait": ([f"{LIB}/torch/autograd/graph.py:7:_engine_run_backward", "/a/t.py:1:train"], 2),
    "makes a batch": (["/a/collate.py:12:collate", "/a/t.py:1:train"], 1),
}


def stack(frames: list[str]) -> str:
    lines = [frame.split(":") for frame in frames]
    shown = "".join(f'  File "{file}", line {line} in {name}\n' for file, line, name in lines)
    other = f'  File "{LIB}/torch/distributed/x.py", line 3 in wait\n'
    return f"Thread 0x00007f (most recent call first):\n{other}\nCurrent thread 0x00007e (most recent call first):\n{shown}"


@pytest.mark.parametrize("kind", STACKS)
def test_where_a_worker_stands(kind: str) -> None:
    frames, order = STACKS[kind]
    stand = watch.stand_of(5, stack(frames))
    assert (stand.rank, stand.order) == (5, order)
    file, line, name = frames[0].split(":")
    assert stand.where == f"in {name} ({chr(47).join(Path(file).parts[-3:])}:{line})"


def test_one_that_says_nothing_holds_up_the_others() -> None:
    assert watch.stand_of(1, "").order == 0


def test_patience() -> None:
    assert watch.patience(None, None) == 600
    assert watch.patience(None, 2.0) == 60
    assert watch.patience(None, 30.0) == 300
    assert watch.patience(15, 30.0) == watch.patience(15, None) == 15
    assert watch.patience(0, 30.0) is None


def env(place: Path, rank: int) -> dict[str, str]:
    return {"SWIFT_WORKERS": str(place), "LOCAL_RANK": str(rank), "RANK": str(rank)}


def test_words_grow_old(tmp_path: Path) -> None:
    watch.beat({}, 1, 1.0)
    watch.beat(env(tmp_path, 0), 3, None)
    watch.beat(env(tmp_path, 1), 3, 0.05)
    assert {rank: beat.step for rank, beat in watch.beats(tmp_path).items()} == {0: 3, 1: 3}
    time.sleep(0.1)
    assert [beat.rank for beat in watch.late(tmp_path)] == [1]
    watch.beat(env(tmp_path, 1), 4, 9.0)
    assert watch.late(tmp_path) == []
    assert watch.hang(tmp_path, {}) is None


WORKER = """
import os, time
from swift import watch
def make_a_batch():
    print("here", flush=True)
    time.sleep(60)
watch.write_stacks_on_signal(os.environ)
watch.beat(os.environ, 12, 0.1)
make_a_batch()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process's state is read from /proc")
def test_the_hanging_one_is_named_with_its_step_and_place(tmp_path: Path) -> None:
    words = [sys.executable, "-c", WORKER]
    path = {"PYTHONPATH": str(Path(package).parents[1])}
    group = [
        subprocess.Popen(words, env={**os.environ, **path, **env(tmp_path, rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        assert all(worker.stdout and worker.stdout.readline() == "here\n" for worker in group)
        time.sleep(0.2)
        pids = {rank: worker.pid for rank, worker in enumerate(group)}
        both = watch.hang(tmp_path, pids)
        assert both is not None
        assert both.ranks == [0, 1]
        assert "in step 12: rank 0 in make_a_batch (<string>:6); rank 1 in make_a_batch" in str(both.error)
        assert "make_a_batch" in both.stacks
        group[1].send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        one = watch.hang(tmp_path, pids)
        assert one is not None
        assert (one.ranks, one.order) == ([1], 0)
        assert "rank 1 is stopped (SIGSTOP)" in str(one.error)
        assert "rank 0 waits in make_a_batch" in str(one.error)
    finally:
        for worker in group:
            worker.kill()
            worker.communicate()
