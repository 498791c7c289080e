"""Side-tuning: a small network beside a module, mixed with it by a learnt gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.registry import unknown
from swift.tuners.branch import Branch, edit
from swift.tuners.config import SwiftConfig
from swift.tuners.places import Place, item, positive
from swift.tuners.targets import find_mlps

# Tensor names end in their shape: B rows, C channels of an image, D channels of the target's output, H W its size.

ALEXNET_SMALLEST = 7  # pixels: what its first convolution needs


def fcn4(channels: int, dim: int) -> nn.Module:
    """Four 3 x 3 convolutions, three of them halving the size; groups of all channels are normalised, row by row."""
    widths = [channels, 16, 32, 64]
    layers: list[nn.Module] = []
    for i in range(3):
        layers += [nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1), nn.GroupNorm(1, widths[i + 1])]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], dim, 3, padding=1))


def alexnet(channels: int, dim: int) -> nn.Module:
    """The five convolutions of AlexNet (https://arxiv.org/abs/1404.5997), then one to `dim` channels."""
    return nn.Sequential(
        nn.Conv2d(channels, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, dim, 1),
    )


def mlp(channels: int, dim: int) -> nn.Module:
    """Two linear layers of `dim` for hidden states of `dim`."""
    return nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {"fcn4": fcn4, "mlp": mlp, "alexnet": alexnet}


class Beside(Branch):
    """The side network of one target and its gate."""

    def __init__(self, host: nn.Module, config: SideConfig) -> None:
        super().__init__()
        self.kind, self.dim, self.target_pos = config.side_module_name, config.dim, config.target_hidden_pos
        self.channels = image_channels(host)
        self.source = Place.of(host, config.source_hidden_pos)
        self.gate = nn.Parameter(torch.zeros(()))
        self.network = NETWORKS[self.kind](self.channels, self.dim)

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The host's output mixed with the side network's."""
        source = self.source.tensor(args, kwargs)
        item(output, self.target_pos)
        return edit(output, self.target_pos, lambda main: self(source, main))

    def forward(self, source: Tensor, main: Tensor) -> Tensor:
        """sigmoid(gate) main + (1 - sigmoid(gate)) side(source), in the precision of `main`."""
        self._check(source, main)
        share = torch.sigmoid(self.gate)
        side = self.network(source.to(self.gate.dtype))
        if self.kind != "mlp":
            side = fit(side, main)
        return (share * main + (1 - share) * side.to(share.dtype)).to(main.dtype)

    def _check(self, source: Tensor, main: Tensor) -> None:
        images = self.kind != "mlp"
        found = main.shape[1] if images and main.ndim == 4 else main.shape[-1]
        fix = "say with source_hidden_pos which argument the side network reads"
        if found != self.dim:
            what = f"the side network gives {self.dim} channels but its host {found}: {tuple(main.shape)}"
            raise ConfigError("CONFIG-02", what, fix=f"SideConfig(dim={found}, ...)")
        if images and (source.ndim != 4 or source.shape[1] != self.channels):
            wanted = f"images (rows, {self.channels}, height, width)"
            raise ConfigError("CONFIG-02", f"{self.kind} reads {wanted}, not {tuple(source.shape)}", fix=fix)
        if self.kind == "alexnet" and min(source.shape[-2:]) < ALEXNET_SMALLEST:
            what = f"alexnet reads images from {ALEXNET_SMALLEST} x {ALEXNET_SMALLEST} on, not {tuple(source.shape)}"
            raise ConfigError("CONFIG-02", what, fix='side_module_name="fcn4"')
        if not images and source.shape != main.shape:
            what = f"mlp reads hidden states of shape {tuple(main.shape)} as its host gives, not {tuple(source.shape)}"
            raise ConfigError("CONFIG-02", what, fix=fix)


@dataclass(kw_only=True)
class SideConfig(SwiftConfig):
    """Side-tuning: a small network that reads what a frozen module reads, and a gate between the two.

    What the module returns becomes::

        out = a main(x) + (1 - a) side(x),    a = sigmoid(alpha),    alpha = 0 at the start

    so a model starts with half of each.

    Networks: `fcn4` four convolutions, `alexnet` those of AlexNet, both on images (B, C, H, W) with as many channels as
    the target's first convolution has (3 when it has none), and `mlp` two linear layers on hidden states.
    Shapes: `mlp` has the output's. Convolutions give a map (B, D, h, w), which is averaged to the size of the target's
    output where that is a map (B, D, H, W), and over all of it for vectors (B, D) and for every token of (B, T, D).
    Paper: Side-Tuning, https://arxiv.org/abs/1912.13503, section 3: alpha blending.
    Saved: `gate` (a number) and `network.*` for each target.
    Cost: 2D^2 + 2D + 1 parameters for `mlp` and as many multiply-adds per token; 576D + D + 144C + 23,377 parameters
    for `fcn4`; 257D + 7,744C + 2,446,465 for `alexnet`.
    Not as in the paper: normalisation, where there is some, looks at single rows and not at the batch, so there is no
    state but the weights; the side network starts from random weights, since there is none to distil here.

    Args:
        dim: D, channels of the target's output.
        target_modules: a regular expression for whole module paths, or a list of endings of paths.
        side_module_name: "fcn4", "mlp" or "alexnet".
        source_hidden_pos: which argument of the target the side network reads: an index or a name.
        target_hidden_pos: what is mixed when the target returns several things: an index or a key.
    """

    kind: ClassVar[str] = "side"

    dim: int
    side_module_name: str = "fcn4"
    source_hidden_pos: int | str = 0
    target_hidden_pos: int | str = 0

    def branch(self, host: nn.Module) -> Beside:
        """A new side network. Raises UnknownNameError when there is none of that name."""
        if self.side_module_name not in NETWORKS:
            raise unknown("side network", self.side_module_name, NETWORKS)
        positive(dim=self.dim)
        return Beside(host, self)

    @classmethod
    def from_options(cls, args: SftArguments, model: Any, default_targets: Sequence[str] = ()) -> SideConfig:
        """A small network beside every feed-forward part of a language model."""
        return cls(dim=model.config.hidden_size, target_modules=find_mlps(model), side_module_name="mlp")


def image_channels(host: nn.Module) -> int:
    """The channels that the first convolution of a module reads; 3 when it has none."""
    return next((module.in_channels for module in host.modules() if isinstance(module, nn.Conv2d)), 3)


def fit(side_BDHW: Tensor, main: Tensor) -> Tensor:
    """The map averaged to the shape of `main`: (B, D, H, W), (B, T, D) or (B, D)."""
    if main.ndim == 4:
        return F.adaptive_avg_pool2d(side_BDHW, (main.shape[2], main.shape[3]))
    side_BD = side_BDHW.mean((2, 3))
    return side_BD if main.ndim == 2 else side_BD.unsqueeze(1).expand(main.shape)
