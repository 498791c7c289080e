"""Which processes hold one model together, and which of them hold the same part of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch
import torch.distributed as distributed
from torch.distributed import ProcessGroup

from swift.errors import ConfigError

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Group:
    """The processes that hold one model together, and this one's place among them.

    Processes of one group have numbers in a row: with a degree of 2, 0 and 1 hold a model, 2 and 3 the next.

    Args:
        degree: how many they are.
        rank: which of them this is, 0 to degree - 1.
        replica: which of the models this is part of.
        replicas: how many models there are.
        handle: torch's group of them; None where there are no others, and only shapes and what is sent matter.
        alike: torch's group of the processes that have this one's part, one of each model; None likewise.
        sent: bytes of each call that would be made, where there are no others.
    """

    degree: int
    rank: int
    replica: int
    replicas: int
    handle: ProcessGroup | None = field(repr=False)
    alike: ProcessGroup | None = field(repr=False)
    sent: list[int] = field(default_factory=list, repr=False, compare=False)


def imagine_group(degree: int, replicas: int = 1) -> Group:
    """The group of the first process where there are no others, for tensors that have shapes alone."""
    return Group(degree, 0, 0, replicas, None, None)


def make_group(degree: int, rank: int | None = None) -> Group:
    """Cut all processes that run together into groups of `degree`; this one's group.

    Torch's default group is made first where there is none, from the variables that a launcher sets.

    Args:
        degree: how many processes hold a model.
        rank: what the caller takes this process to be in its group; None where it does not say.

    Raises:
        ConfigError: this process runs alone, the degree does not divide the number of processes, or `rank` is another.
    """
    _join()
    world, own = distributed.get_world_size(), distributed.get_rank()
    if degree < 2 or world % degree:
        what = f"tensor_parallel_degree={degree} with {world} processes"
        allowed = ", ".join(str(n) for n in range(2, world + 1) if world % n == 0)
        raise ConfigError("CONFIG-02", what, why="every model has as many processes", fix=f"one of {allowed}")
    if rank is not None and rank != own % degree:
        what = f"tensor_parallel_rank={rank} in process {own} of {world} with tensor_parallel_degree={degree}"
        raise ConfigError("CONFIG-02", what, why="a group's processes are numbered in a row", fix=f"{own % degree}")
    together = [distributed.new_group(list(range(start, start + degree))) for start in range(0, world, degree)]
    alike = [distributed.new_group(list(range(start, world, degree))) for start in range(degree)]
    replica, place = divmod(own, degree)
    model, part = together[replica], alike[place]
    assert isinstance(model, ProcessGroup), "this process is in it"
    assert isinstance(part, ProcessGroup), "this process is in it"
    return Group(degree, place, replica, world // degree, model, part)


def _join() -> None:
    if distributed.is_initialized():
        return
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing or os.environ["WORLD_SIZE"] == "1":
        what = "tensor_parallel_degree above 1 in a process that runs alone"
        raise ConfigError("CONFIG-02", what, fix="start the script with torchrun --nproc_per_node 2 script.py")
    if torch.cuda.is_available():  # needs-cuda
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
