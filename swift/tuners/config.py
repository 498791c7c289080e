"""What a tuner of our own is told, and how it gets into a model and onto a disk."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from swift.arguments.sft import SftArguments
from swift.errors import DataError, UsageError
from swift.registry import unknown
from swift.tuners.branch import Active, Branch, attach, hosts
from swift.tuners.methods import method_names


@dataclass(kw_only=True)
class SwiftConfig:
    """The options of a tuner of our own.

    A new method is one file in `methods/`: a child of this class that names its `kind` (as the file is named) and makes
    a `Branch` for a host. Where that is not enough it overrides `inject` and `owned`.

    Args:
        target_modules: a regular expression for whole module paths, or a list of endings of paths.
        model_key_mapping: where the parts of the model are, for methods that look them up; None is by its architecture.
    """

    kind: ClassVar[str] = ""
    kinds: ClassVar[dict[str, type[SwiftConfig]]] = {}
    merges: ClassVar[bool] = False  # its modules can become parts of the model
    trains: ClassVar[bool] = True  # it has parameters; one without freezes nothing and saves nothing but its config

    target_modules: str | Sequence[str]
    model_key_mapping: dict[str, Any] | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        SwiftConfig.kinds[cls.kind.upper()] = cls

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            check_type(f"{type(self).__name__}.{field.name}", getattr(self, field.name), hints[field.name])

    @property
    def swift_type(self) -> str:
        """The method's name in adapter_config.json, such as "ADAPTER"."""
        return self.kind.upper()

    def branch(self, host: nn.Module) -> Branch:
        """A new branch for `host`, as it is at the start of training."""
        raise NotImplementedError

    def inject(self, model: nn.Module, name: str, active: Active) -> None:
        """Add the adapter `name` to `model`; it runs while `active` holds its name.

        Raises:
            UnknownNameError: no module is named as the targets say.
        """
        for host, branch in [(host, self.branch(host)) for _, host in hosts(model, self.target_modules)]:
            branch.to(**place(host, model))
            branch.adapter, branch.active = name, active
            attach(host, f"{self.kind}_{name}", branch)

    def owned(self, model: nn.Module, name: str) -> dict[str, str]:
        """The adapter's keys in `model.state_dict()`, each with its pattern: `{}` stands for the adapter's name."""
        own, start = {}, f"{self.kind}_"
        for path, module in model.named_modules():
            if isinstance(module, Branch) and module.adapter == name and path.endswith(f"{start}{name}"):
                stem = path.removesuffix(name)
                own |= {f"{path}.{key}": f"{stem}{{}}.{key}" for key in module.state_dict()}
        return own

    def merge(self, model: nn.Module, name: str) -> None:
        """Make the adapter `name` a part of `model` for good. A method that `merges` overrides this."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The contents of adapter_config.json."""
        return {"swift_type": self.swift_type, **asdict(self)}

    @classmethod
    def from_options(cls, args: SftArguments, model: Any, default_targets: Sequence[str] = ()) -> Self:
        """The config that the command line's options ask for. A method that it offers overrides this."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config with these `values`. Raises DataError for a field that is missing or not known."""
        values = {key: value for key, value in values.items() if key != "swift_type"}
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                raise DataError(
                    "CKPT-01", f"{cls.__name__} has no field {key!r}", fix=f"it has {', '.join(sorted(known))}"
                )
        try:
            return cls(**values)
        except TypeError as error:
            raise DataError(
                "CKPT-01",
                f"{cls.__name__} is incomplete: {error}",
                fix="copy adapter_config.json again from where it was made",
            ) from error


def check_type(what: str, value: Any, hint: Any) -> None:
    """Raise UsageError if the `value` of the field `what` is not of the type `hint`."""
    if not _fits(value, hint):
        wanted = str(hint.__name__ if isinstance(hint, type) else hint).replace("collections.abc.", "")
        raise UsageError("USAGE-02", f"{what} is {value!r:.80}, which is not {wanted.replace('typing.', '')}")


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inside)
    if origin is Literal:
        return value in inside
    if origin in (Sequence, list):
        several = isinstance(value, Sequence | set) and not isinstance(value, str)
        return several and all(_fits(one, inside[0]) for one in value)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real)
    return isinstance(value, origin or hint)


def place(host: nn.Module, model: nn.Module | None = None) -> dict[str, Any]:
    """Where the new parameters of a `host` live: its device; float32, or the host's precision when it is higher.

    A host without parameters is where the `model` is.
    """
    tensors = (tensor for module in (host, model) if module is not None for tensor in module.parameters())
    like = next(tensors, torch.empty(0))
    return {"device": like.device, "dtype": torch.promote_types(torch.float32, _floating(like.dtype))}


def find_kind(swift_type: str) -> type[SwiftConfig]:
    """The config class of a method's name in adapter_config.json. Raises UnknownNameError with the nearest names."""
    if swift_type.lower() in method_names():
        importlib.import_module(f"swift.tuners.methods.{swift_type.lower()}")
    if swift_type.upper() not in SwiftConfig.kinds:
        raise unknown("tuner", swift_type, {*SwiftConfig.kinds, *(name.upper() for name in method_names())})
    return SwiftConfig.kinds[swift_type.upper()]


def _floating(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point else torch.float32
