"""Parameters of which each process has a part: which part that is, and the whole of them where it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swift.parallel.collectives import joined, summed
from swift.parallel.groups import Group

ATTRIBUTE = "cut"


@dataclass(frozen=True)
class Cut:
    """How a parameter is cut: `axis` is so many equal `blocks` in a row, and each process has its part of every block.

    A linear layer is one block; the keys and values of a prefix are a block for each of them.
    """

    axis: int
    group: Group
    blocks: int = 1

    def part(self, whole: Tensor) -> Tensor:
        """This process's part of a whole tensor, a copy."""
        axis, group = self.axis % whole.ndim, self.group
        parts = whole.unflatten(axis, (self.blocks, group.degree, -1)).select(axis + 1, group.rank)
        return parts.flatten(axis, axis + 1).contiguous()

    def whole(self, part: Tensor) -> Tensor:
        """The whole tensor from the parts of all processes, each of which has to call this."""
        axis = self.axis % part.ndim
        blocks = part.unflatten(axis, (self.blocks, -1))
        return joined(blocks, axis + 1, self.group).flatten(axis, axis + 1)

    def whole_shape(self, part: Tensor) -> torch.Size:
        """The shape of the whole tensor."""
        shape = list(part.shape)
        shape[self.axis] *= self.group.degree
        return torch.Size(shape)


def mark(parameter: Tensor, cut: Cut) -> None:
    """Note on a parameter that it is one part."""
    vars(parameter)[ATTRIBUTE] = cut


def cut_of(parameter: Tensor) -> Cut | None:
    """How a parameter is cut; None for one that is whole."""
    return vars(parameter).get(ATTRIBUTE)


def cut_down(parameter: Tensor, cut: Cut) -> None:
    """Leave this process's part of a whole parameter; one that two modules share is cut once."""
    if cut_of(parameter) is None:
        parameter.data = cut.part(parameter.data)
        mark(parameter, cut)


def whole(parameter: Tensor) -> Tensor:
    """The whole values of a parameter; every process of the group has to ask. One that is whole comes as it is."""
    cut = cut_of(parameter)
    return parameter.detach() if cut is None else cut.whole(parameter.detach())


def whole_shape(parameter: Tensor) -> torch.Size:
    """The shape of a parameter in one process."""
    cut = cut_of(parameter)
    return parameter.shape if cut is None else cut.whole_shape(parameter)


@contextmanager
def made_whole(parameters: Iterable[Tensor], *, keep: bool = True, written: bool = False) -> Iterator[None]:
    """Put the whole of each cut parameter in its place inside the block, in main memory.

    Args:
        parameters: of all processes of the group, in the same order.
        keep: whether this process needs them; the others only hand in their parts.
        written: whether parts of what the block leaves there are taken; else they are as they were.
    """
    parts: dict[int, tuple[Any, Cut, Tensor]] = {}
    try:
        for parameter in parameters:
            cut = cut_of(parameter)
            if cut is not None and id(parameter) not in parts:
                found = whole(parameter)
                parts[id(parameter)] = parameter, cut, parameter.data
                if keep:
                    parameter.data = found.cpu()
        yield
        if written:
            for parameter, cut, part in parts.values():
                part.copy_(cut.part(parameter.data))
    finally:
        for parameter, _, part in parts.values():
            parameter.data = part


def norm_of_gradients(parameters: Iterable[Tensor], group: Group) -> Tensor:
    """The 2-norm of the gradients of all parameters, of which each part counts once; the same in all processes."""
    squares = {True: [], False: []}
    for parameter in parameters:
        if parameter.grad is not None:
            squares[cut_of(parameter) is not None].append(parameter.grad.float().square().sum())
    device = next((square.device for both in squares.values() for square in both), torch.device("cpu"))
    zero = torch.zeros((), device=device)
    return (sum(squares[False], zero) + summed(sum(squares[True], zero), group)).sqrt()


class CutDropout(nn.Dropout):
    """Dropout of one part of a tensor that draws for the whole, so that each process drops what one alone would."""

    def __init__(self, p: float, cut: Cut) -> None:
        super().__init__(p)
        self.cut = cut

    def forward(self, input: Tensor) -> Tensor:
        """`input` with some of its elements 0, and the others larger."""
        if not self.training or not self.p:
            return input
        ones = input.new_ones(self.cut.whole_shape(input))
        return input * self.cut.part(F.dropout(ones, self.p))
