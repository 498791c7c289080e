"""How an option is written once: a dataclass field that help, files, checks and docs are read from."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from dataclasses import dataclass
from typing import Any

from swift.errors import SwiftError, UsageError
from swift.redact import redact


def option(
    default: Any,
    *,
    help: str,
    group: str,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str | None = None,
    none: str | None = None,
    gone: dict[str, tuple[str, str]] | None = None,
) -> Any:
    """A dataclass field that is also a command-line option.

    Args:
        default: its value when nobody says one; a list or dict is copied for each instance.
        help: one sentence.
        group: the heading it stands under in `--help`.
        choices: the values allowed; of a list, for each item.
        minimum: smallest value allowed.
        maximum: largest value allowed.
        unit: "tokens", "steps", "bytes", ...
        none: what None means, for options whose default it is.
        gone: values that people know and that are no choices: why, and what to type.
    """
    metadata = {
        "help": help,
        "group": group,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "unit": unit,
        "none": none,
        "gone": gone,
    }
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class OptionInfo:
    """What one option's field says, with its type taken apart.

    `kind` is str, int, float, bool or dict; `is_list` says whether it takes several of them; `optional` whether None
    is allowed.
    """

    name: str
    kind: type
    is_list: bool
    optional: bool
    default: Any
    help: str
    group: str
    choices: tuple[Any, ...] | None
    minimum: float | None
    maximum: float | None
    unit: str | None
    none: str | None
    gone: dict[str, tuple[str, str]] | None


def options_of(cls: type) -> dict[str, OptionInfo]:
    """Every option of an arguments class by name, in the order of its groups' first appearance."""
    hints = _hints_of(cls)
    infos = {}
    for field in dataclasses.fields(cls):
        kind, is_list, optional = _take_apart(hints[field.name])
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        infos[field.name] = OptionInfo(field.name, kind, is_list, optional, default, **field.metadata)
    return infos


@functools.cache
def _hints_of(cls: type) -> dict[str, Any]:
    """The types of a class' fields, for which Python reads words as code; a run asks a dozen times."""
    return typing.get_type_hints(cls)


def _take_apart(hint: Any) -> tuple[type, bool, bool]:
    """`list[str] | None` -> (str, True, True)."""
    optional = False
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        rest = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        optional, hint = len(rest) < len(typing.get_args(hint)), rest[0]
    origin = typing.get_origin(hint)
    if origin is list:
        return typing.get_args(hint)[0], True, optional
    return (dict if origin is dict else hint), False, optional


def check_values(args: Any) -> list[SwiftError]:
    """Every value of the wrong type, out of range or not among its choices."""
    errors: list[SwiftError] = []
    for info in options_of(type(args)).values():
        value = getattr(args, info.name)
        if value is None and info.optional:
            continue
        if not info.is_list:
            errors += check_value(info, value)
        elif isinstance(value, list):
            errors += [error for item in value for error in check_value(info, item)]
        else:
            errors.append(UsageError("USAGE-02", f"--{info.name} takes a list, not {value!r}"))
    return errors


def check_value(info: OptionInfo, value: Any) -> list[SwiftError]:
    """What is wrong with one value of an option (one item, if it takes several): its type, its range, its choices."""
    name = f"--{info.name}"
    if not _fits(value, info.kind):
        return [UsageError("USAGE-02", f"{name} takes {describe_kind(info.kind)}, not {value!r}")]
    if info.gone and value in info.gone:
        why, fix = info.gone[value]
        return [UsageError("USAGE-02", f"{name} cannot be {value!r}", why=why, fix=fix)]
    if info.choices and value not in info.choices:
        allowed = ", ".join(str(choice) for choice in info.choices)
        return [UsageError("USAGE-02", f"{name} cannot be {value!r}", fix=f"one of: {allowed}")]
    if info.minimum is not None and not value >= info.minimum:
        return [UsageError("USAGE-02", f"{name} is {value}, below its minimum {info.minimum:g}")]
    if info.maximum is not None and not value <= info.maximum:
        return [UsageError("USAGE-02", f"{name} is {value}, above its maximum {info.maximum:g}")]
    return []


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def describe_kind(kind: type) -> str:
    """A type in plain words."""
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a JSON object"}[kind]


def to_json(args: Any) -> dict[str, Any]:
    """The options as plain JSON values, secrets blacked out."""
    return redact({name: _plain(getattr(args, name)) for name in options_of(type(args))})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
