"""What processes that hold one model tell each other, with the gradients that belong to it.

`spread` and `add_up` are each other's gradient, as are `join` and `take_part`: a tensor that is the same in all
processes has the same gradient in all of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from swift.parallel.groups import Group

SPREAD = "spread"  # the attribute under which a tensor keeps what was made of it


def summed(tensor: Tensor, group: Group) -> Tensor:
    """The sum of the processes' tensors; without a gradient."""
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    if group.handle is None:
        group.sent.append(2 * _passed_on(total, group))
    else:
        distributed.all_reduce(total, group=group.handle)
    return total


def joined(tensor: Tensor, axis: int, group: Group) -> Tensor:
    """The processes' tensors, of one shape, put together along an axis in the order of their ranks; no gradient."""
    own = tensor.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(group.degree)]
    if group.handle is None:
        group.sent.append(group.degree * _passed_on(own, group))
    else:
        distributed.all_gather(parts, own, group=group.handle)
    return torch.cat(parts, axis)


def _passed_on(tensor: Tensor, group: Group) -> int:
    """Bytes that each process of a ring sends until all have seen every part of a tensor."""
    return tensor.numel() * tensor.element_size() * (group.degree - 1) // group.degree


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return tensor.detach()  # no view: the tensor keeps this, and a view would keep the tensor for ever

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return summed(grads[0], ctx.group), None


class _AddUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        return summed(tensor, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return joined(tensor, -1, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0].chunk(ctx.group.degree, -1)[ctx.group.rank].contiguous(), None


class _TakePart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return tensor.chunk(group.degree, -1)[group.rank].contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return joined(grads[0], -1, ctx.group), None


def spread(tensor: Tensor, group: Group) -> Tensor:
    """`tensor`, which all have, for different work in each: its gradient is the sum of theirs.

    Layers that are given the same tensor share what comes back, so that one sum is made of all their gradients.
    """
    if not (torch.is_grad_enabled() and tensor.requires_grad):
        return tensor
    known = vars(tensor).get(SPREAD)
    if known is None:
        known = _Spread.apply(tensor, group)  # pyright: ignore
        if not tensor.is_leaf:  # a parameter is there in the next step too
            vars(tensor)[SPREAD] = known
    return known


def add_up(tensor: Tensor, group: Group) -> Tensor:
    """The sum of the processes' tensors."""
    return _AddUp.apply(tensor, group)  # pyright: ignore


def join(tensor: Tensor, group: Group) -> Tensor:
    """The processes' tensors beside each other along the last axis."""
    return _Join.apply(tensor, group)  # pyright: ignore


def take_part(tensor: Tensor, group: Group) -> Tensor:
    """This process's part of the last axis of a `tensor` that all have."""
    return _TakePart.apply(tensor, group)  # pyright: ignore
