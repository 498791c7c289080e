"""Linear layers and embeddings of which each process has a part.

A column layer has some of the outputs, a row layer some of the inputs. `in_features` and `out_features` are those of
the whole layer, so that what goes into it, such as LoRA, is made as for the whole.

Paper: Megatron-LM, https://arxiv.org/abs/1909.08053, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swift.parallel.collectives import add_up, join, spread, take_part
from swift.parallel.cuts import Cut, cut_down
from swift.parallel.groups import Group


class CutLinear(nn.Linear):
    """What both kinds of linear layers share.

    Args:
        layer: the whole one, whose parameters are taken over and cut.
        group: the processes that share it.
        whole: whether the other side of the layer, a column's outputs or a row's inputs, is whole in every process.
    """

    axis: int

    def __init__(self, layer: nn.Linear, group: Group, whole: bool = False) -> None:
        self.start(layer, group, whole)
        cut_down(self.weight, Cut(self.axis, group))

    def start(self, layer: nn.Linear, group: Group, whole: bool) -> None:
        """Be a layer of `layer`'s size with its parameters as they are."""
        nn.Linear.__init__(self, layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.group, self.whole = group, whole
        nn.Module.train(self, layer.training)

    def extra_repr(self) -> str:
        """The plain layer's text, and which part this is."""
        return f"{super().extra_repr()}, part {self.group.rank} of {self.group.degree}"


class ColumnLinear(CutLinear):
    """y = x W' + b with a part of y in each process; with `whole` all of y."""

    axis = 0

    def __init__(self, layer: nn.Linear, group: Group, whole: bool = False) -> None:
        super().__init__(layer, group, whole)
        if self.bias is not None:
            cut_down(self.bias, Cut(0, group))

    def forward(self, input: Tensor) -> Tensor:
        """This process's part of the outputs for an input that all have."""
        y = F.linear(spread(input, self.group), self.weight, self.bias)
        return join(y, self.group) if self.whole else y


class RowLinear(CutLinear):
    """y = x W' + b from a part of x in each process; with `whole` all of them are given all of x."""

    axis = 1

    def forward(self, input: Tensor) -> Tensor:
        """The outputs, the same in all processes."""
        x = take_part(input, self.group) if self.whole else input
        y = add_up(F.linear(x, self.weight), self.group)
        return y if self.bias is None else y + self.bias


def cut_embedding(module: nn.Embedding, group: Group) -> None:
    """Leave the rows of a part of the vocabulary in each process.

    What a module adds to the lookup, such as Gemma's scale, stays.
    """
    rows = module.num_embeddings // group.degree
    cut_down(module.weight, Cut(0, group))
    padding = module.padding_idx
    module.padding_idx = padding % rows if padding is not None and padding // rows == group.rank else None
    vars(module)["forward"] = partial(_look_up, module.forward, rows, group)


def _look_up(plain: Callable[[Tensor], Tensor], rows: int, group: Group, input: Tensor) -> Tensor:
    """The rows of the ids; those of other processes come from them."""
    own = input - group.rank * rows
    mine = (own >= 0) & (own < rows)
    return add_up(plain(own.clamp(0, rows - 1)) * mine.unsqueeze(-1), group)


def split_cross_entropy(group: Group) -> Callable[..., Tensor]:
    """The loss of a causal model, as transformers calls it, from logits of which each process has a part."""

    def loss(
        logits: Tensor,
        labels: Tensor,
        vocab_size: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int = -100,
        shift_labels: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        targets = F.pad(labels, (0, 1), value=ignore_index)[..., 1:] if shift_labels is None else shift_labels
        logits_NV, targets_N = logits.float().flatten(0, -2), targets.flatten().to(logits.device)
        top_N = logits_NV.detach().amax(-1)
        torch.distributed.all_reduce(top_N, torch.distributed.ReduceOp.MAX, group.handle)
        shifted_NV = logits_NV - top_N[:, None]
        total_N = add_up(shifted_NV.exp().sum(-1), group).log()
        own_N = targets_N - group.rank * logits_NV.shape[-1]
        mine_N = (own_N >= 0) & (own_N < logits_NV.shape[-1])
        said_N = shifted_NV.gather(-1, own_N.clamp(0, logits_NV.shape[-1] - 1)[:, None])[:, 0] * mine_N
        losses_N = (total_N - add_up(said_N, group)) * (targets_N != ignore_index)
        count = (targets_N != ignore_index).sum() if num_items_in_batch is None else num_items_in_batch
        return losses_N.sum() / count

    return loss
