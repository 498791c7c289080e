"""Whether the workers of a machine get on, and which of them hangs where when they do not.

A worker that trains leaves word at every step (`beat`). One that hangs in its data or in a collective call cannot say
so: the process that started it looks at the age of the words (`late`), has all workers write where they stand, and
tells who holds up the others (`hang`).
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from swift.dist import WORKERS
from swift.errors import InternalError

LEAST, TIMES_MEDIAN, FIRST_STEP = 60.0, 10, 600.0  # seconds; steps; seconds
STACK_SIGNAL = signal.SIGUSR2
STACK_SECONDS = 3.0
FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
THREAD = re.compile(r"^(?:Current thread|Thread) .*$", re.MULTILINE)
WAITING = "/torch/distributed/"
DDP = "/torch/nn/parallel/distributed.py"  # innermost, it sends; further out, it may have called the model
BACKWARD = "_engine_run_backward"  # in it a worker computes, or waits for the others' gradients
SEEN = 12  # innermost frames among which waiting shows


@dataclass(frozen=True)
class Beat:
    """What a worker said last: it is in `step`, at `time` of the machine's clock, and speaks again in `limit` seconds.

    `limit` is None while nothing is expected of it, such as during a save.
    """

    rank: int
    step: int
    time: float
    limit: float | None

    def age(self) -> float:
        """Seconds since."""
        return time.monotonic() - self.time


def beat(env: Mapping[str, str], step: int, limit: float | None) -> None:
    """Leave word that this worker gets on; nothing when no process of ours started it."""
    if WORKERS not in env or "LOCAL_RANK" not in env:
        return
    path = Path(env[WORKERS], f"{env['LOCAL_RANK']}.beat")
    own = path.with_suffix(".beat-new")
    own.write_text(json.dumps(asdict(Beat(int(env["RANK"]), step, time.monotonic(), limit))), encoding="utf-8")
    own.replace(path)


def beats(directory: Path) -> dict[int, Beat]:
    """The last words of the workers of this machine, by local rank."""
    found = {int(path.stem): path.read_text(encoding="utf-8") for path in directory.glob("*.beat")}
    return {rank: Beat(**json.loads(text)) for rank, text in sorted(found.items())}


def late(directory: Path) -> list[Beat]:
    """The words that are older than was said they would be."""
    return [found for found in beats(directory).values() if found.limit is not None and found.age() > found.limit]


def patience(said: int | None, median: float | None) -> float | None:
    """Seconds after which a step without end is a hang: what was said (0: never), else by the median step so far.

    `median` is None before the first step has ended, which may take long: kernels are compiled, connections made.
    """
    if said is not None:
        return said or None
    return FIRST_STEP if median is None else max(LEAST, TIMES_MEDIAN * median)


def write_stacks_on_signal(env: Mapping[str, str]) -> None:
    """Have this worker write where all its threads stand when it is asked to, whatever it is doing."""
    place = Path(env[WORKERS], f"{env['LOCAL_RANK']}.stack")
    faulthandler.register(STACK_SIGNAL, file=place.open("w", encoding="utf-8"), all_threads=True)


@dataclass(frozen=True)
class Stand:
    """Where a worker stands: the innermost call of its main thread, and how sure it is that it holds up the others.

    `order` is 0 for one that is stopped or gone, 1 for one outside collective calls, 2 in the backward pass, 3 waiting.
    """

    rank: int
    order: int
    where: str
    stack: str


@dataclass(frozen=True)
class Hang:
    """What is said of workers that make no progress: of `ranks`, which hold up the others, and all their stacks.

    `order` is that of a failure: small where those are sure to be the cause.
    """

    error: InternalError
    ranks: list[int]
    order: int
    stacks: str


def hang(directory: Path, pids: Mapping[int, int]) -> Hang | None:
    """What to say of workers of whom one is late; None where none is.

    Args:
        directory: where the workers leave their words.
        pids: local rank -> process.
    """
    overdue = late(directory)
    if not overdue:
        return None
    said = beats(directory)
    stands = _stands(directory, pids, {local: found.rank for local, found in said.items()})
    first = min(stand.order for stand in stands)
    ours = [stand for stand in stands if stand.order == first]
    waiting = [stand for stand in stands if stand.order > first]
    silent = max(found.age() for found in overdue)
    places = "; ".join(f"rank {stand.rank} {stand.where}" for stand in ours)
    step = min(found.step for found in overdue)
    error = InternalError(
        "RUN-04",
        f"no progress for {silent:.0f} s in step {step}: {places}",
        why="; ".join(f"rank {stand.rank} waits {stand.where}" for stand in waiting) or None,
        fix="where a step may take longer: --hang_timeout <seconds>, 0 for never",
    )
    text = "\n\n".join(f"rank {stand.rank}: {stand.where}\n{stand.stack}" for stand in stands)
    return Hang(error, [stand.rank for stand in ours], first, text)


def _stands(directory: Path, pids: Mapping[int, int], ranks: Mapping[int, int]) -> list[Stand]:
    stopped = {local: state for local in ranks if (state := _state(pids[local])) in ("T", "t", "Z", "")}
    for local in ranks.keys() - stopped.keys():
        os.kill(pids[local], STACK_SIGNAL)
    texts = {local: _stack(directory / f"{local}.stack") for local in ranks.keys() - stopped.keys()}
    found = [
        Stand(ranks[local], 0, "is stopped (SIGSTOP)" if state else "is gone", "") for local, state in stopped.items()
    ]
    return sorted([*found, *(stand_of(ranks[local], text) for local, text in texts.items())], key=lambda s: s.rank)


def _state(pid: int) -> str:
    """The letter Linux has for what a process does; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return "" if Path("/proc").is_dir() else "?"


def _stack(path: Path) -> str:
    """What a worker wrote there, once it is whole or it has had its time."""
    end, before = time.monotonic() + STACK_SECONDS, ""
    while time.monotonic() < end:
        time.sleep(0.2)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if text and text == before:
            return text
        before = text
    return before


def stand_of(rank: int, stack: str) -> Stand:
    """Where a worker stands by what faulthandler wrote of it; its main thread comes last."""
    main = THREAD.split(stack)[-1]
    frames = FRAME.findall(main)
    if not frames:
        return Stand(rank, 0, "does not answer", stack)
    inner, (file, line, name) = frames[:SEEN], frames[0]
    if any(WAITING in file for file, _, _ in inner) or file.endswith(DDP):
        order = 3
    else:
        order = 2 if any(BACKWARD in name for *_, name in inner) else 1
    return Stand(rank, order, f"in {name} ({'/'.join(Path(file).parts[-3:])}:{line})", stack)
