"""NEFTune: noise on the embeddings while training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.tuners.branch import Active, Branch, edit, hosts
from swift.tuners.config import SwiftConfig
from swift.tuners.layers import Listener, put

# B: rows, T: positions, D: size of the embeddings.


def noise(embeddings_BTD: Tensor, alpha: float, mask_BT: Tensor | None) -> Tensor:
    """U(-m, m) with m = alpha / sqrt(L D), in the shape of the embeddings; 0 at padding.

    Args:
        embeddings_BTD: gives shape and device.
        alpha: the strength.
        mask_BT: 1 where there is a token; L is then the number of tokens of each row. Longer than the embeddings where
            earlier positions are cached. None takes T for L.
    """
    length, size = embeddings_BTD.shape[-2:]
    unit_BTD = torch.empty_like(embeddings_BTD, dtype=torch.promote_types(embeddings_BTD.dtype, torch.float32))
    unit_BTD.uniform_(-1, 1)
    if mask_BT is None:
        return unit_BTD * (alpha / math.sqrt(length * size))
    mask_BT = mask_BT.to(unit_BTD)
    strength_B = alpha / (mask_BT.sum(-1).clamp(min=1) * size).sqrt()
    return unit_BTD * strength_B[:, None, None] * mask_BT[:, -length:, None]


class Noise(Branch):
    """Adds the noise to what the embedding returns."""

    def __init__(self, alpha: float, listener: Listener) -> None:
        super().__init__()
        self.alpha = alpha
        self.listener = (listener,)  # a tuple, as it is a child of another module

    def forward(self, embeddings_BTD: Tensor) -> Tensor:
        """The embeddings with noise, in their own precision."""
        mask_BT = self.listener[0].heard.get_or_last()
        shape = embeddings_BTD.shape
        fits = isinstance(mask_BT, Tensor) and mask_BT.ndim == 2 and len(shape) == 3
        if not fits or mask_BT.shape[0] != shape[0] or mask_BT.shape[1] < shape[1]:
            mask_BT = None
        return (embeddings_BTD + noise(embeddings_BTD, self.alpha, mask_BT)).to(embeddings_BTD.dtype)

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The embedding's output, with noise while training."""
        return edit(output, 0, self) if self.training else output


@dataclass(kw_only=True)
class NEFTuneConfig(SwiftConfig):
    """Noise on the embeddings while training: X + U(-m, m) with m = alpha / sqrt(L D).

    Paper: NEFTune, https://arxiv.org/abs/2310.05914, section 2, algorithm 1.
    Shapes: X (B, T, D); L is the number of tokens of a row by the model's attention mask, and T without one. (The
        trainer of transformers always takes T, so that the same row gets less noise in a longer batch; the paper's L
        is the row's own.) Padding gets none.
    Saved: nothing but this config.
    Cost: no parameters, and B T D random numbers a step. It freezes nothing: alone, it goes with full training.

    Args:
        noise_alpha: the strength; the paper uses 5, 10 and 15.
        target_modules: the embedding; empty is the one that the model calls its input embedding.
    """

    kind: ClassVar[str] = "neftune"
    trains: ClassVar[bool] = False

    noise_alpha: float = 5.0
    target_modules: str | Sequence[str] = ()

    def inject(self, model: nn.Module, name: str, active: Active) -> None:
        """Put the noise after the input embedding.

        Raises:
            ConfigError: the model has NEFTune already, or no input embedding, or the strength is no positive number.
        """
        if not (self.noise_alpha > 0 and math.isfinite(self.noise_alpha)):
            raise ConfigError("CONFIG-02", f"noise_alpha={self.noise_alpha} is no positive number", fix="5, 10 or 15")
        if any(isinstance(module, Noise) for module in model.modules()):
            raise ConfigError("CONFIG-02", "the model has NEFTune already", fix="one strength, in one NEFTuneConfig")
        listener = Listener(model)
        for host in self._embeddings(model):
            put(host, f"{self.kind}_{name}", Noise(self.noise_alpha, listener), name, active)
        put(model, f"{self.kind}_{name}", listener, name, active)

    def _embeddings(self, model: Any) -> list[nn.Module]:
        if self.target_modules:
            return [host for _, host in hosts(model, self.target_modules)]
        embedding = model.get_input_embeddings() if "get_input_embeddings" in dir(model) else None
        if embedding is None:
            what = f"{type(model).__name__} does not say which module is its input embedding"
            raise ConfigError("CONFIG-02", what, fix="NEFTuneConfig(target_modules=[...])")
        return [embedding]

    @classmethod
    def from_options(cls, args: SftArguments, model: Any, default_targets: Sequence[str] = ()) -> NEFTuneConfig:
        """The noise that `neftune_noise_alpha` asks for."""
        return cls(noise_alpha=5.0 if args.neftune_noise_alpha is None else args.neftune_noise_alpha)
