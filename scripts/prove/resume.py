"""K5: a run that goes on from any checkpoint is the run that never stopped, bit for bit."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.prove.runs import finished, full, go, lora, place, weights_of

STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    model: str
    accumulation: int
    workers: int
    rows: int
    grouped: bool
    save: str  # where in the epoch it stops: "mid", "edge" or "after"


CELLS = [
    Cell(*each)
    for each in itertools.product(("lora", "full"), (1, 3), (0, 2), (96, 97), (False, True), ("mid", "edge", "after"))
]


def options(cell: Cell) -> dict[str, Any]:
    batch = 8
    steps = math.ceil(math.ceil(cell.rows / batch) / cell.accumulation)  # of an epoch
    stop = {"mid": steps // 2, "edge": steps, "after": steps + 1}[cell.save]
    return {
        "rows": cell.rows,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": cell.accumulation,
        "dataloader_num_workers": cell.workers,
        "train_sampling_strategy": "group_by_length" if cell.grouped else "random",
        "max_steps": steps + 3,
        "save_steps": stop,
        "save_total_limit": None,
    }


def equal(engine: str, cell: Cell) -> bool:
    """Whether going on gives the same weights, state and losses."""
    said = options(cell)
    make = lora if cell.model == "lora" else full
    start, end = f"checkpoint-{said['save_steps']}", f"checkpoint-{said['max_steps']}"
    with place() as here:
        if not finished(lambda: go(engine, here / "straight", model=make(), **said)):
            return False
        if not finished(lambda: go(engine, here / "on", here / "straight" / start, model=make(), **said)):
            return False
        first, second = here / "straight" / end, here / "on" / end
        same_state = all((first / name).read_bytes() == (second / name).read_bytes() for name in STATE)
        return weights_of(first) == weights_of(second) and same_state and _losses(first) == _losses(second)


def _losses(checkpoint: Path) -> list[float]:
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [line["loss"] for line in history if "loss" in line]


def cells(engine: str, count: int | None = None) -> tuple[int, int]:
    """How many cells are equal: all, or `count` of them spread over the table."""
    chosen = CELLS if count is None or count >= len(CELLS) else CELLS[:: -(-len(CELLS) // count)]
    return sum(equal(engine, cell) for cell in chosen), len(chosen)


def names() -> list[str]:
    return ["-".join(str(value) for value in asdict(cell).values()) for cell in CELLS]
