"""LoRA on some chunks of a fused projection, such as query and value in a layer that makes query, key and value.

Letters in names: I and O features in and out, C features of a chunk, K tuned chunks, R the rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import peft
import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from swift.errors import ConfigError
from swift.tuners.lora import LoRAConfig


class Blocks(nn.Module):
    """The factor B of a fused projection: a matrix of its own for each tuned chunk of the output, zero at the start.

    y_k = W_k x + (alpha / r) B_k A_k x for each tuned chunk k, y_k = W_k x for the others: LoRA on each of them alone.

    Paper: LoRA, https://arxiv.org/abs/2106.09685, section 4.2, which tunes the query and value projections.
    Shapes: A (K R, I), the A_k one under the other; blocks (K C, R), the B_k likewise. As one matrix B is (O, K R),
    with B_k where its chunk and its A_k meet and 0 elsewhere, so that whatever is true of LoRA is true of this.
    Saved: A and the blocks. Cost: K R (I + C) parameters, twice as many operations per token; none once merged.
    """

    def __init__(self, tuned: Sequence[bool], rank: int, out_features: int, like: Tensor) -> None:
        super().__init__()
        self.tuned, self.rank, self.size = [bool(one) for one in tuned], rank, out_features // len(tuned)
        self.in_features, self.out_features, self.bias = rank * sum(self.tuned), out_features, None
        shape = (self.size * sum(self.tuned), rank)
        self.blocks = nn.Parameter(torch.zeros(shape, dtype=like.dtype, device=like.device))

    @property
    def weight(self) -> Tensor:
        """B as one matrix (O, K R)."""
        blocks = list(self.blocks.split(self.size))
        rows, place = [], 0
        for tuned in self.tuned:
            right = self.in_features - place - self.rank
            rows.append(
                F.pad(blocks.pop(0), (place, right)) if tuned else self.blocks.new_zeros(self.size, self.in_features)
            )
            place += self.rank if tuned else 0
        return torch.cat(rows)

    def forward(self, inner: Tensor) -> Tensor:
        """B applied to A x, chunk by chunk."""
        parts, blocks = list(inner.split(self.rank, dim=-1)), list(self.blocks.split(self.size))
        zero = inner.new_zeros(*inner.shape[:-1], self.size)
        return torch.cat([F.linear(parts.pop(0), blocks.pop(0)) if tuned else zero for tuned in self.tuned], dim=-1)


def install(model: nn.Module, config: peft.PeftConfig, name: str) -> None:
    """Give the new LoRA adapter `name` of `model` the factors of fused projections, if `config` asks for that.

    Raises:
        ConfigError: a target does not fall into so many equal chunks.
    """
    if not isinstance(config, LoRAConfig) or not config.use_merged_linear:
        return
    assert config.enable_lora
    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer) and name in module.r]
    for layer in layers:
        if name not in layer.lora_A or layer.out_features % len(config.enable_lora):
            what = f"{type(layer.get_base_layer()).__name__} with {layer.out_features} outputs"
            raise ConfigError(
                "CONFIG-02",
                f"{what} does not fall into the {len(config.enable_lora)} of enable_lora",
                fix="as many entries in enable_lora as the projection has equal chunks",
            )
    for layer in layers:
        first, rank = layer.lora_A[name].weight, layer.r[name]
        stacked = nn.Linear(layer.in_features, rank * sum(config.enable_lora), bias=False)
        stacked.to(device=first.device, dtype=first.dtype).requires_grad_(first.requires_grad)
        blocks = Blocks(config.enable_lora, rank, layer.out_features, first).requires_grad_(first.requires_grad)
        if config.init_lora_weights == "gaussian":
            nn.init.normal_(stacked.weight, std=1 / rank)
        elif config.init_lora_weights is False:  # for tests: no adapter that is the base
            nn.init.kaiming_uniform_(blocks.blocks, a=math.sqrt(5))
        layer.lora_A[name], layer.lora_B[name] = stacked, blocks
