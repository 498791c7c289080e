"""Log-probabilities of chosen tokens through a model's output head in chunks: whole logits never exist.

Letters in names: B rows, T tokens, N tokens that are predicted, in a flat list, C those of one chunk, V vocabulary, H
hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from swift.preference.batches import INPUTS
from swift.trainers.head import HALF_BOOST, HeadLoss, Rule, add_product, as_autocast, chunk_losses, chunk_of, stand_in
from swift.tuners.layers import telling


class ChunkedLogProbs(torch.autograd.Function):
    """log p(target) of hidden states, one number for each, and which of them the model would have said.

    What a log-probability gives its hidden state as gradient is made while its chunk's logits are there; the backward
    pass scales it by what comes in. Only a head that trains itself makes them again then.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None, targets_N: Tensor, rule: Rule, chunk: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities in float32 (float64 stays), and for every token whether its target is the likeliest."""
        for_hidden, for_head, for_bias = ctx.needs_input_grad[:3]
        ctx.dtypes = hidden_NH.dtype, head_VH.dtype, None if bias_V is None else bias_V.dtype
        hidden_NH, head_VH, bias_V = (as_autocast(x) for x in (hidden_NH, head_VH, bias_V))
        wide = torch.promote_types(hidden_NH.dtype, torch.float32)
        logps_N = hidden_NH.new_empty(len(targets_N), dtype=wide)
        right_N = torch.empty_like(targets_N, dtype=torch.bool)
        slopes_NH = torch.empty_like(hidden_NH) if for_hidden else None
        ctx.boost = HALF_BOOST if hidden_NH.dtype == torch.float16 else 1.0
        room_CV = hidden_NH.new_empty(min(chunk, len(targets_N)), len(head_VH))
        for start in range(0, len(targets_N), chunk):
            part = slice(start, start + chunk)
            x_CV = _outputs(hidden_NH[part], head_VH, bias_V, room_CV, wide)
            losses_C, right_N[part], slope_CV = chunk_losses(x_CV, targets_N[part], rule, for_hidden)
            logps_N[part] = -losses_C
            if slopes_NH is not None and slope_CV is not None:
                torch.mm(slope_CV.mul_(ctx.boost).to(hidden_NH.dtype), head_VH, out=slopes_NH[part])
        ctx.slopes, ctx.rule, ctx.chunk = slopes_NH, rule, chunk
        if for_head or for_bias:
            ctx.save_for_backward(hidden_NH, head_VH, bias_V, targets_N)
        ctx.mark_non_differentiable(right_N)
        return logps_N, right_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradients of hidden states, head and bias."""
        for_hidden, for_head, for_bias = ctx.needs_input_grad[:3]
        weight_N = -grads[0]
        grad_NH, grad_VH, grad_V = None, None, None
        if for_hidden:
            slopes_NH, ctx.slopes = ctx.slopes, None
            grad_NH = slopes_NH.mul_((weight_N / ctx.boost)[:, None]).to(ctx.dtypes[0])
        if for_head or for_bias:
            grad_VH, grad_V = _of_head(ctx, weight_N, for_head, for_bias)
        return grad_NH, grad_VH, grad_V, None, None, None


def _outputs(hidden_CH: Tensor, head_VH: Tensor, bias_V: Tensor | None, room_CV: Tensor, wide: torch.dtype) -> Tensor:
    """What the head makes of hidden states, in memory that is used again and again."""
    out_CV = torch.mm(hidden_CH, head_VH.t(), out=room_CV[: len(hidden_CH)])
    return (out_CV if bias_V is None else out_CV.add_(bias_V)).to(wide)


def _of_head(ctx: Any, weight_N: Tensor, for_head: bool, for_bias: bool) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a head that trains and of its bias; the logits are made once more."""
    hidden_NH, head_VH, bias_V, targets_N = ctx.saved_tensors
    wide = weight_N.dtype
    grad_VH = torch.zeros_like(head_VH, dtype=wide) if for_head else None
    grad_V = torch.zeros_like(bias_V, dtype=wide) if for_bias else None
    room_CV = hidden_NH.new_empty(min(ctx.chunk, len(targets_N)), len(head_VH))
    for start in range(0, len(targets_N), ctx.chunk):
        part = slice(start, start + ctx.chunk)
        x_CV = _outputs(hidden_NH[part], head_VH, bias_V, room_CV, wide)
        _, _, slope_CV = chunk_losses(x_CV, targets_N[part], ctx.rule, True)
        assert slope_CV is not None
        slope_CV.mul_(weight_N[part][:, None])
        if grad_VH is not None:
            add_product(grad_VH, slope_CV.to(hidden_NH.dtype), hidden_NH[part])
        if grad_V is not None:
            grad_V += slope_CV.sum(0)
    return (
        None if grad_VH is None else grad_VH.to(ctx.dtypes[1]),
        None if grad_V is None else grad_V.to(ctx.dtypes[2]),
    )


class HeadLogProbs:
    """The log-probabilities of one forward pass of a model, in which its head makes them in place of logits.

    Args:
        head: the output head, a plain linear layer.
        rule: what becomes of its output.
    """

    def __init__(self, head: nn.Linear, rule: Rule) -> None:
        self.head, self.rule = head, rule
        self._found: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, loss: HeadLoss) -> HeadLogProbs:
        """For the head of a loss that was found to do."""
        return cls(loss.head, loss.rule)

    @contextmanager
    def predicting(self, at_N: Tensor, targets_N: Tensor, width: int) -> Iterator[None]:
        """Let one call of the model inside the block leave log-probabilities; its logits are of no use.

        Args:
            at_N: places, in the flat list of all positions, whose outputs predict the targets.
            targets_N: the tokens that are predicted.
            width: positions of a row; a model that sets tokens of its own before them gives more.
        """
        self._found = None
        with stand_in(self.head, lambda hidden_BTH: self._predict(hidden_BTH, at_N, targets_N, width)):
            yield

    def take(self) -> tuple[Tensor, Tensor]:
        """What log p of every target is, and whether it is the likeliest token."""
        found, self._found = self._found, None
        assert found is not None, "the model did not call its head"
        return found

    def _predict(self, hidden_BTH: Tensor, at_N: Tensor, targets_N: Tensor, width: int) -> Tensor:
        flat_MH = hidden_BTH[:, -width:].reshape(-1, hidden_BTH.shape[-1])
        hidden_NH = flat_MH[at_N.to(flat_MH.device)]
        chunk = chunk_of(len(self.head.weight))
        made: Any = ChunkedLogProbs.apply(
            hidden_NH, self.head.weight, self.head.bias, targets_N.to(flat_MH.device), self.rule, chunk
        )
        self._found = made
        # DDP follows outputs back to what is used; the sum itself may be more than half precision holds
        return (0.0 * made[0].sum()).to(hidden_BTH.dtype).expand(len(hidden_BTH), 1, 1)


def of_logits(logits_BTV: Tensor, at_N: Tensor, targets_N: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The same of whole logits."""
    flat_MV = logits_BTV[:, -width:].reshape(-1, logits_BTV.shape[-1])
    logits_NV = flat_MV[at_N.to(flat_MV.device)]
    wide_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    targets_N = targets_N.to(flat_MV.device)
    logps_N = wide_NV.gather(1, targets_N[:, None]).squeeze(1) - wide_NV.logsumexp(dim=1)
    return logps_N, wide_NV.detach().argmax(dim=1) == targets_N


def ask(
    model: Any, batch: Mapping[str, Any], chunks: HeadLogProbs | None, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Any]:
    """The log-probability of every token of a batch's answers, whether each is the likeliest, and the model's outputs.

    Args:
        model: with its tuners.
        batch: as `inputs`, with the places `at` and the `targets` of its tokens.
        chunks: of its head, which has the temperature already; None makes whole logits.
        temperature: what those are divided by.
    """
    at_N, targets_N, width = batch["at"], batch["targets"], batch["input_ids"].shape[1]
    inputs = {name: batch[name] for name in INPUTS if name in batch}
    with telling(batch["labels"]):
        if chunks is not None:
            with chunks.predicting(at_N, targets_N, width):
                outputs = model(**inputs, use_cache=False)
            return *chunks.take(), outputs
        outputs = model(**inputs, use_cache=False)
    logits_BTV = outputs.logits if temperature == 1 else outputs.logits / temperature
    return *of_logits(logits_BTV, at_N, targets_N, width), outputs
