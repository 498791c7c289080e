"""Several adapters in one merge: what each would do to a weight, weighted and made one.

Each adapter's change D_i of a weight (what the weight is with it, less the base's) is taken as a whole, whatever the
adapter's method and rank are.

Papers: task arithmetic, https://arxiv.org/abs/2212.04089, section 2 (`linear`); TIES, https://arxiv.org/abs/2306.01708,
algorithm 1; DARE, https://arxiv.org/abs/2311.03099, section 3.2.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swift.merging import tensors
from swift.merging.updates import LowRank, Update

KINDS = ("linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune")


@dataclass(frozen=True)
class Combination:
    """How changes become one.

    Args:
        kind: of `KINDS`.
        density: the share of each change that is kept, where some is pruned.
        rank: of the result of `svd`; None is the largest of the adapters' ranks.
    """

    kind: str = "linear"
    density: float = 0.5
    rank: int | None = None


def combined(name: str, item: Any, how: Combination, updated: Callable[..., Iterator[Tensor]]) -> Iterator[Tensor]:
    """The blocks of a tensor after the changes of several adapters.

    Args:
        name: of the tensor; what is drawn at random for it depends on nothing else.
        item: the tensor, of the plan.
        how: how the changes become one.
        updated: gives the blocks of the tensor with the updates of one adapter.
    """
    several = [(weight, [make() for make in makers]) for weight, makers in item.changes]
    if (
        how.kind == "linear"
        and not item.replaced
        and not any(one.looks or one.needs_all for _, s in several for one in s)
    ):
        start = 0
        for rows in updated(item, []):
            yield sum((weight * (_after(rows, start, ups) - rows) for weight, ups in several), rows)
            start += len(rows)
        return
    weights = [weight for weight, _ in (*item.changes, *item.replaced)]
    base = torch.cat([rows if rows.ndim else rows[None] for rows in updated(item, [])])
    changes = [torch.cat(list(updated(item, updates))) - base for _, updates in several]
    changes += [tensors.whole(stored) - base for _, stored in item.replaced]
    ranks = [one.right.shape[0] for _, updates in several for one in updates if isinstance(one, LowRank)]
    yield base.add_(one_of(changes, weights, how, name, max(ranks, default=None)))


def _after(rows: Tensor, start: int, updates: list[Update]) -> Tensor:
    rows = rows.clone()
    for update in updates:
        rows = update.apply(rows, start)
    return rows


def one_of(changes: list[Tensor], weights: list[float], how: Combination, name: str, rank: int | None) -> Tensor:
    """One change made of several of the same shape."""
    random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if how.kind in ("ties", "magnitude_prune"):
        changes = [_largest(change, how.density) for change in changes]
    elif how.kind.startswith("dare"):
        changes = [change * _drawn(change, how.density, random) / how.density for change in changes]
    scaled = [change * weight for change, weight in zip(changes, weights, strict=True)]
    if how.kind.endswith("ties"):
        return _elected(changes, scaled)
    total = sum(scaled[1:], scaled[0])
    wanted = how.rank or rank
    if how.kind != "svd" or wanted is None or total.ndim != 2 or wanted >= min(total.shape):
        return total
    left, sizes, right = torch.linalg.svd(total, full_matrices=False)
    return (left[:, :wanted] * sizes[:wanted]) @ right[:wanted]


def _largest(change: Tensor, density: float) -> Tensor:
    """The largest numbers of a change, zero for the others."""
    count = int(density * change.numel())
    kept = torch.zeros(change.numel())
    kept[change.abs().reshape(-1).topk(count).indices] = 1
    return change * kept.view(change.shape)


def _drawn(change: Tensor, density: float, random: torch.Generator) -> Tensor:
    return (torch.rand(change.shape, generator=random) < density).to(change.dtype)


def _elected(changes: list[Tensor], scaled: list[Tensor]) -> Tensor:
    """The mean of those numbers that have the sign of the sum, place by place."""
    stacked = torch.stack(changes)
    sign = torch.where(stacked.sum(0) >= 0, 1, -1)
    agrees = stacked.sign() == sign
    return (torch.stack(scaled) * agrees).sum(0) / agrees.sum(0).clamp(min=1)
