"""K2 and F1: a process is killed, or its disk fails, at each call that changes the disk while a checkpoint is saved."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from scripts.prove.runs import STEPS, ended, finished, fork, go, place, trainer_of
from swift import checkpoint, storage
from swift.errors import DiskError

CHANGES = ("openat", "write", "pwrite64", "ftruncate", "fsync", "mkdir", "rename", "unlink", "unlinkat", "rmdir")
TAKES_SPACE = ("write", "pwrite64", "ftruncate", "fsync", "mkdir", "rename")
KILL, FULL, BROKEN = "signal=SIGKILL", "error=ENOSPC", "error=EIO"
SAYS = {KILL: "", FULL: "No space left", BROKEN: "No space left|Input/output error"}  # some writers do not tell which
Point = tuple[str, int]


class Saving:
    """A run that saves one more checkpoint, and rotates one away, in children that something happens to."""

    def __init__(self, here: Path) -> None:
        self.here, self.run, self.whole = here, here / "run", here / "whole"
        assert finished(partial(go, "swift", self.whole))  # in a child: who has trained may not fork where a GPU is
        self.trainer = trainer_of("swift", self.run)
        self.trainer.create_optimizer_and_scheduler(STEPS)
        self.trainer.state.global_step = STEPS + 1

    def save(self, says: str = "") -> None:
        """Save; a disk that fails ends it as it would end the command."""
        try:
            self.trainer._save_checkpoint(self.trainer.model, None)
        except DiskError as error:
            told = re.search(says, str(error)) and str(self.run) in str(error)
            raise SystemExit(error.exit_code if told else 1) from error

    def with_calls(self, *words: str, says: str = "") -> int:
        """How a child ends that saves under strace."""
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.whole, self.run)
        wait, begin = os.pipe()

        def work() -> None:
            os.read(wait, 1)
            self.save(says)

        child = fork(work)
        tracer = subprocess.Popen(
            ["strace", "-y", "-p", str(child), "-o", str(self.here / "calls"), *words], stderr=subprocess.PIPE
        )
        assert tracer.stderr
        tracer.stderr.readline()  # that it is attached
        os.write(begin, b"x")
        code = ended(child)
        tracer.communicate()
        os.close(wait)
        os.close(begin)
        return code

    def points(self, calls: tuple[str, ...]) -> list[Point]:
        """The calls of a save that name its directory: what is called, and the how manieth of its kind it is."""
        assert self.with_calls("-e", f"trace={','.join(calls)}") == 0
        count = dict.fromkeys(calls, 0)
        found = []
        for line in (self.here / "calls").read_text().splitlines():
            name = line.partition("(")[0]
            if name in count:
                count[name] += 1
                if str(self.run) in line and not (name == "openat" and "O_CREAT" not in line):
                    found.append((name, count[name]))
        return found


def killed(few: bool = False) -> tuple[int, int] | None:
    """At how many of the calls a kill leaves whole checkpoints alone, and the newest there was or the new one."""
    return _at_each(CHANGES, [KILL], _whole_after_a_kill, few)


def refused(few: bool = False) -> tuple[int, int] | None:
    """At how many of the calls an error of the disk ends the run with 74 and in plain words, and loses nothing."""
    return _at_each(TAKES_SPACE, [FULL, BROKEN], _said_and_whole, few)


def _at_each(
    calls: tuple[str, ...], faults: list[str], holds: Callable[[Saving, int], bool], few: bool
) -> tuple[int, int] | None:
    if shutil.which("strace") is None:
        return None
    with place() as here:
        saving = Saving(here)
        points = saving.points(calls)[:: 5 if few else 1]
        good = 0
        for name, number in points:
            for fault in faults:
                words = ["-e", f"trace={name}", "-e", f"inject={name}:{fault}:when={number}"]
                good += holds(saving, saving.with_calls(*words, says=SAYS[fault]))
        return good, len(points) * len(faults)


def _whole_after_a_kill(saving: Saving, code: int) -> bool:
    found = checkpoint.latest(saving.run)
    newest = checkpoint.step_of(found) if found else None
    return code == -9 and newest in (STEPS, STEPS + 1) and _tidy(saving.run)


def _said_and_whole(saving: Saving, code: int) -> bool:
    """The error was told, or did not matter; nothing is half there, and as many checkpoints as before are whole."""
    found = [checkpoint.step_of(path) for path in checkpoint.committed(saving.run)]
    saved = code == 0 and found[-1:] == [STEPS + 1]
    return (code == 74 or saved) and len(found) >= 2 and _tidy(saving.run)


def _tidy(run: Path) -> bool:
    return not [path for path in run.iterdir() if path.is_dir() and (path.name.startswith(".") or storage.verify(path))]
