"""A signal stops a run after its step, which is saved; what goes on from there is the run that never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift import checkpoint
from tests.trainers import signalled
from tests.trainers.rows import losses, weights
from tests.trainers.signalled import Kick, trainer
from tests.trainers.test_distributed import free_port

TERM, INT, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that nobody stopped."""
    run = trainer(tmp_path_factory.mktemp("straight"))
    run.train()
    return run


def evaluations(run: Any) -> list[tuple[int, float]]:
    return [(entry["step"], entry["eval_loss"]) for entry in run.state.log_history if "eval_loss" in entry]


def same_run(again: Any, straight: Any) -> None:
    """Assert that a run that went on is the one that nobody stopped."""
    assert losses(again) == losses(straight)
    assert evaluations(again) == evaluations(straight)
    assert again.state.best_metric == straight.state.best_metric
    same, other = weights(straight.model), weights(again.model)
    assert all(torch.equal(same[name], other[name]) for name in same)


MOMENTS = [(TERM, "train", 2), (INT, "evaluation", 6), (USR1, "train", 1), (TERM, "log", 3)]
LIKE = [(INT, "train", 5), (TERM, "evaluation", 3), (USR1, "evaluation", 7), (TERM, "train", 7)]


@pytest.mark.parametrize(
    ("number", "moment", "step"), [*MOMENTS, *(pytest.param(*each, marks=pytest.mark.slow) for each in LIKE)]
)
def test_a_signal_stops_a_run_that_can_go_on(
    tmp_path: Path, straight: Any, number: int, moment: str, step: int
) -> None:
    before = [signal.getsignal(one) for one in (TERM, INT, USR1)]
    stopped = trainer(tmp_path, Kick(number, step, moment))
    with pytest.raises(KeyboardInterrupt if number == INT else SystemExit) as caught:
        stopped.train()
    assert number == INT or caught.value.code == 143
    assert [signal.getsignal(one) for one in (TERM, INT, USR1)] == before
    assert checkpoint.latest(tmp_path) == tmp_path / f"checkpoint-{step}"
    assert stopped.evaluate()["eval_loss"] > 0  # nothing of the signal is left
    again = trainer(tmp_path)
    again.train(resume_from_checkpoint="auto")
    same_run(again, straight)


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, Kick(INT, 5, times=2)).train()
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint-3"


@pytest.mark.slow
def test_an_evaluation_can_be_given_up_twice(tmp_path: Path, straight: Any) -> None:
    for _ in range(2):
        with pytest.raises(SystemExit):
            trainer(tmp_path, Kick(TERM, 3, "evaluation")).train(resume_from_checkpoint="auto")
    again = trainer(tmp_path)
    again.train(resume_from_checkpoint="auto")
    same_run(again, straight)


def test_what_a_scheduler_repeats_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        trainer(tmp_path, Kick(TERM, 5, times=3)).train()
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint-5"


def test_processes_that_make_batches_live_until_it_is_saved(tmp_path: Path, straight: Any) -> None:
    class KickAll(Kick):
        def kick(self) -> None:
            for child in Path("/proc/self/task").glob("*/children"):
                for pid in map(int, child.read_text().split()):
                    self.seen += 1
                    os.kill(pid, INT)
            os.kill(os.getpid(), INT)

    kick = KickAll(INT, 2)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, kick, dataloader_num_workers=1).train()
    assert kick.seen
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoint-2"


def start(out: Path, *said: object, world: int = 2) -> list[int]:
    """The exit codes of a group of processes."""
    place = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    group = []
    for rank in range(world):
        own = {"PYTHONPATH": Path(__file__).parents[2], "RANK": rank, "LOCAL_RANK": rank, **place}
        env = {**os.environ, **{key: str(value) for key, value in own.items()}}
        group.append(subprocess.Popen([sys.executable, signalled.__file__, str(out), *map(str, said)], env=env))
    try:
        return [process.wait(240) for process in group]
    finally:
        for process in group:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "rank", "late"), [(TERM, 1, ""), (INT, 0, ""), (TERM, 1, "late")])
def test_all_processes_go_on_as_if_they_had_not_stopped(tmp_path: Path, number: int, rank: int, late: str) -> None:
    assert start(tmp_path, int(number), rank, 4, "", late) == [128 + number] * 2
    assert checkpoint.latest(tmp_path / "run") == tmp_path / "run" / f"checkpoint-{5 if late else 4}"
    assert start(tmp_path, 0, 0, 0, "auto") == [0, 0]
    ended = load_file(tmp_path / "end.safetensors")
    (tmp_path / "run").rename(tmp_path / "stopped")
    assert start(tmp_path, 0, 0, 0) == [0, 0]
    straight = load_file(tmp_path / "end.safetensors")
    assert all(torch.equal(straight[name], ended[name]) for name in straight)
