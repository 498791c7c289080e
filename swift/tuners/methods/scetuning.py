"""SCEdit: small tuners on the skip connections of a U-Net, optionally steered by a condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swift.errors import ConfigError
from swift.registry import unknown
from swift.tuners.branch import Active, Branch, attach, edit, matches, no_target, outside
from swift.tuners.config import SwiftConfig, place
from swift.tuners.places import Place, Seen, item, on_channels, per_place, positive

# Tensor names end in their shape: B rows, C channels of a map or size of hidden states, H W the size of a map.

MODES = ("decoder", "encoder", "identity")


class SCEAdapter(nn.Module):
    """W_up GELU(W_down x + b_down) + b_up over `dim` channels; zero at the start."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """The addition for channels on the last axis."""
        return self.up(F.gelu(self.down(x)))


OPERATIONS: dict[str, Callable[[int, int], nn.Module]] = {"SCEAdapter": SCEAdapter}


class SkipTuner(Branch):
    """The tuner of one skip connection."""

    def __init__(self, host: nn.Module, dim: int, config: SCETuningConfig, hints: Hints | None) -> None:
        super().__init__()
        self.dim, self.mode, self.hints = dim, config.tuner_mode, hints
        self.place = Place.of(host, 0)
        self.op = OPERATIONS[config.tuner_op](dim, max(1, int(dim * config.down_ratio)))

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call with its skip connection edited: its last channels ("decoder") or all of it ("identity")."""
        if self.mode == "encoder":
            return args, kwargs
        x = self.place.tensor(args, kwargs)
        if self.mode == "identity":
            return self.place.put(args, kwargs, self(x))
        if x.ndim != 4 or x.shape[1] <= self.dim:
            what = f"a decoder's input holds the {self.dim} channels of a skip connection behind its own"
            raise ConfigError("CONFIG-02", f"{what}, which {tuple(x.shape)} does not", fix="a smaller one in dims")
        main_BCHW, skip_BCHW = x[:, : -self.dim], x[:, -self.dim :]
        return self.place.put(args, kwargs, torch.cat((main_BCHW, self(skip_BCHW)), 1))

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The output, edited in the mode "encoder"."""
        if self.mode != "encoder":
            return output
        item(output, 0)
        return edit(output, 0, self)

    def forward(self, x: Tensor) -> Tensor:
        """The connection x as x + op(x), or x + op(x + c) with a condition c."""
        weight = next(self.op.parameters())
        seen = x.to(weight.dtype)
        if self.hints is not None:
            seen = seen + self.hints.like(x).to(weight)
        return x + on_channels(self.op, seen, self.dim, "the tuner of a skip connection").to(x.dtype)


class Probe(Branch):
    """Leaves what its host returns for the tuners, under a number."""

    def __init__(self, seen: Seen, number: int) -> None:
        super().__init__()
        self.seen, self.number = seen, number

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The same output."""
        self.seen.here[self.number] = output
        return output


class Hints:
    """The condition of one target: what a module returned last, or its `index`-th tensor."""

    def __init__(self, seen: Seen, number: int, index: int) -> None:
        self.seen, self.number, self.index = seen, number, index

    def like(self, x: Tensor) -> Tensor:
        """The condition in the size of `x`. Raises ConfigError when there is none yet, or it cannot be added to x."""
        output = self.seen.here.get(self.number)
        if output is None:
            raise ConfigError("CONFIG-02", "the module that gives the hint has not run yet", fix="run it first")
        hint = output if isinstance(output, Tensor) else item(output, self.index)
        if hint.ndim == x.ndim == 4 and hint.shape[2:] != x.shape[2:]:
            hint = F.interpolate(hint, (x.shape[2], x.shape[3]), mode="bilinear", align_corners=False)
        if hint.shape[1:] != x.shape[1:]:
            what = f"a hint of shape {tuple(hint.shape)} cannot be added to a skip connection {tuple(x.shape)}"
            raise ConfigError("CONFIG-02", what, fix="a hint module with as many channels as dims says")
        return hint


@dataclass(kw_only=True)
class SCETuningConfig(SwiftConfig):
    """SCEdit: every skip connection of a U-Net is edited by a tuner of its own.

    A connection x becomes::

        out = x + Op(x)              SC-Tuner
        out = x + Op(x + c)          CSC-Tuner, with a condition c from `hint_modules`
        Op(x) = W_up GELU(W_down x + b_down) + b_up

    W_up and b_up are zero at the start, so the model starts as it was, bit for bit.

    `tuner_mode` says where: "decoder" edits the last `dim` channels of what a target is given, where a U-Net's decoder
    block finds its skip connection behind its own channels (only decoder blocks then take part in the backward pass);
    "encoder" edits what a target returns; "identity" edits all of what a target is given, such as an `nn.Identity`
    that stands for a skip connection.

    Paper: SCEdit, https://arxiv.org/abs/2312.11392: SC-Tuner and CSC-Tuner with the adapter as operation.
    Shapes: maps (B, C, H, W), or hidden states (..., C); W_down (R, C), b_down (R), W_up (C, R), b_up (C) with
    R = `down_ratio` C.
    Saved: `op.down.*`, `op.up.*` for each target.
    Cost: 2CR + C + R parameters for each target, 2CR multiply-adds for each position of its map.
    Not as in the paper: one condition for each target, unweighted (several can be summed by the module that gives
    them); it is resized to the connection's map. Modules of hints are part of the model: train them with
    `extra_state_keys`.

    Args:
        dims: C of every skip connection, or a list with one for each target in the order of the targets.
        target_modules: a regular expression, or a list of endings; a list of modules stands for its last member.
        hint_modules: the modules that return conditions: one for each target, or a single one that returns a tensor
            for all of them or a list with one for each; None is no condition.
        tuner_mode: "decoder", "encoder" or "identity".
        tuner_op: "SCEAdapter".
        down_ratio: width of the bottleneck as a share of C.
    """

    kind: ClassVar[str] = "scetuning"

    dims: int | list[int]
    hint_modules: str | list[str] | None = None
    tuner_mode: str = "decoder"
    tuner_op: str = "SCEAdapter"
    down_ratio: float = 1.0

    def inject(self, model: nn.Module, name: str, active: Active) -> None:
        """Add a tuner to every target and a probe to every module of hints.

        Raises:
            UnknownNameError: there is no such module, mode or operation.
            ConfigError: `dims` or `hint_modules` do not fit the targets.
        """
        self._check()
        targets = last_members(model, self.target_modules)
        dims = per_place(self.dims, len(targets), "dims")
        hints = self._hints(model, len(targets))
        branches: list[tuple[nn.Module, Branch]] = []
        if hints:
            seen = hints[0].seen
            found = last_members(model, self.hint_modules or "")
            branches = [(host, Probe(seen, i)) for i, (_, host) in enumerate(found)]
        for i, (_, host) in enumerate(targets):
            branches.append((host, SkipTuner(host, dims[i], self, hints[i] if hints else None)))
        for host, branch in branches:
            key = f"{self.kind}_{name}"
            if key in dict(host.named_children()):
                raise ConfigError(
                    "CONFIG-02",
                    "a module cannot be a target twice, or give the hint for itself",
                    fix="each module once, and hint modules that are none of the targets",
                )
            branch.to(**place(host, model))
            branch.adapter, branch.active = name, active
            attach(host, key, branch)

    def _check(self) -> None:
        if self.tuner_mode not in MODES:
            raise unknown("tuner_mode", self.tuner_mode, MODES)
        if self.tuner_op not in OPERATIONS:
            raise unknown("tuner_op", self.tuner_op, OPERATIONS)
        positive(down_ratio=self.down_ratio)

    def _hints(self, model: nn.Module, count: int) -> list[Hints]:
        if self.hint_modules is None:
            return []
        found, seen = last_members(model, self.hint_modules), Seen()
        if len(found) not in (1, count):
            what = f"{len(found)} hint_modules for {count} target_modules"
            raise ConfigError("CONFIG-02", what, fix="one for each, or one for all")
        return [Hints(seen, i if len(found) > 1 else 0, i if len(found) == 1 else 0) for i in range(count)]


def last_members(model: nn.Module, target: str | Sequence[str]) -> list[tuple[str, nn.Module]]:
    """The modules that `target` names, with a list of modules replaced by its last member.

    Raises:
        UnknownNameError: nothing has such a name.
    """
    found: dict[str, nn.Module] = {}
    for path, module in outside(model):
        if path and matches(target, path):
            if isinstance(module, nn.ModuleList) and len(module):
                path, module = f"{path}.{len(module) - 1}", module[-1]
            found[path] = module
    if not found:
        raise no_target(model, target)
    return list(found.items())
