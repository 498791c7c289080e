"""How far a model's next tokens are from its teacher's, in chunks: whole logits of the two never exist together.

Letters in names: N supervised tokens in a flat list, C those of one chunk, V vocabulary, H hidden size of the model
that learns, G that of the teacher.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from swift.trainers.head import HALF_BOOST, HeadLoss, Rule, add_product, as_autocast, chunk_of, take_gradients


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        beta: where the mixture stands that both are compared with: 0 is the divergence of the teacher from the student
            (forward), 1 that of the student from the teacher (reverse).
        temperature: what the logits of both are divided by.
        vocabulary: how many tokens there are; None is all that the heads know.
    """

    beta: float = 0.5
    temperature: float = 1.0
    vocabulary: int | None = None


def divergences(student_NV: Tensor, teacher_NV: Tensor, settings: Settings) -> Tensor:
    """The generalised Jensen-Shannon divergence of every token's distributions, from their logits.

    Shapes: student_NV, teacher_NV -> N.

    Paper: On-Policy Distillation of Language Models, https://arxiv.org/abs/2306.13649, equation 1, whose ends at beta
    0 and 1, where it vanishes, are the forward and the reverse divergence.
    """
    s_NV = (student_NV / settings.temperature).log_softmax(dim=-1)
    t_NV = (teacher_NV / settings.temperature).log_softmax(dim=-1)
    if settings.beta == 0:
        return _kl(t_NV, s_NV)
    if settings.beta == 1:
        return _kl(s_NV, t_NV)
    mixture_NV = _mixture(s_NV, t_NV, settings.beta)
    return settings.beta * _kl(t_NV, mixture_NV) + (1 - settings.beta) * _kl(s_NV, mixture_NV)


def _mixture(s_NV: Tensor, t_NV: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(s_NV + math.log1p(-beta), t_NV + math.log(beta))


def _kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """The divergence of q from p, both log-probabilities."""
    return (p_NV.exp() * (p_NV - q_NV)).sum(dim=-1)


def slopes(y_CV: Tensor, z_CV: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """The divergences of a chunk, and their gradient by the student's logits `y_CV`."""
    beta, temperature = settings.beta, settings.temperature
    s_CV, t_CV = (y_CV / temperature).log_softmax(dim=-1), (z_CV / temperature).log_softmax(dim=-1)
    p_CV = s_CV.exp()
    if beta == 0:
        return _kl(t_CV, s_CV), p_CV.sub_(t_CV.exp()).div_(temperature)
    q_CV = t_CV if beta == 1 else _mixture(s_CV, t_CV, beta)
    weight = 1.0 if beta == 1 else 1 - beta
    apart_CV = s_CV.sub_(q_CV)
    own_C = (p_CV * apart_CV).sum(dim=-1)
    slope_CV = p_CV.mul_(apart_CV.sub_(own_C[:, None])).mul_(weight / temperature)
    return (own_C if beta == 1 else beta * _kl(t_CV, q_CV) + weight * own_C), slope_CV


class Said(Protocol):
    """What a teacher says of the tokens of a batch."""

    def logits(self, part: slice) -> Tensor:
        """Its logits at some of them, in float32 (float64 stays), which may be written over."""
        ...


@dataclass(frozen=True)
class SaidByHead:
    """Hidden states of a teacher, of which its head makes logits when they are asked for."""

    hidden_NG: Tensor
    head: nn.Linear
    rule: Rule
    vocabulary: int | None

    def logits(self, part: slice) -> Tensor:
        """Logits of some tokens, over the vocabulary that is looked at."""
        bias_V = None if self.head.bias is None else self.head.bias[: self.vocabulary]
        out_CV = F.linear(self.hidden_NG[part], self.head.weight[: self.vocabulary], bias_V)
        return self.rule.logits(_wide(out_CV))


@dataclass(frozen=True)
class SaidWhole:
    """Logits of a teacher whose head is of no plain kind."""

    logits_NV: Tensor

    def logits(self, part: slice) -> Tensor:
        """Logits of some tokens."""
        return _wide(self.logits_NV[part])


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


@dataclass
class TeacherLoss:
    """The divergences of whole logits, as `swift.trainers.loss.TokenLoss` has it, where the head is of no plain kind.

    Attributes:
        settings: what is measured.
        said: what the teacher says of the batch at hand.
    """

    settings: Settings
    said: Said | None = None

    def __call__(self, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        """The loss of every token."""
        assert self.said is not None, "the teacher was not asked"
        return divergences(logits_NV[:, : self.settings.vocabulary], self.said.logits(slice(None)), self.settings)


class ChunkedDivergence(torch.autograd.Function):
    """The sum of weighted divergences of hidden states, as `swift.trainers.head.ChunkedLoss` makes cross-entropies."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        head_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        weights_N: Tensor | None,
        rule: Rule,
        said: Said,
        settings: Settings,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        """The loss, and for every token whether its target is the likeliest."""
        for_hidden, for_head, for_bias = ctx.needs_input_grad[:3]
        ctx.dtypes = hidden_NH.dtype, head_VH.dtype, None if bias_V is None else bias_V.dtype
        hidden_NH, head_VH, bias_V = (as_autocast(x) for x in (hidden_NH, head_VH, bias_V))
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        ctx.boost = HALF_BOOST if hidden_NH.dtype == torch.float16 else 1.0
        total, right_N = hidden_NH.new_zeros((), dtype=wide), torch.empty_like(targets_N, dtype=torch.bool)
        grad_NH = torch.empty_like(hidden_NH) if for_hidden else None
        grad_VH = torch.zeros_like(head_VH, dtype=wide) if for_head else None
        grad_V = torch.zeros_like(bias_V, dtype=wide) if bias_V is not None and for_bias else None
        for start in range(0, len(targets_N), chunk):
            part = slice(start, start + chunk)
            hidden_CH, targets_C = hidden_NH[part], targets_N[part]
            y_CV = rule.logits(F.linear(hidden_CH, head_VH, bias_V).to(wide))
            right_N[part] = y_CV.gather(1, targets_C[:, None]).squeeze(1) >= y_CV.amax(dim=1)
            losses_C, slope_CV = slopes(y_CV, said.logits(part).to(wide), settings)
            weights_C = None if weights_N is None else weights_N[part].to(wide)
            total += (losses_C if weights_C is None else losses_C * weights_C).sum()
            slope_CV = _through_rule(slope_CV, y_CV, rule)
            if weights_C is not None:
                slope_CV.mul_(weights_C[:, None])
            narrow_CV = slope_CV.mul_(ctx.boost).to(hidden_NH.dtype)
            if grad_NH is not None:
                torch.mm(narrow_CV, head_VH, out=grad_NH[part])
            if grad_VH is not None:
                add_product(grad_VH, narrow_CV, hidden_CH)
            if grad_V is not None:
                grad_V += narrow_CV.sum(0, dtype=wide)
        ctx.gradients = grad_NH, grad_VH, grad_V
        ctx.mark_non_differentiable(right_N)
        return total, right_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradients that the forward pass made; they are used up."""
        return *take_gradients(ctx, grads[0]), None, None, None, None, None, None


def _through_rule(slope_CV: Tensor, y_CV: Tensor, rule: Rule) -> Tensor:
    """The gradient by the head's output, of that by the logits; in its memory, and that of the logits."""
    if rule.cap is not None:
        slope_CV.mul_(y_CV.div_(rule.cap).square_().neg_().add_(1))
    return slope_CV.mul_(rule.scale) if rule.scale != 1.0 else slope_CV


class HeadDivergence(HeadLoss):
    """The divergence from a teacher, of a model's own forward pass, in which its head makes it in place of logits.

    Args:
        head: the output head, a plain linear layer.
        rule: what becomes of its output.
        loss: what is measured, and what the teacher said.
    """

    def __init__(self, head: nn.Linear, rule: Rule, loss: TeacherLoss) -> None:
        super().__init__(head, rule)
        self.loss = loss

    def summed(self, hidden_NH: Tensor, targets_N: Tensor, weights_N: Tensor | None) -> tuple[Tensor, Tensor]:
        """The summed divergence, and which of the targets are the likeliest tokens."""
        assert self.loss.said is not None, "the teacher was not asked"
        settings = self.loss.settings
        size = settings.vocabulary
        bias_V = None if self.head.bias is None else self.head.bias[:size]
        made: Any = ChunkedDivergence.apply(
            hidden_NH,
            self.head.weight[:size],
            bias_V,
            targets_N,
            weights_N,
            self.rule,
            self.loss.said,
            settings,
            chunk_of(len(self.head.weight)),
        )
        return made
