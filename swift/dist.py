"""Where this process stands in its group, read from the environment the launcher sets, and what the machine has."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

WORKERS = "SWIFT_WORKERS"  # names the directory in which workers leave word for the process that started them
RUN = "run"
POLL = 0.2  # seconds


def rank() -> int:
    """Number of this process among all, 0 when alone."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process on its machine, 0 when alone."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """How many processes train together, 1 when alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world_size() -> int:
    """How many of them are on this machine, 1 when alone."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the one that prints and writes."""
    return rank() == 0


def record_run(directory: str) -> bool:
    """Tell the process that started this worker where the run writes; False when none did."""
    if WORKERS not in os.environ:
        return False
    Path(os.environ[WORKERS], RUN).write_text(directory, encoding="utf-8")
    return True


def speaks() -> bool:
    """Whether several workers of this machine can leave each other word."""
    return WORKERS in os.environ and local_world_size() > 1


def place(name: str) -> Path:
    """Where the workers of this machine find what one of them puts there."""
    return Path(os.environ[WORKERS], name)


def tell(name: str, value: str) -> None:
    """Leave word for the other workers of this machine."""
    path = place(f"{name}.word")
    path.with_suffix(".new").write_text(value, encoding="utf-8")
    path.with_suffix(".new").replace(path)


def hear(name: str) -> str:
    """What another worker of this machine says, once it does; if it fails first, all of them are ended."""
    path = place(f"{name}.word")
    while not path.exists():
        time.sleep(POLL)
    return path.read_text(encoding="utf-8")


def recorded_run() -> str | None:
    """Where the workers that were started before this one, and ended, wrote their run; None where none did."""
    path = Path(os.environ.get(WORKERS, ""), RUN)
    return path.read_text(encoding="utf-8") if WORKERS in os.environ and path.is_file() else None


@dataclass(frozen=True)
class Hardware:
    """What decisions about dtype, batch and memory need to know of the machine.

    `accelerator` is "cuda", "npu", "mps" or None for a CPU; `bf16` says whether it computes in bfloat16; `memory` is
    what is free for a process there, in bytes, None where that is not known.
    """

    accelerator: str | None = None
    bf16: bool = False
    world_size: int = 1
    memory: int | None = None


def free_memory() -> int | None:
    """Bytes of main memory that can be had, within the limit of the container; None where the system does not tell."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="utf-8"))
        found += [int(limit) - used] if limit.isdigit() else []
    except (OSError, ValueError):
        pass
    return min(found, default=None)
