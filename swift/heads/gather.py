"""Rows of all processes as one tensor through which gradients flow back to where each row is from."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Gather(torch.autograd.Function):
    """All rows, of processes in their order; backward gives each process the gradients of its own from all."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: list[int]) -> Tensor:
        """The rows of all; `counts` is how many each has."""
        ctx.counts = counts
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The sum over processes of the gradients of the own rows."""
        whole = grads[0].contiguous()
        dist.all_reduce(whole)
        start = sum(ctx.counts[: dist.get_rank()])
        return whole[start : start + ctx.counts[dist.get_rank()]], None


def several() -> bool:
    """Whether other processes train too."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def counts_of(own: int, device: torch.device) -> list[int]:
    """How many rows each process has."""
    if not several():
        return [own]
    parts = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, torch.tensor([own], device=device))
    return [int(part) for part in parts]


def gathered(own: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, and where the own ones begin."""
    if not several():
        return own, 0
    counts = counts_of(len(own), own.device)
    made: Any = _Gather.apply(own, counts)
    return made, sum(counts[: dist.get_rank()])
