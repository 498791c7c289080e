"""Two processes of a real run, one of which is killed, breaks, stops or hangs: who is told, how soon, and what goes on.

SWIFT_REPEAT=20 lets every fault strike so many times, two groups start at once half as often and a run end well two and
a half times as often.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from swift import storage
from tests.documents import ROOT
from tests.road.conftest import conversations, write_jsonl

PLUGIN = Path(__file__).with_name("faults.py")
REPEAT = int(os.environ.get("SWIFT_REPEAT", "1"))
POINTS = [*((0, point) for point in range(10 if REPEAT > 1 else 2)), (1, 0)]
pytestmark = pytest.mark.slow


def times(share: float = 1.0) -> pytest.MarkDecorator:
    """As often as SWIFT_REPEAT asks for, times `share`."""
    return pytest.mark.parametrize("turn", range(max(1, round(share * REPEAT))))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Path:
    """A directory with a model and rows."""
    directory = tmp_path_factory.mktemp("group")
    (directory / "my-model").symlink_to(tiny_dir)
    write_jsonl(directory / "chat.jsonl", conversations(80))
    return directory


class Run:
    """A run of two processes, in which a fault strikes once."""

    def __init__(
        self, place: Path, name: str, fault: str = "none 0 0", *more: str, data: str = "chat.jsonl", **env: str
    ) -> None:
        words = [
            "sft", "--model_id_or_path", "my-model", "--dataset", data, "--max_steps", "16", "--batch_size", "2",
            "--gradient_accumulation_steps", "1", "--save_steps", "4", "--evaluation_strategy", "no", "--save_total_limit",
            "-1", "--lora_target_modules", "ALL", "--add_output_dir_suffix", "false", "--output_dir", name,
            "--custom_register_path", str(PLUGIN), "--callbacks", "fault", "--disable_tqdm", "true", *more,
        ]  # fmt: skip
        self.out, self.mark = place / name, place / f"{name}-struck"
        env = {"PYTHONPATH": str(ROOT), "NPROC_PER_NODE": "2", "FAULT": fault, "FAULT_MARK": str(self.mark), **env}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "swift.cli", *words],
            env={**os.environ, **env}, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said; the seconds since the fault are in `after`."""
        _, said = self.process.communicate(timeout=400)
        self.after = time.time() - self.mark.stat().st_mtime if self.mark.exists() else 0.0
        assert not self.workers(), "a worker outlives its launcher"
        return self.process.returncode, said

    def workers(self) -> list[str]:
        """The processes that still train in this directory."""
        found = subprocess.run(["pgrep", "-f", f"output_dir {self.out.name}( |$)"], capture_output=True, text=True)
        return found.stdout.split()

    def digest(self) -> str:
        """What the last checkpoint's weights are."""
        return hashlib.sha256((self.out / "checkpoint-16" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def straight(place: Path) -> Run:
    """The run to which nothing happens."""
    run = Run(place, "straight")
    code, said = run.end()
    assert code == 0, said
    return run


@times(2.5)
def test_a_run_ends_well(place: Path, straight: Run, turn: int) -> None:
    run = Run(place, f"well-{turn}")
    code, said = run.end()
    assert code == 0, said
    assert (run.out / "run.lock.json").is_file()
    assert storage.verify(run.out / "checkpoint-16") == []
    assert run.digest() == straight.digest()


@times()
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_group(place: Path, rank: int, turn: int) -> None:
    run = Run(place, f"killed-{rank}-{turn}", f"kill {rank} 6")
    code, said = run.end()
    assert code == 137, said
    assert f"SIGKILL (rank {rank} of 2)" in said
    assert run.after < 10


@times()
def test_the_first_cause_is_told(place: Path, turn: int) -> None:
    run = Run(place, f"broken-{turn}", "break 1 6")
    code, said = run.end()
    assert code == 70, said
    assert "ZeroDivisionError: the fault of this process" in said
    assert "(rank 1 of 2)" in said
    assert "reset" not in said.lower()
    assert run.after < 10


@times()
@pytest.mark.parametrize(("kind", "rank", "says"), [("stop", 1, "is stopped"), ("hold", 1, "in stand_still")])
def test_a_hang_is_told_with_its_place(place: Path, kind: str, rank: int, says: str, turn: int) -> None:
    run = Run(place, f"hung-{kind}-{turn}", f"{kind} {rank} 6", "--hang_timeout", "15")
    code, said = run.end()
    assert code == 70, said
    assert f"in step 6: rank {rank} {says}" in said, said
    assert re.search(r"why: rank 0 waits in \w+ \(", said), said
    (stacks,) = run.out.glob("stacks-*.txt")
    assert stacks.read_text().count("most recent call first") >= 1
    assert run.after < 60


@times()
@pytest.mark.parametrize(("fault", "loses"), [("kill 1 11", 8), ("kill 0 11", 8), ("break 1 7", 4)])
def test_a_restart_ends_where_the_run_would_have(place: Path, straight: Run, fault: str, loses: int, turn: int) -> None:
    run = Run(place, f"again-{fault.replace(' ', '-')}-{turn}", fault, "--max_restarts", "3")
    check_went_on(run, straight, loses)


@pytest.mark.parametrize(("rank", "point"), POINTS)
def test_a_kill_inside_a_save_loses_only_that(place: Path, straight: Run, rank: int, point: int) -> None:
    run = Run(place, f"saving-{rank}-{point}", f"saving {rank} {point}", "--max_restarts", "3")
    check_went_on(run, straight, 0)


def check_went_on(run: Run, straight: Run, loses: int) -> None:
    """One restart, from the step `loses`, and the weights of the run to which nothing happened."""
    code, said = run.end()
    assert code == 0, said
    assert run.mark.exists()
    assert said.count("restart 1 of 3") == 1
    assert (f"going on from {run.out}/checkpoint-{loses}" in said) == (loses > 0), said
    assert run.digest() == straight.digest()
    assert not list(run.out.glob(".tmp*"))


def test_a_hung_process_is_restarted(place: Path, straight: Run) -> None:
    run = Run(place, "again-hung", "hold 0 6", "--hang_timeout", "15", "--max_restarts", "1")
    code, said = run.end()
    assert code == 0, said
    assert run.digest() == straight.digest()


def test_what_a_user_has_to_change_is_not_tried_again(place: Path) -> None:
    write_jsonl(place / "bad.jsonl", [{"messages": [{"role": "user", "content": None}]}])
    code, said = Run(place, "bad", "none 0 0", "--max_restarts", "3", data="bad.jsonl").end()
    assert code == 65, said
    assert "restart" not in said


@pytest.mark.parametrize("rows", [1, 3])
def test_fewer_rows_than_a_step_takes_do_not_hang(place: Path, rows: int) -> None:
    write_jsonl(place / f"{rows}.jsonl", conversations(rows))
    more = ["--max_steps", "2", "--save_steps", "2", "--hang_timeout", "30"]  # a hang would end it with 70
    code, said = Run(place, f"few-{rows}", "none 0 0", *more, data=f"{rows}.jsonl").end()
    assert code in (0, 65), said


@times(0.5)
def test_two_groups_at_once_and_a_port_of_ones_own(place: Path, straight: Run, free_port: int, turn: int) -> None:
    ports: list[dict[str, str]] = [{}, {}, {"MASTER_PORT": str(free_port)}]
    with socket.socket() as usual:
        with suppress(OSError):  # somebody else has it
            usual.bind(("", 29500))
            usual.listen()
        runs = [Run(place, f"at-once-{turn}-{number}", **port) for number, port in enumerate(ports)]
        ends = [run.end() for run in runs]
    assert [code for code, _ in ends] == [0, 0, 0], ends
    assert {run.digest() for run in runs} == {straight.digest()}
