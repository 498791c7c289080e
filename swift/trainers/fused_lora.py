"""PEFT's LoRA layers while they train: base and update in one function, which keeps its input and a rank's width.

Letters in names: N tokens in a flat list, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from swift.log import get_logger

logger = get_logger()


class FusedLora(torch.autograd.Function):
    """x W' + b + s drop(x) A' B', as PEFT's layer has it, with W frozen.

    Paper: LoRA, https://arxiv.org/abs/2106.09685, section 4.1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        a_RI: Tensor,
        b_OR: Tensor,
        scale: float,
        drop: float,
    ) -> Tensor:
        """The layer's output, in the precision of its base."""
        ctx.dtypes, ctx.shape, ctx.scale, ctx.keep = (x.dtype, a_RI.dtype, b_OR.dtype), x.shape, scale, 1 - drop
        dtype = _precision(x)
        x_NI, weight_OI, a_RI, b_OR = (part.to(dtype) for part in (x.reshape(-1, x.shape[-1]), weight_OI, a_RI, b_OR))
        mask_NI = _mask(x_NI, drop) if drop else None
        h_NR = _dropped(x_NI, mask_NI, ctx.keep) @ a_RI.t()
        y_NO = x_NI @ weight_OI.t() if bias_O is None else torch.addmm(bias_O.to(dtype), x_NI, weight_OI.t())
        y_NO.addmm_(h_NR, b_OR.t(), alpha=scale)
        ctx.save_for_backward(x_NI, mask_NI, weight_OI, a_RI, b_OR, h_NR)
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients of the input, the base's bias, A and B."""
        x_NI, mask_NI, weight_OI, a_RI, b_OR, h_NR = ctx.saved_tensors
        of_x, _, of_bias, of_a, of_b, *_ = ctx.needs_input_grad
        y_NO = grads[0].reshape(-1, grads[0].shape[-1]).to(x_NI.dtype)
        h_grad_NR = (y_NO @ b_OR).mul_(ctx.scale)
        x_grad = None
        if of_x:
            x_grad_NI = y_NO @ weight_OI
            if mask_NI is None:
                x_grad_NI.addmm_(h_grad_NR, a_RI)
            else:
                x_grad_NI += _dropped(h_grad_NR @ a_RI, mask_NI, ctx.keep)
            x_grad = x_grad_NI.view(ctx.shape).to(ctx.dtypes[0])
        bias_grad = y_NO.sum(0) if of_bias else None
        a_grad = (h_grad_NR.t() @ _dropped(x_NI, mask_NI, ctx.keep)).to(ctx.dtypes[1]) if of_a else None
        b_grad = (y_NO.t() @ h_NR).mul_(ctx.scale).to(ctx.dtypes[2]) if of_b else None
        return x_grad, None, bias_grad, a_grad, b_grad, None, None


def _precision(x: Tensor) -> torch.dtype:
    """That of autocast where it is on, else that of the input: A and B, which may be wider, are rounded to it."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _mask(x_NI: Tensor, drop: float) -> Tensor:
    """Where dropout keeps what it is given, drawn as torch's own dropout draws."""
    if x_NI.is_cpu:
        return torch.empty_like(x_NI).bernoulli_(1 - drop).bool()
    return torch.native_dropout(x_NI, drop, True)[1]  # needs-cuda


def _dropped(x: Tensor, mask: Tensor | None, keep: float) -> Tensor:
    return x if mask is None else (x * mask).div_(keep)


@contextmanager
def fused_lora(model: nn.Module, quiet: bool = False) -> Iterator[int]:
    """Let the LoRA layers of `model` compute so inside the block; gives how many do.

    What is asked of a layer that the function cannot do, such as two adapters at once, its own code does. `quiet` keeps
    to itself which layers compute by themselves, and why.
    """
    reasons: Counter[str] = Counter()
    changed: list[nn.Module] = []
    for layer in model.modules():
        if isinstance(layer, LoraLinear):
            reason = _reason(layer)
            if reason is None:
                vars(layer)["forward"] = partial(_forward, layer, type(layer).forward.__get__(layer))
                changed.append(layer)
            else:
                reasons[reason] += 1
    for reason, count in () if quiet else reasons.items():
        logger.info(f"LoRA: {count} layers compute as PEFT does, because {reason}")
    try:
        yield len(changed)
    finally:
        for layer in changed:
            del vars(layer)["forward"]


def _reason(layer: LoraLinear) -> str | None:
    """Why a layer has to compute by itself; None when it need not."""
    base: Any = layer.base_layer
    if type(layer) is not LoraLinear or "forward" in vars(layer):
        return "they are of another kind"
    if type(base) is not nn.Linear or "forward" in vars(base):
        return f"their base is a {type(base).__name__}"
    if base.weight.requires_grad:
        return "their base trains too"
    if layer.lora_variant:
        return "they are more than LoRA, such as DoRA"
    parts = [*layer.lora_A.values(), *layer.lora_B.values()]
    if any(type(part) is not nn.Linear or part.bias is not None for part in parts):
        return "their update has a bias"
    if any(type(drop) not in (nn.Dropout, nn.Identity) for drop in layer.lora_dropout.values()):
        return "their dropout is another one"
    if any(_has_hooks(module) for module in layer.modules() if module is not layer):
        return "their parts have hooks"
    return None


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _forward(layer: LoraLinear, plain: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if args or kwargs or layer.disable_adapters or layer.merged or len(active) != 1 or layer.lora_variant:
        return plain(x, *args, **kwargs)
    base: Any = layer.base_layer
    (name,) = active
    dropout: Any = layer.lora_dropout[name]
    drop = dropout.p if isinstance(dropout, nn.Dropout) and dropout.training else 0.0
    a_RI, b_OR = layer.lora_A[name].weight, layer.lora_B[name].weight
    return FusedLora.apply(x, base.weight, base.bias, a_RI, b_OR, layer.scaling[name], drop)
