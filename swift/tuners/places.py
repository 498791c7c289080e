"""Where tuners read and write while a model runs: the arguments of a call, channels, what a pass leaves behind."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from swift.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """One argument of a module's forward: its position and its name, as far as the signature tells."""

    index: int | None
    name: str | None

    @classmethod
    def of(cls, host: nn.Module, position: int | str) -> Place:
        """The place that `position`, an index or a name, means for `host`."""
        named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in inspect.signature(host.forward).parameters.values() if p.kind in named]
        if isinstance(position, str):
            return cls(names.index(position) if position in names else None, position)
        return cls(position, names[position] if position < len(names) else None)

    def get(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The argument, or None when the call does not give it."""
        if self.index is not None and self.index < len(args):
            return args[self.index]
        return kwargs.get(self.name) if self.name is not None else None

    def put(self, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call with `value` as the argument."""
        if self.index is not None and self.index < len(args):
            return (*args[: self.index], value, *args[self.index + 1 :]), kwargs
        assert self.name is not None
        return args, {**kwargs, self.name: value}

    def tensor(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The argument, which has to be a tensor. Raises ConfigError when it is not, or is not given."""
        value = self.get(args, kwargs)
        if not isinstance(value, Tensor):
            what = f"argument {self.name or self.index} of the tuner's target is {type(value).__name__}, not a tensor"
            raise ConfigError("CONFIG-02", what, fix="say by position or name where the hidden states are")
        return value


def item(output: Any, position: int | str) -> Tensor:
    """The tensor that a module returns, or what it returns at `position`. Raises ConfigError when none is there."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict) and isinstance(position, int):
        position = list(output)[position] if position < len(output) else position
    try:
        value = output[position]
    except (LookupError, TypeError):
        value = None
    if not isinstance(value, Tensor):
        raise ConfigError("CONFIG-02", f"the tuner's target returns no tensor at {position!r}", fix="another position")
    return value


class Seen:
    """What the hooks of one forward pass leave for later ones, each thread for itself. A copy starts empty."""

    def __init__(self) -> None:
        self._of: dict[int, dict[int, Any]] = {}

    @property
    def here(self) -> dict[int, Any]:
        """What this thread has left, by number."""
        return self._of.setdefault(threading.get_ident(), {})

    def forget(self) -> None:
        """Drop what this thread has left."""
        self._of.pop(threading.get_ident(), None)

    def __deepcopy__(self, memo: dict[int, Any]) -> Seen:
        return Seen()

    def __getstate__(self) -> dict[str, Any]:
        return {"_of": {}}


def on_channels(change: Callable[[Tensor], Tensor], x: Tensor, dim: int, what: str) -> Tensor:
    """`change` applied to the axis of `dim` channels: axis 1 of maps (B, C, H, W), else the last one.

    Raises:
        ConfigError: neither axis has that size.
    """
    if x.ndim == 4 and x.shape[1] == dim:
        rows = x.flatten(2).transpose(1, 2).contiguous()  # torch sums strided maps in another order without gradients
        return change(rows).transpose(1, 2).unflatten(2, x.shape[2:])
    if x.shape[-1] == dim:
        return change(x)
    axis = 1 if x.ndim == 4 else -1
    found = f"{what} expects {dim} channels and its host gives {x.shape[axis]}, in a tensor {tuple(x.shape)}"
    raise ConfigError("CONFIG-02", found, fix=f"dim {x.shape[axis]}")


def per_place(value: int | Sequence[int], count: int, field: str) -> list[int]:
    """One size for each of `count` places. Raises ConfigError when there are fewer or more, or one is not positive."""
    sizes = [value] * count if isinstance(value, int) else list(value)
    if len(sizes) != count:
        raise ConfigError("CONFIG-02", f"{field} has {len(sizes)} sizes for {count} modules", fix="one for each module")
    positive(**{field: min(sizes)})
    return sizes


def positive(**sizes: float) -> None:
    """See that all sizes are positive. Raises ConfigError for the first that is not."""
    for field, size in sizes.items():
        if size <= 0:
            raise ConfigError(
                "CONFIG-02", f"{field} is {size}, which has to be positive", fix=f"{field}=16, for example"
            )
