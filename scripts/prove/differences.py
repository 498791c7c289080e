"""K7: a run that is not the one that wrote a checkpoint does not go on from it unless that is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from scripts.prove.runs import Rows, ended, finished, go, group, place
from swift.datasets.blocks import Blocks, block_of
from swift.datasets.encode import EncodedDataset
from swift.errors import ConfigError

CONTRADICTION = 78


def encoded(count: int, seed: int = 0) -> EncodedDataset:
    """Rows as a template encodes them, whose tokens are compared."""
    return EncodedDataset(Blocks([block_of(Rows(count, seed).rows)]), np.arange(count))


def of_another_version() -> None:
    """What a child does to seem one."""
    transformers.__version__ = "5.3.0"


CASES: dict[str, tuple[dict[str, Any], int, Callable[[], None] | None]] = {
    "per_device_train_batch_size was 2, is 4": ({"per_device_train_batch_size": 4}, 1, None),
    "gradient_accumulation_steps was 1, is 2": ({"gradient_accumulation_steps": 2}, 1, None),
    "rows was 21, is 22": ({"train": encoded(22)}, 1, None),
    "data was ": ({"train": encoded(21, seed=1)}, 1, None),
    "seed was 42, is 7": ({"seed": 7}, 1, None),
    "learning_rate was 0.01, is 0.001": ({"learning_rate": 1e-3}, 1, None),
    "world_size was 1, is 2": ({}, 2, None),
    "transformers was ": ({}, 1, of_another_version),
}
"""What a refusal says: what differs, in how many processes, and what is done first."""


def refused(engine: str) -> tuple[int, int]:
    """How many of the differences end a run with their names; those of ours with 78, and not where they are allowed."""
    good = 0
    with place() as here:
        assert finished(partial(go, engine, here / "run", train=encoded(21)))
        for number, (word, (said, world, first)) in enumerate(CASES.items()):
            codes = _codes(engine, here, f"{number}", word, said, world, first)
            if engine == "plain":
                good += 0 not in codes
                continue
            allowed = {**said, "allow_inexact_resume": True}
            good += codes == [CONTRADICTION] * world
            good -= _codes(engine, here, f"{number}-allowed", word, allowed, world, first) != [0] * world
    return good, len(CASES)


def _codes(
    engine: str, here: Path, name: str, word: str, said: dict[str, Any], world: int, first: Callable[[], None] | None
) -> list[int]:
    """How the processes end that go on in a copy of the run."""
    out = here / name
    shutil.copytree(here / "run", out)

    def work() -> None:
        if first is not None:
            first()
        try:
            go(engine, out, "auto", **{"train": encoded(21), **said})
        except ConfigError as error:
            raise SystemExit(error.exit_code if word in str(error) else 1) from error

    return [ended(child) for child in group(world, work)]
