"""K1: a run that is killed at any moment goes on to the weights of the run that was never killed."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

from scripts.prove.runs import STEPS, ended, finished, fork, go, place, weights_of


def reference(engine: str, out: Path) -> tuple[str | None, float]:
    """The weights of an unbroken run, and how long it took."""
    began = time.monotonic()
    assert finished(partial(go, engine, out))
    return weights_of(out / f"checkpoint-{STEPS}"), time.monotonic() - began


def kills(engine: str, count: int, seed: int = 0) -> tuple[int, int]:
    """How many of so many killed runs ended as they should, going on with `auto`."""
    draw, good = random.Random(seed), 0
    with place() as here:
        wanted, seconds = reference(engine, here / "unbroken")
        for number in range(count):
            out = here / f"run-{number}"
            child = fork(partial(go, engine, out))
            time.sleep(draw.uniform(0.1, 1.0) * seconds)
            os.kill(child, signal.SIGKILL)
            ended(child)
            good += finished(partial(go, engine, out, "auto")) and weights_of(out / f"checkpoint-{STEPS}") == wanted
    return good, count
