"""Where this process stands in its group, read from the environment the launcher sets, and what the machine has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

WORKERS = "SWIFT_WORKERS"  # names the directory in which workers leave word for the process that started them
RUN = "run"


def rank() -> int:
    """Number of this process among all, 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process on its machine, 0 when alone."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes train together, 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def record_run(directory: str) -> bool:
    """Tell the process that started this worker where the run writes; False when none did."""
    if WORKERS not in os.environ:
        return False
    Path(os.environ[WORKERS], RUN).write_text(directory, encoding="utf-8")
    return True


@dataclass(frozen=True)
class Hardware:
    """What decisions about dtype and batch need to know of the machine.

    `accelerator` is "cuda", "npu", "mps" or None for a CPU; `bf16` says whether it computes in bfloat16.
    """

    accelerator: str | None = None
    bf16: bool = False
    world_size: int = 1
