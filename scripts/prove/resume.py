"""K5, K6: a run that goes on from any checkpoint is the run that never stopped, bit for bit."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scripts.prove.runs import Packs, Rows, finished, full, go, lora, place, weights_of

LAYOUTS = ("padded", "grouped", "packed")
ROWS_OF_BATCH, ROWS_OF_PACK = 8, 2


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    model: str
    accumulation: int
    workers: int
    rows: int
    layout: str
    save: str  # where in the epoch it stops: "mid", "edge" or "after"
    processes: int = 1


CELLS = [
    Cell(*each)
    for each in itertools.product(("lora", "full"), (1, 3), (0, 2), (96, 97), LAYOUTS, ("mid", "edge", "after"))
]
OF_TWO = [
    Cell(model, 1, 0, 97, layout, save, 2)
    for model, layout, save in itertools.product(("lora", "full"), ("padded", "packed"), ("mid", "edge", "after"))
]


def options(cell: Cell) -> dict[str, Any]:
    packed = cell.layout == "packed"
    rows = Packs(Rows(cell.rows), ROWS_OF_PACK) if packed else Rows(cell.rows)
    batch = ROWS_OF_BATCH // (ROWS_OF_PACK if packed else 1)
    steps = math.ceil(math.ceil(len(rows) / batch / cell.processes) / cell.accumulation)  # of an epoch
    stop = {"mid": steps // 2, "edge": steps, "after": steps + 1}[cell.save]
    return {
        "train": rows,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": cell.accumulation,
        "dataloader_num_workers": cell.workers,
        "train_sampling_strategy": "group_by_length" if cell.layout == "grouped" else "random",
        "max_steps": steps + 3,
        "save_steps": stop,
        "save_total_limit": None,
        "ddp_find_unused_parameters": False,
    }


def equal(engine: str, cell: Cell) -> bool:
    """Whether going on gives the same weights, state and losses."""
    said = options(cell)
    make = lora if cell.model == "lora" else full
    start, end = f"checkpoint-{said['save_steps']}", f"checkpoint-{said['max_steps']}"
    with place() as here:
        straight, on = here / "straight", here / "on"
        if not finished(lambda: go(engine, straight, model=make(), **said), cell.processes):
            return False
        if not finished(lambda: go(engine, on, straight / start, model=make(), **said), cell.processes):
            return False
        first, second = straight / end, on / end
        states = sorted(path.name for path in first.glob("*.pt*"))
        same_state = all((first / name).read_bytes() == (second / name).read_bytes() for name in states)
        return len(states) >= 3 and same_state and weights_of(first) == weights_of(second) and same_log(first, second)


def same_log(first: Path, second: Path) -> bool:
    """Whether two checkpoints tell of the same losses."""
    return _losses(first) == _losses(second)


def _losses(checkpoint: Path) -> list[float]:
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [line["loss"] for line in history if "loss" in line]


def cells(engine: str, count: int | None = None, of: list[Cell] = CELLS) -> tuple[int, int]:
    """How many cells are equal: all, or `count` of them spread over the table."""
    chosen = of if count is None or count >= len(of) else [of[k * len(of) // count] for k in range(count)]
    return sum(map(partial(equal, engine), chosen)), len(chosen)
