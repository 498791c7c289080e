"""Plans read from the environment, and which of several failures is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swift import dist, launch
from swift.dist import Launch
from swift.errors import SwiftError


@pytest.mark.parametrize(
    ("env", "plan"),
    [
        ("", None),
        ("MASTER_PORT=1 RANK=0", None),
        ("NPROC_PER_NODE=2 LOCAL_RANK=0", None),
        ("NPROC_PER_NODE=2", Launch(2)),
        ("NPROC_PER_NODE=2 MASTER_PORT=3", Launch(2, port=3)),
        ("NPROC_PER_NODE=2 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=9", Launch(2, patience=9)),
        ("NNODES=1", Launch(1)),
        ("NNODES=2 NODE_RANK=0 NPROC_PER_NODE=4", Launch(4, 2, 0, port=29500)),
        ("NNODES=2 NODE_RANK=0 MASTER_ADDR=127.0.0.1", Launch(1, 2, 0, port=29500)),
        ("NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1", Launch(1, 2, 1, "10.0.0.1", 29500)),
        ("NNODES=2 NODE_RANK=1 MASTER_ADDR=10.0.0.1 MASTER_PORT=3", Launch(1, 2, 1, "10.0.0.1", 3)),
    ],
)
def test_plans(env: str, plan: Launch | None) -> None:
    assert dist.plan_launch(dict(pair.split("=") for pair in env.split())) == plan


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ("NPROC_PER_NODE=two", ["NPROC_PER_NODE is 'two'"]),
        ("NPROC_PER_NODE=0", ["from 1 to"]),
        ("NNODES=2", ["NODE_RANK is not"]),
        ("NNODES=2 NODE_RANK=2 MASTER_ADDR=x", ["NODE_RANK is '2'", "from 0 to 1"]),
        ("NNODES=2 NODE_RANK=1", ["MASTER_ADDR is not set"]),
        ("NPROC_PER_NODE=2 MASTER_PORT=99999", ["MASTER_PORT is '99999'"]),
        ("NPROC_PER_NODE=2 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=soon", ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT is 'soon'"]),
        ("NPROC_PER_NODE=x MASTER_PORT=y", ["NPROC_PER_NODE", "MASTER_PORT"]),
    ],
)
def test_bad_environments_are_usage_errors(env: str, says: list[str]) -> None:
    with pytest.raises(SwiftError) as caught:
        dist.plan_launch(dict(pair.split("=") for pair in env.split()))
    assert caught.value.exit_code == 2
    assert all(words in str(caught.value) for words in says)


def leave(directory: Path, rank: int, code: int, when: int) -> None:
    failure = {"rank": rank, "message": f"error of {rank}", "exit_code": code, "time": when}
    (directory / f"{rank}.failed").write_text(json.dumps(failure))


@pytest.mark.parametrize(
    ("left", "codes", "rank", "code"),
    [
        ([(0, 70, 5), (1, 65, 9)], {0: 70, 1: 65}, 1, 65),  # the known cause, though it was told later
        ([(0, 70, 5), (1, 70, 3)], {0: 70}, 1, 70),  # the earlier of two unexpected ones
        ([(0, 70, 5)], {0: 70, 1: -9}, 1, 137),  # killed: the other only lost its connection
        ([(0, 70, 5)], {0: 70, 1: -15}, 0, 70),  # ended by the agent, because of the other
        ([(0, 65, 5)], {0: 65, 1: -6}, 0, 65),
        ([], {1: 3, 0: -15}, 1, 3),
        ([(0, 70, 5)], {1: -15, 0: 70}, 1, 143),  # ended by somebody else, and before the other
        ([], {0: 3, 1: 4}, 0, 3),
        ([], {0: -15, 1: -15}, 0, 143),
        ([], {1: -11}, 1, 139),
    ],
)
def test_the_failure_that_explains_the_others(
    tmp_path: Path, left: list[tuple[int, int, int]], codes: dict[int, int], rank: int, code: int
) -> None:
    for of in left:
        leave(tmp_path, *of)
    found = launch.first_failure(tmp_path, codes)
    assert (found.rank, found.exit_code) == (rank, code)
    assert ("out of memory" in found.message) == (code == 137)


def test_words_that_workers_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"SWIFT_WORKERS": str(tmp_path), "LOCAL_RANK": "1", "RANK": "5"}
    assert launch.is_worker(env)
    assert not launch.is_worker({"LOCAL_RANK": "1"})
    before = time.time_ns()
    launch.record_failure(env, "error[X]: no", 65)
    found = launch.first_failure(tmp_path, {5: 65})
    assert (found.rank, found.message, found.exit_code) == (5, "error[X]: no", 65)
    assert found.time >= before
    assert launch.run_of(tmp_path) is None
    assert not dist.record_run("a run")
    monkeypatch.setenv("SWIFT_WORKERS", str(tmp_path))
    assert dist.record_run("a run")
    assert launch.run_of(tmp_path) == "a run"
    assert not launch.is_done(tmp_path, 1)
    launch.record_success(env)
    assert launch.is_done(tmp_path, 1)
    launch.forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_worker_ends_when_its_parent_is_killed() -> None:
    child = (
        "from swift.launch import follow_parent; import time; follow_parent(); print('up', flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdout
    assert process.stdout.readline() == "up\n"
    start = time.monotonic()
    process.send_signal(signal.SIGKILL)
    assert process.stdout.read() == ""  # the pipe closes once the child is gone too
    assert time.monotonic() - start < 10
