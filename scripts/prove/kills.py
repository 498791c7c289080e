"""K1: a run that is killed at any moment goes on to the weights of the run that was never killed."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

from scripts.prove.runs import STEPS, ended, finished, go, group, place, warm, weights_of

PATIENCE = 30  # seconds that a process has to notice that another is gone


def reference(engine: str, out: Path, world: int = 1) -> tuple[str | None, float]:
    """The weights of an unbroken run, and how long it took."""
    warm()  # else its time would count as that of the run, which most kills would come after
    began = time.monotonic()
    assert finished(partial(go, engine, out), world)
    return weights_of(out / f"checkpoint-{STEPS}"), time.monotonic() - began


def kills(engine: str, count: int, seed: int = 0, world: int = 1) -> tuple[int, int]:
    """How many of so many killed runs ended as they should, going on with `auto`; of a group one process is killed."""
    draw, good = random.Random(seed), 0
    with place() as here:
        wanted, seconds = reference(engine, here / "unbroken", world)
        for number in range(count):
            out = here / f"run-{number}"
            children = group(world, partial(go, engine, out))
            time.sleep(draw.uniform(0.1, 1.0) * seconds)
            killed = children.pop(draw.randrange(world))
            os.kill(killed, signal.SIGKILL)
            ended(killed)
            _end(children)
            going_on = partial(go, engine, out, "auto")
            good += finished(going_on, world) and weights_of(out / f"checkpoint-{STEPS}") == wanted
    return good, count


def _end(children: list[int]) -> None:
    """Wait for those that are left; what does not end is killed, as whoever started them would."""
    began = time.monotonic()
    for child in children:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() - began > PATIENCE:
                os.kill(child, signal.SIGKILL)
                ended(child)
                break
            time.sleep(0.05)
