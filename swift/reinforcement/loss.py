"""The losses of GRPO and RLOO: of tables of log-probabilities, answers by their tokens.

Letters in names: A answers, T tokens of the longest, N tokens in a flat list, answer by answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """The numbers of a loss.

    Attributes:
        loss: grpo, bnpo, dr_grpo, dapo or rloo.
        beta: the weight of the divergence from the reference; of rloo it is in the rewards already.
        low: how much unlikelier an answer may become.
        high: how much likelier.
        longest: tokens that an answer may have.
    """

    loss: str
    beta: float
    low: float
    high: float
    longest: int


@dataclass(frozen=True)
class Table:
    """Where the tokens of a flat list stand in a table of answers.

    Attributes:
        answer_N: which answer each is of.
        column_N: which token of it.
        mask_AT: 1 where there is one.
    """

    answer_N: Tensor
    column_N: Tensor
    mask_AT: Tensor

    @classmethod
    def of(cls, answer_N: Tensor, count: int) -> Table:
        """Of tokens that come answer by answer."""
        tokens_A = torch.bincount(answer_N, minlength=count)
        column_N = torch.arange(len(answer_N), device=answer_N.device) - (tokens_A.cumsum(0) - tokens_A)[answer_N]
        columns_T = torch.arange(int(tokens_A.max()), device=answer_N.device)
        return cls(answer_N, column_N, (columns_T < tokens_A[:, None]).float())

    def put(self, values_N: Tensor) -> Tensor:
        """The values as a table, 0 where there is no token."""
        room_AT = values_N.new_zeros(self.mask_AT.shape)
        return room_AT.index_put((self.answer_N, self.column_N), values_N)


@dataclass(frozen=True)
class Losses:
    """What tokens cost, or whole answers.

    Attributes:
        values_AT: the loss of each token; of answers as wholes, A, 1.
        divergence_AT: how far from the reference each token is; None without.
        clipped_AT: where the probability has changed so much that it counts no more; as `values_AT`.
    """

    values_AT: Tensor
    divergence_AT: Tensor | None
    clipped_AT: Tensor


def losses(
    logps_AT: Tensor,
    old_AT: Tensor,
    reference_AT: Tensor | None,
    mask_AT: Tensor,
    advantages_A: Tensor,
    settings: Settings,
) -> Losses:
    """The loss of each token, or with rloo of each answer.

    Args:
        logps_AT: log-probabilities of the tokens.
        old_AT: the same when they were written.
        reference_AT: what the reference says; None without.
        mask_AT: 1 where there is a token that counts.
        advantages_A: how much better than its group each answer is.
        settings: the loss and its numbers.
    """
    change_AT = (logps_AT - old_AT) * mask_AT
    if settings.loss == "rloo":
        change_AT = change_AT.sum(1, keepdim=True)
    ratio_AT, gain_A1 = change_AT.exp(), advantages_A[:, None]
    bounded_AT = ratio_AT.clamp(1 - settings.low, 1 + settings.high)
    values_AT = -torch.minimum(ratio_AT * gain_A1, bounded_AT * gain_A1)
    too_low_AT = (ratio_AT < 1 - settings.low) & (gain_A1 < 0)
    too_high_AT = (ratio_AT > 1 + settings.high) & (gain_A1 > 0)
    divergence_AT = None
    if reference_AT is not None and settings.loss != "rloo":
        divergence_AT = divergence(logps_AT, reference_AT)
        values_AT = values_AT + settings.beta * divergence_AT
    return Losses(values_AT, divergence_AT, too_low_AT | too_high_AT)


def divergence(logps_AT: Tensor, reference_AT: Tensor) -> Tensor:
    """How far from the reference each token is, estimated without ever being negative.

    See: http://joschu.net/blog/kl-approx.html, k3.
    """
    change_AT = reference_AT - logps_AT
    return change_AT.exp() - change_AT - 1


def counts_of(learnt_A: Tensor, weight_A: Tensor) -> Tensor:
    """Of a batch: its answers, their tokens that count, and 1 if there are such.

    Args:
        learnt_A: tokens of each answer that count.
        weight_A: 1 for every answer, 0 for one that only fills up a batch.
    """
    tokens = (learnt_A * weight_A).sum()
    return torch.stack([weight_A.sum(), tokens, (tokens > 0).to(tokens)])


def share_of_step(losses: Losses, mask_AT: Tensor, weight_A: Tensor, counts: Tensor, settings: Settings) -> Tensor:
    """What a batch adds to the loss of its step.

    Args:
        losses: of its answers.
        mask_AT: 1 where there is a token that counts.
        weight_A: 1 for every answer, 0 for one that only fills up a batch.
        counts: of the step, over all processes: answers, tokens that count, batches with such.
        settings: the loss and its numbers.
    """
    answers, tokens, batches = counts.to(losses.values_AT)
    if settings.loss == "rloo":
        counted_A = (mask_AT.sum(1) > 0) * weight_A
        return (losses.values_AT.squeeze(1) * counted_A).sum() / answers
    values_A = (losses.values_AT * mask_AT).sum(1) * weight_A
    if settings.loss == "grpo":
        return (values_A / mask_AT.sum(1).clamp(min=1)).sum() / answers
    if settings.loss == "dr_grpo":
        return values_A.sum() / (answers * settings.longest)
    if settings.loss == "bnpo":
        return values_A.sum() / (mask_AT.sum(1) * weight_A).sum().clamp(min=1) / batches.clamp(min=1)
    return values_A.sum() / tokens.clamp(min=1)
