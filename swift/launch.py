"""Whether a command runs on several processes, and what a worker leaves for the process that started it.

The environment says how many, the way torchrun's users write it (`swift.dist`). A worker that fails writes its error
into the directory named by SWIFT_WORKERS; `first_failure` picks the one that explains the others.
"""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from swift import dist
from swift.arguments.training import RunOptions
from swift.dist import Launch
from swift.errors import ConfigError, InternalError

WORKERS = dist.WORKERS
LAST = 9
PASSING = ("RUN-02", "RUN-04", "RUN-05", "INTERNAL-01", "FOUND-02")
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def with_options(plan: Launch, args: object) -> Launch:
    """The plan with what the options of the command say about it.

    Raises:
        ConfigError: processes could be started again, but their checkpoints are such that nobody can go on from them.
    """
    if not isinstance(args, RunOptions) or not args.max_restarts:
        return plan
    if args.save_only_model:
        what = "--max_restarts goes on from checkpoints, and --save_only_model leaves out what that needs"
        raise ConfigError("CONFIG-02", what, fix="leave out one of them")
    return replace(plan, restarts=args.max_restarts)


@dataclass(frozen=True)
class Failure:
    """How one worker failed: its `rank`, the `message` for the user, the exit code, and when, in nanoseconds.

    `order` is small for a failure that explains others and large for one that others explain.
    """

    rank: int
    message: str
    exit_code: int
    time: int
    order: int = LAST

    @property
    def code(self) -> str | None:
        """The error's code, such as "DATA-03"; None where it has none."""
        found = re.findall(r"error\[(\w+-\d+)\]", self.message)
        return found[-1] if found else None

    @property
    def may_pass(self) -> bool:
        """Whether starting again may help: not after what a user has to change, and not when somebody asked to stop."""
        return self.code in PASSING and not self.asked

    @property
    def asked(self) -> bool:
        """Whether somebody asked the process to stop."""
        return self.exit_code in {128 + number for number in ENDING}


def is_worker(env: Mapping[str, str]) -> bool:
    """Whether this process was started by another one of ours, which will speak for it."""
    return WORKERS in env and "LOCAL_RANK" in env


def record_failure(env: Mapping[str, str], message: str, exit_code: int) -> None:
    """Leave an error for the process that started this worker."""
    failure = Failure(int(env.get("RANK", "0")), message, exit_code, time.time_ns())
    _file(env, "failed").write_text(json.dumps(asdict(failure)), encoding="utf-8")


def record_success(env: Mapping[str, str]) -> None:
    """Leave word that this worker's work is done: what goes wrong afterwards, while it is torn down, is no failure."""
    _file(env, "done").touch()


def run_of(directory: Path) -> str | None:
    """Where the workers that leave their words in `directory` write their run; None before training."""
    path = directory / dist.RUN
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _file(env: Mapping[str, str], kind: str) -> Path:
    return Path(env[WORKERS], f"{env['LOCAL_RANK']}.{kind}")


def is_done(directory: Path, rank: int) -> bool:
    """Whether the worker of this machine left word that its work is done."""
    return (directory / f"{rank}.done").exists()


def forget(directory: Path) -> None:
    """Take away what workers left, but where their run is: others are to follow."""
    for path in directory.iterdir():
        if path.name != dist.RUN:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def words_of(directory: Path) -> list[Failure]:
    """The errors that workers left."""
    return [Failure(**json.loads(path.read_text(encoding="utf-8"))) for path in directory.glob("*.failed")]


def first_failure(directory: Path, codes: Mapping[int, int]) -> Failure:
    """The failure that explains the others.

    When one worker fails the rest lose their connection, and what is left is ended by SIGTERM. So an error with a
    known cause comes first, then a worker that was killed, an unexpected error, a silent exit, and SIGTERM last; among
    equals the earliest. A worker that SIGTERM ended before all others was not ended by us: it was killed.

    Args:
        directory: where the workers leave their errors.
        codes: rank -> exit code of those that failed, negative for the number of the signal that ended it; the first
            to end comes first.
    """
    found = words_of(directory)
    told = {failure.rank for failure in found}
    silent = [_silent(rank, code) for rank, code in codes.items() if rank not in told]
    first = next(iter(codes), None)
    return earliest([replace(failure, order=_precedence(failure, first)) for failure in [*found, *silent]])


def earliest(failures: Iterable[Failure]) -> Failure:
    """The failure that explains the others, which have been put in order."""
    return min(failures, key=lambda failure: (failure.order, failure.time))


def _precedence(failure: Failure, first: int | None) -> int:
    if failure.exit_code == 128 + signal.SIGTERM and failure.rank != first:
        return 4
    if failure.time == 0:
        return 1 if failure.exit_code > 128 else 3
    return 2 if failure.exit_code == InternalError.exit_code else 0


def _silent(rank: int, code: int) -> Failure:
    """The failure of a worker that could not leave a word; its `time` is 0, unknown."""
    if code >= 0:
        return Failure(rank, str(InternalError("RUN-02", f"a process exited with {code}")), code, 0)
    killed = -code == signal.SIGKILL
    error = InternalError(
        "RUN-02",
        f"a process was ended by {signal.Signals(-code).name}",
        why="most often the machine is out of memory" if killed else None,
        fix="a smaller --batch_size or --max_length, or fewer processes" if killed else None,
    )
    return Failure(rank, str(error), 128 - code, 0)


def follow_parent() -> None:
    """Have the kernel end this process when the one that started it is gone, however it went (Linux)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
