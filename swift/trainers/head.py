"""The loss through a model's output head in chunks of tokens: whole logits never exist, forward or backward.

Letters in names: B rows, T tokens, N supervised tokens in a flat list, C those of one chunk, V vocabulary, H hidden
size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from swift.trainers.loss import IGNORED, Places, Sums, TokenLoss, smoothing_of, sums_of
from swift.tuners.layers import telling

CHUNK_ELEMENTS = 2**24  # logits that exist at a time: 64 MiB in float32
LEAST_TOKENS, MOST_TOKENS = 64, 1024  # of a chunk: fewer waste the matrix product, more only memory
SCALES, CAP = ("logit_scale", "logits_scaling", "lm_head_multiplier"), "final_logit_softcapping"  # in configs
HALF_BOOST = 1024.0  # keeps small gradients of float16 from becoming zero until the loss scale comes in


@dataclass(frozen=True)
class Rule:
    """What becomes of the head's output x before the loss: the logits are cap * tanh(scale * x / cap).

    `scale` is Cohere's and Granite's; `cap`, Gemma 2's soft-capping, is None where there is none. `smoothing` is the
    share of the target that is spread over the vocabulary.
    """

    scale: float = 1.0
    cap: float | None = None
    smoothing: float = 0.0

    def logits(self, x: Tensor) -> Tensor:
        """The logits of an output x of the head, in its memory."""
        if self.scale != 1.0:
            x = x.mul_(self.scale)
        return x if self.cap is None else x.div_(self.cap).tanh_().mul_(self.cap)


class ChunkedLoss(torch.autograd.Function):
    """The sum of weighted cross-entropies of hidden states, and which tokens the model would have said.

    A chunk's logits are made, turned into the gradient of what needs one, and overwritten by the next: the gradients
    are there before the backward pass, which only multiplies them by what comes in.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        head_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        weights_N: Tensor | None,
        rule: Rule,
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
        room_CV = hidden_NH.new_empty(min(chunk, len(targets_N)), len(head_VH))
        for start in range(0, len(targets_N), chunk):
            part = slice(start, start + chunk)
            hidden_CH, targets_C = hidden_NH[part], targets_N[part]
            out_CV = torch.mm(hidden_CH, head_VH.t(), out=room_CV[: len(targets_C)])
            x_CV = (out_CV if bias_V is None else out_CV.add_(bias_V)).to(wide)
            losses_C, right_N[part], dx_CV = chunk_losses(x_CV, targets_C, rule, any(ctx.needs_input_grad[:3]))
            weights_C = None if weights_N is None else weights_N[part].to(wide)
            total += (losses_C if weights_C is None else losses_C * weights_C).sum()
            if dx_CV is None:
                continue
            if weights_C is not None:
                dx_CV.mul_(weights_C[:, None])
            dx_CV = dx_CV.mul_(ctx.boost) if ctx.boost != 1 else dx_CV
            narrow_CV = dx_CV if dx_CV.dtype == out_CV.dtype else out_CV.copy_(dx_CV)
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
        return *take_gradients(ctx, grads[0]), None, None, None, None


def take_gradients(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """The gradients that a forward pass made of hidden states, head and bias, times what comes in; once only."""
    made, ctx.gradients = ctx.gradients, None
    if made is None:
        raise RuntimeError("the chunked loss can be gone back through once only")
    factor = grad / ctx.boost
    return [
        None if one is None else one.mul_(factor.to(one.device)).to(dtype)
        for one, dtype in zip(made, ctx.dtypes, strict=True)
    ]


def chunk_losses(x_CV: Tensor, targets_C: Tensor, rule: Rule, learns: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Losses, hits, and the gradient by the head's output, which takes the place of `x_CV`; None unless `learns`."""
    epsilon, at_C1 = rule.smoothing, targets_C[:, None]
    y_CV = rule.logits(x_CV)
    top_C, target_C = y_CV.amax(dim=1), y_CV.gather(1, at_C1).squeeze(1)
    right_C = _hits(y_CV, target_C, top_C, targets_C)
    mean_C = y_CV.mean(dim=1) if epsilon else target_C
    slope_CV = (y_CV / rule.cap).square_().neg_().add_(1) if learns and rule.cap is not None else None
    e_CV = y_CV.sub_(top_C[:, None]).exp_()
    sum_C = e_CV.sum(dim=1)
    losses_C = top_C + sum_C.log() - (1 - epsilon) * target_C - epsilon * mean_C
    if not learns:
        return losses_C, right_C, None
    dx_CV = e_CV.div_(sum_C[:, None])
    if epsilon:
        dx_CV.sub_(epsilon / dx_CV.shape[1])
    dx_CV.scatter_add_(1, at_C1, dx_CV.new_full((1, 1), epsilon - 1).expand(len(at_C1), 1))
    if slope_CV is not None:
        dx_CV.mul_(slope_CV)
    return losses_C, right_C, dx_CV.mul_(rule.scale) if rule.scale != 1.0 else dx_CV


def _hits(y_CV: Tensor, target_C: Tensor, top_C: Tensor, targets_C: Tensor) -> Tensor:
    """Whether the target is the first of the likeliest. On a CPU the slow search is only where it can be."""
    if not y_CV.is_cpu:
        return y_CV.argmax(dim=1) == targets_C
    right_C = target_C == top_C
    rows = right_C.nonzero().squeeze(1)
    right_C[rows] = y_CV[rows].argmax(dim=1) == targets_C[rows]
    return right_C


def add_product(sum_VH: Tensor, x_CV: Tensor, y_CH: Tensor) -> None:
    """Add x' y to a sum that may be wider."""
    if sum_VH.dtype == x_CV.dtype:
        sum_VH.addmm_(x_CV.t(), y_CH)
    else:
        sum_VH += x_CV.t() @ y_CH


def as_autocast(x: Any) -> Any:
    """The tensor in the precision that autocast would give it for a linear layer."""
    if x is None or not torch.is_autocast_enabled(x.device.type) or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))


def chunk_of(vocabulary: int) -> int:
    """How many tokens have logits at a time."""
    return min(max(CHUNK_ELEMENTS // vocabulary, LEAST_TOKENS), MOST_TOKENS)


class HeadLoss:
    """The loss of a model's own forward pass, in which its head is told to make the loss in place of logits.

    Args:
        head: the output head, a plain linear layer.
        rule: what becomes of its output.
    """

    def __init__(self, head: nn.Linear, rule: Rule) -> None:
        self.head, self.rule = head, rule
        self.sums: Sums | None = None

    @contextmanager
    def learning(
        self, labels_BT: Tensor, scale_BT: Tensor | None = None, places: Places | None = None
    ) -> Iterator[None]:
        """Let one call of the model inside the block leave its sums in `sums`; its logits are of no use.

        Args:
            labels_BT: -100 where nothing is learnt.
            scale_BT: the weight of each label; None is 1.
            places: of what predicts a label; None looks for them.
        """
        self.sums = None
        with stand_in(self.head, lambda hidden_BTH: self._learn(hidden_BTH, labels_BT, scale_BT, places)):
            yield

    def take(self) -> Sums:
        """What the call came to."""
        sums, self.sums = self.sums, None
        assert sums is not None, "the model did not call its head"
        return sums

    def _learn(self, hidden_BTH: Tensor, labels_BT: Tensor, scale_BT: Tensor | None, places: Places | None) -> Tensor:
        targets_BT = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORED).to(hidden_BTH.device)
        on_BT = targets_BT != IGNORED
        at: Any = on_BT if places is None else tuple(place.to(hidden_BTH.device) for place in places)
        hidden_NH, targets_N = hidden_BTH[:, -labels_BT.shape[1] :][at], targets_BT[at]
        weights_N = None
        if scale_BT is not None:
            weights_N = F.pad(scale_BT[:, 1:], (0, 1)).to(hidden_BTH.device)[at]
        loss, right_N = self.summed(hidden_NH, targets_N, weights_N)
        self.sums = sums_of(loss, right_N, on_BT, weights_N)
        # DDP follows outputs back to what is used; the sum itself may be more than half precision holds
        return (0.0 * loss).to(hidden_BTH.dtype).expand(len(labels_BT), 1, 1)

    def summed(self, hidden_NH: Tensor, targets_N: Tensor, weights_N: Tensor | None) -> tuple[Tensor, Tensor]:
        """The summed loss, and which of the targets are the likeliest tokens."""
        chunk = chunk_of(len(self.head.weight))
        made: Any = ChunkedLoss.apply(
            hidden_NH, self.head.weight, self.head.bias, targets_N, weights_N, self.rule, chunk
        )
        return made


def find_head_loss(base: Any, loss: TokenLoss) -> HeadLoss | str:
    """How to compute `loss` of `base`, a model without its tuners' wrapping; else why it needs whole logits."""
    reason = whole_logits(base, loss)
    if reason is not None:
        return reason
    head = base.get_output_embeddings()
    scale, cap = _probe(base, head)
    if scale is None:
        return f"{type(base).__name__} does something to its logits that is not known here"
    return HeadLoss(head, Rule(scale, cap, smoothing_of(loss) or 0.0))


def whole_logits(base: Any, loss: TokenLoss) -> str | None:
    """Why `loss` of `base` needs whole logits, as far as its parts tell; None when nothing is in the way."""
    if smoothing_of(loss) is None:
        return "the loss is a plug-in"
    if not isinstance(base, PreTrainedModel) or not type(base).__module__.startswith("transformers."):
        return f"{type(base).__name__} brings code of its own"
    head = base.get_output_embeddings()
    if base.config.is_encoder_decoder or head is None:
        return f"{type(base).__name__} has no head on a decoder alone"
    if type(head) is not nn.Linear:
        return f"its head is a {type(head).__name__}"
    watched = (head._forward_hooks, head._forward_pre_hooks, head._backward_hooks, head._backward_pre_hooks)
    if any(watched) or "forward" in vars(head):
        return "its head has hooks"
    return None


@torch.no_grad()
def _probe(base: PreTrainedModel, head: nn.Linear) -> tuple[float | None, float | None]:
    """The scale and the cap that the model puts on its head's output, seen by what it makes of a known one.

    The scale is None when it does anything else, or does not call its head once at every position.
    """
    tokens, calls = 2, []
    ids_BT = torch.zeros(1, tokens, dtype=torch.long, device=base.device)
    said_BTV = torch.linspace(-40, 40, tokens * head.out_features, dtype=torch.float64).reshape(1, tokens, -1)
    said_BTV = said_BTV.to(head.weight)

    def answer(hidden_BTH: Tensor) -> Tensor:
        calls.append(hidden_BTH.shape)
        return said_BTV.clone()

    gpus = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(gpus), telling(ids_BT), stand_in(head, answer):
        seen_BTV = base(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False).logits
    if calls != [(1, tokens, head.in_features)] or seen_BTV.shape != said_BTV.shape:
        return None, None
    told = base.config.get_text_config(decoder=True).to_dict()
    factors = [float(told[name]) for name in SCALES if told.get(name)]
    rounding = 4 * torch.finfo(said_BTV.dtype).eps
    for scale in (1.0, *factors, *(1 / factor for factor in factors)):
        for cap in (None, told.get(CAP)):
            expected_BTV = Rule(scale, cap).logits(said_BTV.to(torch.float64, copy=True))
            if torch.allclose(expected_BTV, seen_BTV.double(), rtol=rounding, atol=rounding):
                return scale, cap
    return None, None


@contextmanager
def stand_in(module: nn.Module, call: Any, method: str = "forward") -> Iterator[None]:
    """Let `call` be what `module` does when its `method` is called inside the block."""
    vars(module)[method] = call
    try:
        yield
    finally:
        del vars(module)[method]
