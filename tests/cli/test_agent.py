"""The real agent with small workers: exit codes, signals, ports."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swift import __file__ as package

RUN = (
    "import os, sys\nfrom swift import agent, dist, launch\nfrom swift.errors import SwiftError\n"
    "try:\n    sys.exit(agent.run_workers(dist.plan_launch(os.environ), sys.argv[1:]))\n"
    "except SwiftError as error:\n    sys.stderr.write(str(error))\n    sys.exit(error.exit_code)\n"
)
RUN_EACH = (
    "import os, sys\nfrom swift import agent, dist\n"
    "for mode in ('ok', 'fail', 'kill', 'done'):\n"
    "    words = [sys.argv[1], mode, *sys.argv[2:]]\n"
    "    code = agent.run_workers(dist.plan_launch(os.environ), words)\n"
    "    for stream in (sys.stdout, sys.stderr):\n"
    "        print('==', mode, code, file=stream, flush=True)\n"
)
WORKER = """
import os, signal, sys, time
from swift import dist, launch
rank, mode = int(os.environ["RANK"]), sys.argv[1]
if mode == "sleep" and rank == 0:
    dist.record_run(sys.argv[2])  # before the line that the test waits for
sys.stdout.write(f"{rank} {os.environ['WORLD_SIZE']} {os.environ['MASTER_PORT']} {sys.argv[2:]}\\n")
sys.stdout.flush()
if mode == "fail" and rank == 1:
    launch.record_failure(os.environ, "error[DATA-01]: bad\\n  fix: this", 65)
    sys.exit(65)
if mode == "kill" and rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "done":
    launch.record_success(os.environ)
    os.abort() if rank == 1 else None
if mode in ("fail", "kill", "sleep"):
    time.sleep(60)
"""


SIGNALS = [
    (signal.SIGTERM, 143),
    pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
    (signal.SIGUSR1, 143),
]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("worker") / "worker.py"
    path.write_text(WORKER)
    return str(path)


def start(words: list[str], program: str = RUN, **env: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "RANK", "MASTER_PORT")}
    clean |= {"PYTHONPATH": str(Path(package).parents[1]), "CUDA_VISIBLE_DEVICES": "", **env}
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def groups(worker: str) -> dict[str, tuple[int, str, str]]:
    """The exit code, and what was written, of groups that one process starts one after another."""
    code, *written = end(start([worker, "a b", "--x=\n"], RUN_EACH, NPROC_PER_NODE="2"))
    assert code == 0, written[1]
    out, err = (re.findall(r"(.*?)== (\w+) (\d+)\n", text, re.DOTALL) for text in written)
    return {mode: (int(code), said, told) for (said, mode, code), (told, _, _) in zip(out, err, strict=True)}


def test_all_is_well_and_words_with_spaces_arrive_whole(groups: dict[str, tuple[int, str, str]]) -> None:
    code, out, err = groups["ok"]
    assert code == 0
    assert err == ""
    assert sorted(line.split()[0] for line in out.splitlines()) == ["0", "1"]
    assert "['a b', '--x=\\n']" in out


@pytest.mark.parametrize(
    ("mode", "code", "says"),
    [
        ("fail", 65, "error[DATA-01]: bad (rank 1 of 2)\n  fix: this\n"),
        ("kill", 137, "error[RUN-02]: a process was ended by SIGKILL (rank 1 of 2)\n  why: most often"),
        ("done", 0, ""),
    ],
)
def test_the_first_failure_becomes_ours(
    groups: dict[str, tuple[int, str, str]], mode: str, code: int, says: str
) -> None:
    found, _, err = groups[mode]
    assert found == code
    assert err.startswith(says)
    assert "Traceback" not in err
    assert says or not err


@pytest.mark.parametrize(("number", "ends"), SIGNALS)
def test_signals_reach_the_workers(worker: str, number: signal.Signals, ends: int, tmp_path: Path) -> None:
    process = start([worker, "sleep", str(tmp_path)], NPROC_PER_NODE="2")
    assert process.stdout
    process.stdout.readline()
    process.stdout.readline()
    began = time.monotonic()
    process.send_signal(number)
    code, _, err = end(process)  # its pipes close when the workers are gone too
    assert code == ends
    assert err.endswith(f"stopped before the first checkpoint: nothing was saved\nended by {number.name}\n")
    assert time.monotonic() - began < 10


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_machines_meet_on_the_port_they_were_told(worker: str) -> None:
    env = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    nodes = [start([worker, "ok"], NODE_RANK=str(rank), **env) for rank in range(2)]
    ends = [end(node) for node in nodes]
    assert [code for code, _, _ in ends] == [0, 0]
    words = [out.split()[:3] for _, out, _ in ends]
    assert [word[:2] for word in words] == [["0", "2"], ["1", "2"]]
    assert words[0][2] == words[1][2]  # one port, which is no other group's


def test_a_port_in_use_is_told_before_anything_starts(worker: str) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, out, err = end(start([worker, "ok"], NPROC_PER_NODE="2", MASTER_PORT=port))
    assert (code, out) == (78, "")
    assert f"port {port} is in use" in err


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from swift import agent
    from swift.dist import Launch
    from swift.errors import ConfigError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"NPROC_PER_NODE is 2, but 1 GPU"):
        agent.check_machine(Launch(2))
    agent.check_machine(Launch(1))
