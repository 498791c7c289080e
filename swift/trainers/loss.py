"""The loss of a language model, summed over tokens so that any split of a step into batches gives the same.

Letters in names: B rows, T tokens, K kept positions, N tokens in a flat list, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from swift.registry import unknown

IGNORED = -100

TokenLoss = Callable[[Tensor, Tensor], Tensor]
"""A loss: logits_NV (float32), targets_N -> losses_N, one per supervised token. The trainer sums and divides."""

LOSSES: dict[str, TokenLoss] = {}


def register_loss(name: str) -> Callable[[TokenLoss], TokenLoss]:
    """Decorator that makes a loss available as `--loss_name name`."""

    def add(loss: TokenLoss) -> TokenLoss:
        LOSSES[name] = loss
        return loss

    return add


def find_loss(name: str | None) -> TokenLoss:
    """The loss of that name; None is plain cross-entropy.

    Raises:
        UnknownNameError: no such loss; the message names near ones.
    """
    if name is None:
        return cross_entropy
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]


@register_loss("cross-entropy")
def cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """-log p(target) of every token."""
    return F.cross_entropy(logits_NV, targets_N, reduction="none")


@dataclass(frozen=True)
class Smoothed:
    """Cross-entropy against (1 - epsilon) of the target and epsilon spread evenly over the vocabulary.

    Paper: Rethinking the Inception Architecture for Computer Vision, https://arxiv.org/abs/1512.00567, section 7.
    """

    epsilon: float

    def __call__(self, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        """The loss of every token."""
        return F.cross_entropy(logits_NV, targets_N, reduction="none", label_smoothing=self.epsilon)


def smoothing_of(loss: TokenLoss) -> float | None:
    """The epsilon of a cross-entropy, 0 without smoothing; None for any other loss."""
    if isinstance(loss, Smoothed):
        return loss.epsilon
    return 0.0 if loss is cross_entropy else None


@dataclass(frozen=True)
class Sums:
    """What one batch adds to the totals of a step, a log line or an evaluation. All are scalar tensors.

    `loss` is the sum over supervised tokens, each times its weight; `tokens` their number; `weight` the sum of their
    weights; `correct` how many the model would have said; `rows` the rows with a supervised token; `correct_rows` those
    whose supervised tokens are all correct.
    """

    loss: Tensor
    tokens: Tensor
    correct: Tensor
    rows: Tensor
    correct_rows: Tensor
    weight: Tensor


def supervised_positions(labels_BT: Tensor) -> Tensor:
    """Positions whose logits some row of the batch needs: those just before a label. Never empty: then it is the first.

    Shapes: labels_BT -> positions_K, rising; logits at position t predict the label at t + 1.
    """
    positions_K = (labels_BT[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(1)
    return positions_K if len(positions_K) else labels_BT.new_zeros(1)


def total_weight(labels_BT: Tensor, scale_BT: Tensor | None = None) -> Tensor:
    """What the tokens of a batch that carry loss weigh together; their number where there are no weights.

    Those are all with a label but for the first column, which nothing predicts.
    """
    on_BS = labels_BT[:, 1:] != IGNORED
    return on_BS.sum() if scale_BT is None else scale_BT[:, 1:][on_BS].sum()


Places = tuple[Tensor, Tensor]
"""Where the supervised of a batch's tokens are, row by row: rows_N and columns_N."""


def sum_losses(
    logits_BKV: Tensor,
    targets_BK: Tensor,
    loss: TokenLoss = cross_entropy,
    weights_BK: Tensor | None = None,
    places: Places | None = None,
) -> Sums:
    """Sum `loss` over the targets that are not -100, in float32 (float64 stays).

    Shapes: logits_BKV[:, k] is what predicts targets_BK[:, k], which weighs weights_BK[:, k], 1 without weights: the
    caller has shifted them already. `places` are those of the targets that are not -100; None looks for them.
    """
    on_BK = targets_BK != IGNORED
    at: Any = on_BK if places is None else tuple(place.to(logits_BKV.device) for place in places)
    logits_NV, targets_N = logits_BKV[at], targets_BK[at]
    wide_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    with torch.no_grad():
        right_N = logits_NV.argmax(dim=-1) == targets_N
    losses_N, weights_N = loss(wide_NV, targets_N), None
    if weights_BK is not None:
        weights_N = weights_BK[at].to(losses_N)
        losses_N = losses_N * weights_N
    return sums_of(losses_N.sum(), right_N, on_BK, weights_N)


def sums_of(loss: Tensor, right_N: Tensor, on_BK: Tensor, weights_N: Tensor | None = None) -> Sums:
    """The sums of a batch with that summed loss.

    Shapes: on_BK is true for supervised tokens; right_N says of each, in order, whether the model would have said it;
    weights_N what it weighs, 1 without weights.
    """
    right_BK = torch.ones_like(on_BK).masked_scatter_(on_BK, right_N)
    tokens, rows_B = on_BK.sum(), on_BK.any(dim=1)
    weight = tokens if weights_N is None else weights_N.sum()
    correct_rows = (right_BK.all(dim=1) & rows_B).sum()
    return Sums(loss, tokens, (right_BK & on_BK).sum(), rows_B.sum(), correct_rows, weight)
