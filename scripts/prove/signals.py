"""K8: a signal ends a run after its step, which is saved, with 143 or 130, and the run goes on exactly."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from functools import partial

from scripts.prove.kills import reference
from scripts.prove.runs import STEPS, ended, finished, fork, go, place, weights_of
from swift import checkpoint

CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}
LAST = f"checkpoint-{STEPS}"


def stops(count: int, seed: int = 0) -> tuple[int, int]:
    """How many runs that a signal came to saved what they had done, and went on to the right weights."""
    draw, good = random.Random(seed), 0
    with place() as here:
        wanted, seconds = reference("swift", here / "unbroken")
        number = 0
        while number < count:
            out, kind = here / f"run-{number}", list(CODES)[number % len(CODES)]
            child = fork(partial(go, "swift", out))
            began = time.monotonic()
            while not checkpoint.committed(out) and time.monotonic() - began < 60:
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 0.3) * seconds)
            os.kill(child, kind)
            code = ended(child)
            if code in (0, -kind):  # it had come to its end
                shutil.rmtree(out)
                continue
            number += 1
            saved = code == CODES[kind] and checkpoint.latest(out) is not None
            good += saved and finished(partial(go, "swift", out, "auto")) and weights_of(out / LAST) == wanted
    return good, count
