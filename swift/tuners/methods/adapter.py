"""Adapters: a bottleneck after a module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.activations import ACT2FN

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.registry import unknown
from swift.tuners.branch import Branch, edit
from swift.tuners.config import SwiftConfig
from swift.tuners.places import item, positive
from swift.tuners.targets import find_mlps, find_targets


class Bottleneck(Branch):
    """h + W_up act(W_down h + b_down) + b_up: two small matrices after a frozen module. See `AdapterConfig`."""

    def __init__(self, dim: int, length: int, act: str, position: int | str, method: str) -> None:
        super().__init__()
        self.dim, self.position, self.method = dim, position, method
        self.down, self.act, self.up = nn.Linear(dim, length), ACT2FN[act], nn.Linear(length, dim)
        nn.init.xavier_uniform_(self.down.weight)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """The hidden states with the bottleneck's addition, in their own precision."""
        if hidden_BTD.shape[-1] != self.dim:
            raise ConfigError(
                "CONFIG-02",
                f"the adapter expects hidden states of size {self.dim} but its host gives {hidden_BTD.shape[-1]}",
                fix=f"AdapterConfig(dim={hidden_BTD.shape[-1]}, ...)",
            )
        small_BTL = self.act(self.down(hidden_BTD.to(self.down.weight.dtype)))
        return hidden_BTD + self.up(small_BTL).to(hidden_BTD.dtype)

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The host's output with its hidden states edited."""
        item(output, self.position)
        return edit(output, self.position, self)


@dataclass(kw_only=True)
class AdapterConfig(SwiftConfig):
    """Adapters: a bottleneck after every target module.

    What a target returns becomes::

        out = h + W_up act(W_down h + b_down) + b_up

    Paper: Parameter-Efficient Transfer Learning for NLP, https://arxiv.org/abs/1902.00751, section 2.1, figure 2.
    Shapes: h_BTD -> h_BTD; W_down (L, D), b_down (L), W_up (D, L), b_up (D); L = `adapter_length`.
    Saved: `down.weight`, `down.bias`, `up.weight`, `up.bias` for each target.
    Cost: 2DL + D + L parameters, 2DL multiply-adds forward and 4DL backward per token and target; L + D numbers per
    token are kept for the backward pass.
    Not as in the paper: W_up and b_up are zero at the start, so that the model starts as it was, bit for bit (the paper
    draws all weights from a narrow normal distribution); norms of the base stay frozen (`extra_state_keys` trains
    them, the paper does).

    Args:
        dim: D, size of the hidden states that a target returns.
        hidden_pos: where they are when a target returns several things: an index or a key.
        method_name: the method of the target that returns them, such as "feed_forward_chunk" of BERT's layers.
        adapter_length: L, width of the bottleneck.
        act_layer: activation between the two matrices, by its transformers name.
    """

    kind: ClassVar[str] = "adapter"

    dim: int
    hidden_pos: int | str = 0
    method_name: str = "forward"
    adapter_length: int = 128
    act_layer: str = "gelu"

    def branch(self, host: nn.Module) -> Bottleneck:
        """A new bottleneck.

        Raises:
            UnknownNameError: transformers has no such activation, or the host no such method.
            ConfigError: a size is not positive.
        """
        positive(dim=self.dim, adapter_length=self.adapter_length)
        if self.method_name not in dir(host):
            raise unknown(f"method of {type(host).__name__}", self.method_name, dir(host))
        if self.act_layer not in ACT2FN:
            raise unknown("activation", self.act_layer, ACT2FN)
        return Bottleneck(self.dim, self.adapter_length, self.act_layer, self.hidden_pos, self.method_name)

    @classmethod
    def from_options(cls, args: SftArguments, model: Any, default_targets: Sequence[str] = ()) -> AdapterConfig:
        """An adapter after every feed-forward part, or after the modules that `lora_target_modules` names."""
        said = args.lora_target_modules
        return cls(
            dim=model.config.hidden_size,
            target_modules=find_mlps(model) if said == ["DEFAULT"] else find_targets(model, said, default_targets),
            adapter_length=args.adapter_length,
            act_layer=args.adapter_act,
        )
