"""Where this process stands in its group and how many are asked for, by the environment; what the machine has."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swift.errors import UsageError, raise_all

WORKERS = "SWIFT_WORKERS"  # names the directory in which workers leave word for the process that started them
RUN = "run"
POLL = 0.2  # seconds
DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Launch:
    """How to start the processes of this machine.

    `port` None means any free one, which only one machine alone can choose; `patience` is how many seconds workers have
    to save when a signal ends them; `restarts` is how often processes that failed are started again.
    """

    processes: int
    nodes: int = 1
    node_rank: int = 0
    address: str = "127.0.0.1"
    port: int | None = None
    patience: int = 600
    restarts: int = 0


def plan_launch(env: Mapping[str, str]) -> Launch | None:
    """What NPROC_PER_NODE, NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT ask for; None to run in this process.

    TORCH_ELASTIC_SHUTDOWN_TIMEOUT is the patience.

    Raises:
        UsageError: a variable is not a number, out of range or missing.
    """
    if "LOCAL_RANK" in env or not {"NPROC_PER_NODE", "NNODES"} & env.keys():
        return None
    errors: list[UsageError] = []
    processes = _number(env, "NPROC_PER_NODE", 1, 1, 1024, errors)
    nodes = _number(env, "NNODES", 1, 1, 65535, errors)
    rank = _number(env, "NODE_RANK", 0, 0, nodes - 1, errors)
    port = _number(env, "MASTER_PORT", 0, 1, 65535, errors)
    patience = _number(env, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", Launch.patience, 1, 86400, errors)
    if nodes > 1 and "NODE_RANK" not in env:
        errors.append(UsageError("USAGE-03", "NNODES is set and NODE_RANK is not", fix=f"NODE_RANK=0 to {nodes - 1}"))
    if rank > 0 and not env.get("MASTER_ADDR"):
        errors.append(UsageError("USAGE-03", "MASTER_ADDR is not set", fix="MASTER_ADDR=<address of node 0>"))
    raise_all(errors)
    default = DEFAULT_PORT if nodes > 1 else None
    return Launch(processes, nodes, rank, env.get("MASTER_ADDR") or "127.0.0.1", port or default, patience)


def _number(env: Mapping[str, str], name: str, default: int, least: int, most: int, errors: list[UsageError]) -> int:
    text = env.get(name)
    if not text:
        return default
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        errors.append(UsageError("USAGE-02", f"{name} is {text!r}", fix=f"a whole number from {least} to {most}"))
        return default
    return number


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
