"""Layers with LoRA in them: a linear layer, a convolution and transformers' Conv1D, each in the place of the plain one.

Shapes: B batch and all other leading sizes, I inputs, O outputs, R rank, P parts of a fused layer, E parts that have
LoRA, H heads, D outputs of one part in one head (O = H·P·D), h w of a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from swift.errors import ConfigError
from swift.parallel.collectives import add_up, spread
from swift.parallel.cuts import Cut, CutDropout, cut_down
from swift.parallel.layers import ColumnLinear, CutLinear, RowLinear
from swift.peft.config import LoRAConfig, as_dtype


def low_rank(x_BI: Tensor, a_IR: Tensor, b_RO: Tensor) -> Tensor:
    """The product x A B."""
    return x_BI @ a_IR @ b_RO


def fused_low_rank(x_BI: Tensor, a_IER: Tensor, b_RO: Tensor, parts: Sequence[bool], head_dim: int) -> Tensor:
    """The product x A_e B_e for each part e of a fused layer that has LoRA, zero for others, in the layer's order.

    Args:
        x_BI: the inputs.
        a_IER: the A of the parts beside each other, [I, E·R].
        b_RO: the B of the parts, [R, H·E·D].
        parts: which of the parts have LoRA; E of them do.
        head_dim: D.
    """
    enabled, rank = sum(parts), b_RO.shape[0]
    h_BER = (x_BI @ a_IER).unflatten(-1, (enabled, rank))
    b_RHED = b_RO.unflatten(-1, (-1, enabled, head_dim))
    y_BHED = torch.einsum("...er,rhed->...hed", h_BER, b_RHED)
    y_BHPD = y_BHED.new_zeros(*y_BHED.shape[:-2], len(parts), head_dim)
    y_BHPD[..., [index for index, has in enumerate(parts) if has], :] = y_BHED
    return y_BHPD.flatten(-3)


class LoRALayer(nn.Module):
    """What the layers below share: A, B, their product, and folding it into the weight and out again.

    While it is folded the layer keeps its own weight beside the folded one, so that it returns bit for bit; this takes
    the size of the weight once more.
    """

    weight: nn.Parameter
    lora_A: nn.Parameter
    lora_B: nn.Parameter

    def take(self, layer: nn.Module, config: LoRAConfig) -> None:
        """Stand in for `layer`, with its own parameters."""
        own = dict(layer.named_parameters(recurse=False))
        self.weight, self.bias = own["weight"], own.get("bias")
        self.rank, self.scaling = config.r, config.scaling
        self.merge_weights, self.lora_dropout = config.merge_weights, config.lora_dropout
        self.unfolded: Tensor | None = None
        nn.Module.train(self, layer.training)

    def start(self, a_shape: Sequence[int], b_shape: Sequence[int], fan_in: int, config: LoRAConfig) -> None:
        """Make A, Kaiming-uniform with slope √5, which is ±1/√fan_in, and B, zero."""
        place = {"dtype": as_dtype(config.dtype), "device": self.weight.device}
        bound = 1 / math.sqrt(fan_in)
        self.lora_A = nn.Parameter(torch.empty(*a_shape, **place).uniform_(-bound, bound))
        self.lora_B = nn.Parameter(torch.zeros(*b_shape, **place))

    def delta(self, x: Tensor) -> Tensor:
        """What LoRA adds to the output for the input `x`, before scaling."""
        raise NotImplementedError

    def delta_weight(self) -> Tensor:
        """What LoRA adds to the weight, in its shape, before scaling."""
        raise NotImplementedError

    @property
    def merged(self) -> bool:
        """Whether the product is folded into the weight."""
        return self.unfolded is not None

    @torch.no_grad()
    def fold(self) -> None:
        """Add s·A·B to the weight, rounded once; nothing where it is there already."""
        if self.unfolded is None:
            delta = self.delta_weight() * self.scaling
            wide = torch.promote_types(self.weight.dtype, delta.dtype)
            self.unfolded = self.weight.data
            self.weight.data = (self.weight.to(wide) + delta.to(wide)).to(self.weight.dtype)

    def unfold(self) -> None:
        """Give the weight back as it was before folding, bit for bit; nothing where it was not folded."""
        if self.unfolded is not None:
            self.weight.data, self.unfolded = self.unfolded.to(self.weight), None

    def train(self, mode: bool = True):
        """Set the mode. Training takes the product out of the weight; with `merge_weights` evaluating puts it in."""
        super().train(mode)
        if mode:
            self.unfold()
        elif self.merge_weights:
            self.fold()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load into the layer's own weight, A and B, not into a folded weight."""
        merged = self.merged
        self.unfold()
        super()._load_from_state_dict(*args, **kwargs)
        if merged:
            self.fold()

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """The plain layer's output, plus s·dropout(x)·A·B unless that is in the weight already."""
        result = super().forward(*args, **kwargs)
        if self.merged:
            return result
        x = args[0] if args else next(iter(kwargs.values()))
        added = self.delta(self.dropped(x.to(self.lora_A.dtype))) * self.scaling
        return result + added.to(result.dtype)

    def dropped(self, x: Tensor) -> Tensor:
        """The input after dropout."""
        return F.dropout(x, self.lora_dropout, self.training)

    def extra_repr(self) -> str:
        """The plain layer's text with the rank."""
        return f"{super().extra_repr()}, rank={self.rank}, merged={self.merged}"


class LoRADense(LoRALayer):
    """What the linear layers below share: A [I, R] and B [R, O]; fused, A [I, E·R] and B [R, H·E·D]."""

    def begin(self, inputs: int, outputs: int, config: LoRAConfig, parts: Sequence[bool] | None) -> None:
        """Make A and B for a layer of these sizes, fused or (with `parts` None) not."""
        self.parts = _checked_parts(parts, config.head_dim, outputs)
        enabled, count = (sum(self.parts[0]), len(self.parts[0])) if self.parts else (1, 1)
        self.start((inputs, config.r * enabled), (config.r, outputs // count * enabled), inputs, config)

    def delta(self, x: Tensor) -> Tensor:
        """See `low_rank` and `fused_low_rank`."""
        if self.parts is None:
            return low_rank(x, self.lora_A, self.lora_B)
        return fused_low_rank(x, self.lora_A, self.lora_B, *self.parts)

    def product(self) -> Tensor:
        """A B, [I, O]: what the inputs that are 1 in one place and 0 elsewhere give."""
        if self.parts is None:
            return self.lora_A @ self.lora_B
        return self.delta(torch.eye(len(self.lora_A), dtype=self.lora_A.dtype, device=self.lora_A.device))


class LoRALinear(LoRADense, nn.Linear):
    """A linear layer, W [O, I]."""

    def __init__(self, layer: nn.Linear, config: LoRAConfig, parts: Sequence[bool] | None = None) -> None:
        nn.Linear.__init__(self, layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.take(layer, config)
        self.begin(layer.in_features, layer.out_features, config, parts)

    def delta_weight(self) -> Tensor:
        """The product, [O, I]."""
        return self.product().T


class LoRAConv1D(LoRADense, Conv1D):
    """transformers' Conv1D, a linear layer with W [I, O], as GPT-2 has it."""

    def __init__(self, layer: Conv1D, config: LoRAConfig, parts: Sequence[bool] | None = None) -> None:
        inputs, outputs = layer.weight.shape
        with torch.device("meta"):
            Conv1D.__init__(self, outputs, inputs)
        self.take(layer, config)
        self.begin(inputs, outputs, config, parts)

    def delta_weight(self) -> Tensor:
        """The product, [I, O]."""
        return self.product()


class LoRACutLinear(LoRADense, CutLinear):
    """What LoRA on the layers of a model that is cut between processes shares; see `swift.parallel.layers`."""

    def __init__(self, layer: CutLinear, config: LoRAConfig, parts: Sequence[bool] | None = None) -> None:
        if parts is not None:
            what = "enable_lora_list: a fused layer that is cut between processes cannot have LoRA in some of its parts"
            raise ConfigError("CONFIG-03", what, fix="tensor_parallel_degree=1, or no enable_lora_list")
        CutLinear.start(self, layer, layer.group, layer.whole)
        self.take(layer, config)
        self.begin(layer.in_features, layer.out_features, config, None)

    def delta_weight(self) -> Tensor:
        """This process's part of the product."""
        product_OI = self.product().T
        return Cut(self.axis, self.group).part(product_OI) if self.whole else product_OI


class LoRAColumnLinear(LoRACutLinear, ColumnLinear):
    """A column layer: all of A, and B for the outputs that this process has."""

    def __init__(self, layer: ColumnLinear, config: LoRAConfig, parts: Sequence[bool] | None = None) -> None:
        LoRACutLinear.__init__(self, layer, config, parts)
        if not self.whole:
            cut_down(self.lora_B, Cut(1, self.group))

    def delta(self, x: Tensor) -> Tensor:
        """See `low_rank`; each process does its outputs."""
        return super().delta(x) if self.whole else spread(x @ self.lora_A, self.group) @ self.lora_B


class LoRARowLinear(LoRACutLinear, RowLinear):
    """A row layer: A for the inputs that this process has, and all of B."""

    def __init__(self, layer: RowLinear, config: LoRAConfig, parts: Sequence[bool] | None = None) -> None:
        LoRACutLinear.__init__(self, layer, config, parts)
        self.dropout = CutDropout(config.lora_dropout, Cut(-1, self.group))
        if not self.whole:
            cut_down(self.lora_A, Cut(0, self.group))

    def delta(self, x: Tensor) -> Tensor:
        """See `low_rank`; each process adds what its inputs give."""
        return super().delta(x) if self.whole else add_up(x @ self.lora_A, self.group) @ self.lora_B

    def dropped(self, x: Tensor) -> Tensor:
        """The input after dropout, which is drawn for all inputs."""
        return super().dropped(x) if self.whole else self.dropout(x)


class LoRAConv2D(LoRALayer, nn.Conv2d):
    """A convolution, W [O, I, h, w], with A [R, I, h, w], which moves as the layer does, and B [O, R, 1, 1]."""

    def __init__(self, layer: nn.Conv2d, config: LoRAConfig) -> None:
        geometry = (layer.stride, layer.padding, layer.dilation, layer.groups, layer.bias is not None)
        nn.Conv2d.__init__(
            self, layer.in_channels, layer.out_channels, layer.kernel_size, *geometry,  # pyright: ignore
            padding_mode=layer.padding_mode, device="meta",
        )  # fmt: skip
        self.take(layer, config)
        a_shape, b_shape = (config.r, *layer.weight.shape[1:]), (layer.out_channels, config.r, 1, 1)
        self.start(a_shape, b_shape, math.prod(a_shape[1:]), config)

    def delta(self, x: Tensor) -> Tensor:
        """Convolve with A as the layer does, then with B pointwise."""
        return F.conv2d(self._conv_forward(x, self.lora_A, None), self.lora_B)

    def delta_weight(self) -> Tensor:
        """The product, [O, I, h, w]."""
        return torch.einsum("or,rihw->oihw", self.lora_B[:, :, 0, 0], self.lora_A)


PLAIN: dict[type[nn.Module], type[LoRADense]] = {
    nn.Linear: LoRALinear,
    Conv1D: LoRAConv1D,
    ColumnLinear: LoRAColumnLinear,
    RowLinear: LoRARowLinear,
}


def with_lora(path: str, layer: nn.Module, config: LoRAConfig, parts: Sequence[bool] | None) -> LoRALayer:
    """The layer that stands in for `layer`, which is at `path`, sharing its parameters.

    Raises:
        ConfigError: also a ValueError; the layer is of no kind that has LoRA here.
    """
    for plain, new in PLAIN.items():
        if isinstance(layer, plain) and type(layer).forward is plain.forward:
            return new(layer, config, parts)  # pyright: ignore
    if type(layer) is nn.Conv2d and layer.groups == 1 and parts is None:
        return LoRAConv2D(layer, config)
    what = f"target_modules matches {path}, a {type(layer).__name__}"
    why = "LoRA goes into Linear, Conv1D and ungrouped Conv2d layers; a regular expression has to match their path only"
    raise ConfigError("CONFIG-02", what, why=why, fix="such as '.*q_proj' or '.*mlp.*_proj'")


def _checked_parts(parts: Sequence[bool] | None, head_dim: int | None, outputs: int) -> tuple[list[bool], int] | None:
    """The parts with LoRA and the outputs of one part in one head; None for a layer that is not fused."""
    if parts is None:
        return None
    if not any(parts) or outputs % (len(parts) * (head_dim or 1)):
        what = f"enable_lora_list {list(parts)} with head_dim={head_dim} does not fit a layer with {outputs} outputs"
        raise ConfigError("CONFIG-02", what, why="outputs = heads · parts · head_dim, and one part at least has LoRA")
    return list(parts), head_dim or outputs // len(parts)
