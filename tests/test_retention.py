"""However saving, rotating and dying take turns, a run that once had a checkpoint has one."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from swift import checkpoint, storage

CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # where syncing costs nothing
STATE = (*checkpoint.STATE_FILES, "rng_state.pth", "adapter_model.safetensors")


def save(output: Path, step: int) -> None:
    with checkpoint.save(checkpoint.directory_of(output, step), {"step": step}) as stage:
        for name in STATE:
            (stage / name).write_text(f"{name} of {step}")


def save_and_rotate(output: Path, step: int, limit: int, best: Path | None) -> None:
    save(output, step)
    checkpoint.rotate(output, limit, [checkpoint.directory_of(output, step), best])


def killed(work: Callable[[], None], after: int) -> bool:
    """Whether `work`, in a child that is killed at the call of this number that changes the disk, was killed."""
    child = os.fork()
    if not child:
        left = after

        def dying(call: Any) -> Any:
            def run(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return run

        for name in CALLS:
            setattr(os, name, dying(getattr(os, name)))
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.fixture
def place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="retention-", dir=MEMORY))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("limit", [1, 2])
def test_killed_at_any_point_of_saving_and_rotating_a_whole_one_is_left(place: Path, limit: int) -> None:
    points = 0
    while True:
        output = place / str(points)
        for step in range(1, limit + 1):
            save(output, step)
        was_killed = killed(lambda out=output: save_and_rotate(out, limit + 1, limit, None), points)
        newest = checkpoint.latest(output)
        assert newest is not None, f"point {points}"
        assert checkpoint.step_of(newest) in (limit, limit + 1)
        assert not [path for path in output.iterdir() if path.name.startswith(".") or storage.verify(path)]
        save_and_rotate(output, limit + 2, limit, None)
        assert len(checkpoint.committed(output)) == limit
        if not was_killed:
            break
        points += 1
    assert points > 15


class Retention(RuleBasedStateMachine):
    """A run that saves, is killed at any point, goes on, has a best checkpoint and keeps but a few."""

    def __init__(self) -> None:
        super().__init__()
        self.output = Path(tempfile.mkdtemp(prefix="retention-", dir=MEMORY))
        self.step, self.best = 0, None
        self.had = False

    def teardown(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)

    @rule(limit=st.integers(1, 3), is_best=st.booleans())
    def saves(self, limit: int, is_best: bool) -> None:
        self.step += 1
        final = checkpoint.directory_of(self.output, self.step)
        self.best = final if is_best else self.best
        save_and_rotate(self.output, self.step, limit, self.best)
        self.had = True
        assert final.is_dir()
        assert self.best is None or self.best.is_dir()
        pinned = len({final, self.best} - {None})
        assert len(checkpoint.committed(self.output)) <= max(limit, pinned)

    @rule(limit=st.integers(1, 2), after=st.integers(0, 40))
    def is_killed_while_it_saves(self, limit: int, after: int) -> None:
        killed(lambda: save_and_rotate(self.output, self.step + 1, limit, self.best), after)
        self.goes_on()

    @rule()
    def goes_on(self) -> None:
        newest = checkpoint.latest(self.output)
        self.step = (checkpoint.step_of(newest) or 0) if newest else 0
        self.had = self.had or newest is not None

    @rule(name=st.sampled_from(STATE))
    def loses_a_file_of_the_newest(self, name: str) -> None:
        whole = [path for path in checkpoint.committed(self.output) if not storage.verify(path)]
        if len(whole) > 1:
            (whole[-1] / name).unlink()
            if self.best == whole[-1]:
                self.best = None
            self.goes_on()

    @invariant()
    def there_is_one(self) -> None:
        assert not self.had or checkpoint.latest(self.output, look_only=True) is not None


TestRetention = Retention.TestCase
TestRetention.settings = settings(max_examples=25, stateful_step_count=12, deadline=None, derandomize=True)
