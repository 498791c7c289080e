"""How a value of `--tuner` is written: `kind:key=value,key=value`, or a mapping in a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.errors import UsageError

KIND = re.compile(r"[A-Za-z]\w*")
KEY = re.compile(r"[A-Za-z_]\w*=")
OPENING, CLOSING = "([{", ")]}"
EXAMPLE = "--tuner lora:rank=8,targets=ALL"


@dataclass(frozen=True)
class Spec:
    """One tuner as it was said: its kind, the adapter's name, and what was said of it, still as text."""

    kind: str
    name: str
    values: Mapping[str, str]


def parse_specs(said: Sequence[str]) -> list[Spec]:
    """What the values of `--tuner` say. Adapters without a `name=` are called by their kind: `lora`, `lora2`, ...

    Raises:
        UsageError: a value is not written as it should be, or two adapters have one name.
    """
    specs: list[Spec] = []
    for text in said:
        kind, _, rest = text.partition(":")
        kind = kind.strip().lower()
        if not KIND.fullmatch(kind):
            raise UsageError("USAGE-02", f"--tuner {text!r} does not begin with a tuner's name", fix=EXAMPLE)
        values: dict[str, str] = {}
        for key, value in _pairs(rest, text):
            if key in values:
                raise UsageError("USAGE-02", f"--tuner {text!r} says {key} twice")
            values[key] = value
        taken = [spec.name for spec in specs]
        name = values.pop("name", None) or _free_name(kind, taken)
        if name in taken:
            raise UsageError("USAGE-02", f"--tuner: two adapters are called {name!r}", fix="name=<another>")
        specs.append(Spec(kind, name, values))
    return specs


def to_text(said: Mapping[str, Any]) -> str:
    """A file's mapping as one value of `--tuner`: `{lora: {rank: 8}}`, or `{kind: lora, rank: 8}`.

    Raises:
        ValueError: it is neither.
    """
    if "kind" in said:
        kind, values = str(said["kind"]), {key: value for key, value in said.items() if key != "kind"}
    elif len(said) == 1:
        ((kind, values),) = said.items()
    else:
        raise ValueError("neither one tuner nor its kind")
    if values is None:
        return str(kind)
    if not isinstance(values, Mapping):
        raise ValueError("its settings are no mapping")
    return f"{kind}:" + ",".join(f"{key}={_flat(value)}" for key, value in values.items())


def split_top(text: str) -> Iterator[str]:
    """The parts between commas that no bracket encloses."""
    depth, start = 0, 0
    for i, sign in enumerate(text):
        depth += (sign in OPENING) - (sign in CLOSING)
        if sign == "," and depth <= 0:
            yield text[start:i]
            start = i + 1
    if text[start:].strip():
        yield text[start:]


def _flat(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_flat(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}: {_flat(item)}" for key, item in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _free_name(kind: str, taken: Sequence[str]) -> str:
    names = (kind if i == 1 else f"{kind}{i}" for i in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _pairs(text: str, whole: str) -> Iterator[tuple[str, str]]:
    """`a=1,b=x,y` -> ("a", "1"), ("b", "x,y"): what does not begin with a key goes on with the value before."""
    key, value = "", ""
    for part in split_top(text):
        if KEY.match(part.lstrip()):
            if key:
                yield key, value
            key, _, value = part.strip().partition("=")
        elif key:
            value += f",{part}"
        else:
            raise UsageError("USAGE-02", f"--tuner {whole!r}: {part.strip()!r} is not key=value", fix=EXAMPLE)
    if key:
        yield key, value
