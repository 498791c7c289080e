"""Res-Tuning: a chain of small tuners beside a frozen model, fed from it and detached from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swift.errors import ConfigError
from swift.registry import unknown
from swift.tuners.branch import Active, Branch, attach, edit, hosts
from swift.tuners.config import SwiftConfig, place
from swift.tuners.places import Place, Seen, item, on_channels, per_place, positive

# Tensor names end in their shape: G groups of channels, D channels of a group, R channels inside a group's bottleneck.

ROOT, GIVEN = -1, -2
HOOKS = ("input", "output")
PARTS = ("lateral_cfg", "vertical_cfg", "aux_cfg")
PRESETS = ("res_adapter", "res_group_adapter", "upsample", "identity", "zero")

TunerCfg = str | Mapping[str, Any]


class ResAdapter(nn.Module):
    """x + W_up GELU(W_down x + b_down) + b_up; without `shortcut` the addition alone."""

    def __init__(self, dim: int, shortcut: bool, zero_init_last: bool, adapter_length: int = 32) -> None:
        super().__init__()
        positive(adapter_length=adapter_length)
        self.dim, self.shortcut = dim, shortcut
        self.down, self.up = nn.Linear(dim, adapter_length), nn.Linear(adapter_length, dim)
        for linear in (self.down, self.up):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        if zero_init_last:
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The adapted x."""
        change = on_channels(lambda last: self.up(F.gelu(self.down(last))), x, self.dim, "a tuner")
        return x + change if self.shortcut else change


class ResGroupAdapter(nn.Module):
    """The same with the channels in groups ("heads"), each with a bottleneck of its own."""

    def __init__(
        self, dim: int, shortcut: bool, zero_init_last: bool, num_heads: int = 4, expand_ratio: float = 2
    ) -> None:
        super().__init__()
        positive(num_heads=num_heads, expand_ratio=expand_ratio)
        if dim % num_heads:
            what = f"{dim} channels cannot be divided among the {num_heads} groups of res_group_adapter"
            raise ConfigError("CONFIG-02", what, fix="another num_heads, or res_adapter")
        self.dim, self.shortcut, self.groups = dim, shortcut, num_heads
        size = dim // num_heads
        inner = max(1, int(size * expand_ratio))
        self.down, self.down_bias = nn.Parameter(torch.empty(num_heads, size, inner)), _zeros(num_heads, inner)
        self.up, self.up_bias = nn.Parameter(torch.empty(num_heads, inner, size)), _zeros(num_heads, size)
        for weight in (*self.down, *self.up):
            nn.init.xavier_uniform_(weight.detach())
        if zero_init_last:
            nn.init.zeros_(self.up)

    def forward(self, x: Tensor) -> Tensor:
        """The adapted x."""
        change = on_channels(self._change, x, self.dim, "a tuner")
        return x + change if self.shortcut else change

    def _change(self, x: Tensor) -> Tensor:
        x_GD = x.unflatten(-1, (self.groups, -1))
        small_GR = F.gelu(torch.einsum("...gd,gdr->...gr", x_GD, self.down) + self.down_bias)
        return (torch.einsum("...gr,grd->...gd", small_GR, self.up) + self.up_bias).flatten(-2)


class Upsample(nn.Module):
    """A map (B, C, h, w) in the size of the next one, by the nearest neighbour, and a 3 x 3 convolution."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out, 3, padding=1)

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """The map in the size of `like`. Raises ConfigError when one of them is no map."""
        if x.ndim != 4 or like.ndim != 4:
            what = f"only maps (rows, channels, height, width) can be upsampled, not {tuple(x.shape)}"
            raise ConfigError("CONFIG-02", what, fix="use_upsample=False")
        return self.conv(F.interpolate(x, (like.shape[2], like.shape[3])))


OPERATIONS: dict[str, Callable[..., nn.Module | None]] = {
    "res_adapter": ResAdapter,
    "res_group_adapter": ResGroupAdapter,
    "identity": lambda dim, shortcut, zero_init_last: nn.Identity(),
    "zero": lambda dim, shortcut, zero_init_last: None,
}


class ResTuner(nn.Module):
    """One link of the chain: aux(lateral(stem) + vertical(x)); a part that is None adds nothing."""

    def __init__(self, parts: dict[str, Any], dim: int, out: int, config: ResTuningConfig) -> None:
        super().__init__()
        options = {"shortcut": config.use_bypass, "zero_init_last": config.zero_init_last}
        self.lateral = make_operation(parts["lateral_cfg"], dim, **options)
        self.vertical = make_operation(parts["vertical_cfg"], dim, **options) if config.use_bypass else None
        self.aux = Upsample(dim, out) if parts["aux_cfg"] == "upsample" else None

    def forward(self, stem: Tensor, x: Tensor | None, like: Tensor) -> Tensor:
        """The next x, in the size of `like` when this link upsamples."""
        weight = next(self.parameters(), stem)
        stem = stem.to(weight)
        sides = [] if self.lateral is None else [self.lateral(stem)]
        if x is not None and self.vertical is not None:
            x = x.to(weight)
            if x.shape != stem.shape:
                what = f"the chain brings {tuple(x.shape)} to a stem of shape {tuple(stem.shape)}"
                raise ConfigError("CONFIG-02", what, fix="use_upsample=True, and stems in the order of their sizes")
            sides.append(self.vertical(x))
        out = sides[0] if sides else torch.zeros_like(stem)
        out = out + sides[1] if len(sides) > 1 else out
        return self.aux(out, like) if self.aux is not None else out


class Bypass(Branch):
    """All tuners of an adapter, on the top module of the model, and what its probes have seen in this pass."""

    def __init__(self, tuners: list[ResTuner]) -> None:
        super().__init__()
        self.tuners, self.seen = nn.ModuleList(tuners), Seen()

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same arguments; a new pass begins."""
        self.seen.forget()
        return args, kwargs

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The same output. In training a backward pass may run parts again, so what was seen stays."""
        if not self.training:
            self.seen.forget()
        return output

    def forward(self, value: Tensor) -> Tensor:
        """What the target gets in the place of `value`."""
        stems = [self.seen.here.get(i) for i in range(len(self.tuners))]
        x: Tensor | None = self.seen.here.get(ROOT)
        for i, (tuner, stem) in enumerate(zip(self.tuners, stems, strict=True)):
            if stem is None:
                raise ConfigError("CONFIG-02", f"stem {i} has not run before the target", fix="stems before the target")
            following = stems[i + 1] if i + 1 < len(stems) else value
            x = tuner(stem, x, value if following is None else following)
        assert x is not None
        if x.shape != value.shape:
            what = f"the chain ends with {tuple(x.shape)} but its target has {tuple(value.shape)}"
            raise ConfigError("CONFIG-02", what, fix="dims and upsample_out_channels that end with the target's")
        return x.to(value)


class Tap(Branch):
    """What an adapter does at one module: leave its input or output for the chain, or put the chain's end there."""

    def __init__(self, host: nn.Module, bypass: Bypass, config: ResTuningConfig) -> None:
        super().__init__()
        self.chain = (bypass,)  # in a tuple, so that it is no child
        self.numbers: dict[str, int] = {}
        self.root, self.is_target, self.beside = "", False, False
        self.sooner: tuple[Tap, ...] = ()  # other chains' taps that put their ends where this one does, and run first
        self.hook, self.position = config.target_modules_hook, config.target_hidden_pos
        self.first, self.target = Place.of(host, 0), Place.of(host, self.position)

    @property
    def writes(self) -> tuple[str, Any]:
        """Where the chain's end goes."""
        return (self.hook, self.target if self.hook == "input" else self.position)

    def join(self, earlier: Sequence[Tap]) -> None:
        """Become one more target beside those of `earlier` adapters at the same module."""
        same = tuple(tap for tap in earlier if tap.writes == self.writes)
        if self.hook == "output":
            self.sooner = same
        for tap in same if self.hook == "input" else ():
            tap.sooner = (*tap.sooner, self)  # what a module is given is edited from the outside to the inside

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call, with the chain's end for a target."""
        self._leave("input", lambda: self.first.tensor(args, kwargs))
        if self.is_target and self.hook == "input":
            value = self.target.tensor(args, kwargs)
            return self.target.put(args, kwargs, self._end(value))
        return args, kwargs

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The output, with the chain's end for a target."""
        if self.beside:
            return self._add(args, kwargs, output)
        self._leave("output", lambda: item(output, 0))
        if self.is_target and self.hook == "output":
            item(output, self.position)
            return edit(output, self.position, self._end)
        return output

    def _end(self, value: Tensor) -> Tensor:
        bypass = self.chain[0]
        other = next((tap.chain[0] for tap in self.sooner if tap.on), None)
        given = bypass.seen.here[GIVEN] = value if other is None else other.seen.here[GIVEN]
        end = bypass(given)
        return end if other is None else value + (end - given)

    def _leave(self, side: str, value: Callable[[], Tensor]) -> None:
        here = self.chain[0].seen.here
        if self.root == side:
            here[ROOT] = value().detach()
        if side in self.numbers and not self.beside:
            here[self.numbers[side]] = value().detach()

    def _add(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        ((side, number),) = self.numbers.items()
        stem = self.first.tensor(args, kwargs) if side == "input" else item(output, 0)
        item(output, 0)
        tuner = self.chain[0].tuners[number]
        return edit(output, 0, lambda out: out + tuner(stem, None, out).to(out))


@dataclass(kw_only=True)
class ResTuningConfig(SwiftConfig):
    """Res-Tuning: tuners that are no part of the model.

    With `use_bypass` they form a chain beside it::

        x_0 = root        x_i+1 = aux_i(lateral_i(stem_i) + vertical_i(x_i))        target := x_n

    where root and stem_i are what modules of the frozen model are given or return, detached: no gradient goes through
    the model, which so keeps nothing for the backward pass up to the target. Without `use_bypass` every stem gets a
    tuner of its own beside it, out = Op(x) + lateral(x), and root and target are not used.

    Parts, by name or as {"type": name, option: value}: `res_adapter` x + W_up GELU(W_down x) with biases
    (`adapter_length` 32), `res_group_adapter` the same for each of `num_heads` 4 groups of channels (`expand_ratio` 2),
    `identity` x, `zero` nothing. An adapter beside a stem has no "x +". aux is nothing or, with `use_upsample`,
    `upsample`: the nearest neighbour in the size of the next stem, and a 3 x 3 convolution.

    Paper: Res-Tuning, https://arxiv.org/abs/2310.19859: its unified formulation and Res-Tuning-Bypass.
    Shapes: hidden states (..., D) or maps (B, D, H, W); W_down (32, D), W_up (D, 32).
    Saved: `tuners.i.lateral.*`, `.vertical.*`, `.aux.*` on the top module.
    Cost: for each stem 2 (65D + 32) parameters as `res_adapter`, 2 (D^2 + 3D) as `res_group_adapter`, 9DD' + D' more
    to upsample to D' channels; no backward pass through the model, and of its activations only the stems are kept.
    Not as in the paper: lateral and vertical are summed, not weighted by a learnt share, so that a scale is left to
    the tuners. The chain's end stands in for the target's value from the first step, so the model does not start as it
    was. What other tuners add to the model shows in the stems, but gets no gradient through the chain. The ends of
    several chains with one target add up what each changes: value := value + (x_n - value_0).
    A target that is run again in the backward pass (gradient checkpointing around it) needs that to happen before the
    next forward pass.

    Args:
        dims: D, or a list with that of each stem.
        root_modules: one module, by an expression for its whole path; None is a chain without x_0.
        root_modules_hook: "input" or "output" of the root.
        stem_modules: an expression for the paths, in the model's order, or a list of endings, in the list's order.
        stem_modules_hook: "input" or "output" of the stems.
        target_modules: one module.
        target_modules_hook: what of it is replaced, "input" or "output".
        target_hidden_pos: which argument, or element of the output, that is: an index or a name.
        tuner_cfg: a part for both lateral and vertical ("upsample": both `identity`, and upsampling), or
            {"lateral_cfg": part, "vertical_cfg": part, "aux_cfg": "upsample" or None}, or a list of those, one for
            each stem.
        use_upsample: make the chain grow with its stems.
        upsample_out_channels: D' of each link; None is D of the next stem.
        zero_init_last: W_up starts as zero.
        use_bypass: the chain; False is a tuner beside each stem.
    """

    kind: ClassVar[str] = "restuning"

    dims: int | list[int]
    root_modules: str | None = None
    root_modules_hook: str = "input"
    stem_modules: str | list[str]
    stem_modules_hook: str = "output"
    target_modules_hook: str = "input"
    target_hidden_pos: int | str = 0
    tuner_cfg: str | dict[str, Any] | list[Any] = "res_adapter"
    use_upsample: bool = False
    upsample_out_channels: int | list[int] | None = None
    zero_init_last: bool = False
    use_bypass: bool = True

    def inject(self, model: nn.Module, name: str, active: Active) -> None:
        """Put the chain on the model and taps on its root, stems and target.

        Raises:
            UnknownNameError: there is no such module, hook or part.
            ConfigError: several roots or targets, or sizes that do not follow one another.
        """
        for hook in (self.root_modules_hook, self.stem_modules_hook, self.target_modules_hook):
            if hook not in HOOKS:
                raise unknown("hook", hook, HOOKS)
        stems = find_stems(model, self.stem_modules)
        bypass = Bypass(self._tuners(len(stems)))
        taps: dict[str, Tap] = {}

        def tap(path: str, host: nn.Module) -> Tap:
            return taps.setdefault(path, Tap(host, bypass, self))

        for i, (path, host) in enumerate(stems):
            tap(path, host).numbers[self.stem_modules_hook] = i
            taps[path].beside = not self.use_bypass
        if self.use_bypass:
            path, target = one(model, self.target_modules, "target_modules")
            tap(path, target).is_target = True
            taps[path].join([child for child in target.children() if isinstance(child, Tap) and child.is_target])
        if self.use_bypass and self.root_modules is not None:
            tap(*one(model, self.root_modules, "root_modules")).root = self.root_modules_hook
        bypass.to(**place(model))
        for tuner, (_, stem) in zip(bypass.tuners, stems, strict=True):
            tuner.to(**place(stem, model))
        for host, branch in [(model, bypass), *((model.get_submodule(path), taps[path]) for path in taps)]:
            branch.adapter, branch.active = name, active
            attach(host, f"{self.kind}_{name}", branch)

    def _tuners(self, count: int) -> list[ResTuner]:
        dims = per_place(self.dims, count, "dims")
        said = self.tuner_cfg if isinstance(self.tuner_cfg, list) else [self.tuner_cfg] * count
        if len(said) != count:
            raise ConfigError(
                "CONFIG-02",
                f"tuner_cfg has {len(said)} entries for {count} stems",
                fix="one for each stem, or one text for all",
            )
        given = [*dims[1:], dims[-1]] if self.upsample_out_channels is None else self.upsample_out_channels
        outs = per_place(given, count, "upsample_out_channels")
        parts = [find_parts(cfg, self.use_upsample) for cfg in said]
        parts[0] |= {} if self.root_modules is not None else {"vertical_cfg": "zero"}
        for i in range(1, count):
            before = outs[i - 1] if parts[i - 1]["aux_cfg"] == "upsample" else dims[i - 1]
            if self.use_bypass and parts[i]["vertical_cfg"] != "zero" and before != dims[i]:
                what = f"the chain brings {before} channels to stem {i}, which has {dims[i]}"
                raise ConfigError("CONFIG-02", what, fix="use_upsample=True, with upsample_out_channels as the stems'")
        return [ResTuner(*each, self) for each in zip(parts, dims, outs, strict=True)]


def find_parts(cfg: TunerCfg, use_upsample: bool) -> dict[str, Any]:
    """The parts of one link. Raises UnknownNameError for a preset or key that there is not."""
    aux = "upsample" if use_upsample else None
    if isinstance(cfg, str):
        if cfg not in PRESETS:
            raise unknown("tuner_cfg", cfg, PRESETS)
        if cfg == "upsample":
            cfg, aux = "identity", "upsample"
        return {"lateral_cfg": cfg, "vertical_cfg": cfg, "aux_cfg": aux}
    for key in cfg:
        if key not in PARTS:
            raise unknown("key of tuner_cfg", key, PARTS)
    parts = {"lateral_cfg": "res_adapter", "vertical_cfg": "res_adapter", "aux_cfg": aux, **cfg}
    if parts["aux_cfg"] not in (None, "identity", "upsample"):
        raise unknown("aux_cfg", str(parts["aux_cfg"]), ("identity", "upsample"))
    return parts


def make_operation(cfg: TunerCfg | None, dim: int, **options: Any) -> nn.Module | None:
    """The part `cfg` for `dim` channels; None adds nothing.

    Raises:
        UnknownNameError: there is no such part.
        ConfigError: it has no such option.
    """
    said = {"type": cfg or "zero"} if not isinstance(cfg, Mapping) else dict(cfg)
    kind = said.pop("type", "res_adapter")
    if kind not in OPERATIONS:
        raise unknown("part of tuner_cfg", str(kind), OPERATIONS)
    try:
        return OPERATIONS[kind](dim, **options, **said)
    except TypeError as error:
        raise ConfigError("CONFIG-02", f"tuner_cfg: {kind} has no option like that: {error}") from error


def find_stems(model: nn.Module, target: str | Sequence[str]) -> list[tuple[str, nn.Module]]:
    """The stems: in the model's order for an expression, in the order of a list. Raises UnknownNameError for none."""
    if isinstance(target, str):
        return hosts(model, target)
    return list({path: (path, host) for ending in target for path, host in hosts(model, [ending])}.values())


def one(model: nn.Module, target: str | Sequence[str], field: str) -> tuple[str, nn.Module]:
    """The one module that `target` names. Raises ConfigError when there are several, UnknownNameError for none."""
    found = hosts(model, target)
    if len(found) > 1:
        names = ", ".join(path for path, _ in found[:3])
        raise ConfigError("CONFIG-02", f"{field} names {len(found)} modules: {names}, ...", fix="name one of them")
    return found[0]


def _zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))
