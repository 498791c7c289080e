"""What was said for one option, and how it becomes a value of the option's type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from swift.arguments.fields import OptionInfo, check_value, describe_kind
from swift.arguments.files import NULLS, parse_json, resolve
from swift.arguments.specs import to_text
from swift.errors import UsageError

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
MAY_BE_EMPTY = ("system", "query_prefix", "document_prefix")


@dataclass(frozen=True)
class Said:
    """One option as the user said it.

    `value` is the list of its words, or a file's tree; `where` is "run.yaml:7: ", or empty for the command line;
    `typed` is the name as it was spelt.
    """

    name: str
    value: Any
    where: str
    typed: str

    @property
    def place(self) -> str:
        """The option's name with the place it was said at, to begin a message with."""
        return f"{self.where}--{self.name}"


def convert(info: OptionInfo, said: Said) -> Any:
    """What was said as the type its option wants.

    Raises:
        UsageError: it is not of that type, not among the choices, out of range or empty.
    """
    given = said.value
    if given is None or _means_none(given, info):
        if info.optional:
            return None
        raise UsageError("USAGE-02", f"{said.place} cannot be None", fix=_example(info))
    if info.kind is dict:
        return _mapping(given, said)
    if info.is_list:
        items = given if isinstance(given, list) else [given]
        if not items and not said.where:
            raise UsageError("USAGE-02", f"{said.place} has no value", fix=_example(info))
        value = [_scalar(item, info, said) for item in items]
    else:
        value = _scalar(_only(given, info, said), info, said)
    for item in value if info.is_list else [value]:
        for error in check_value(info, item):
            raise UsageError(error.code, said.where + error.what, why=error.why, fix=error.fix)
    return value


def _means_none(given: Any, info: OptionInfo) -> bool:
    """Whether a value stands for None: null or nothing in a file, `None` on the command line."""
    word = given[0] if isinstance(given, list) and len(given) == 1 else given
    if info.choices and word in info.choices:
        return False
    if info.optional and info.kind is bool and str(resolve(word)).lower() == "auto":
        return True
    if not isinstance(given, list):
        return resolve(given) is None
    return info.optional and (word == "None" or (info.kind is not str and str(word).lower() in ("none", "null")))


def _only(given: Any, info: OptionInfo, said: Said) -> Any:
    """The one value of an option that takes one; a flag without a value is true."""
    if not isinstance(given, list):
        return given
    if len(given) == 1:
        return given[0]
    if given:
        words = " ".join(str(word) for word in given)
        fix = f"quote it: --{info.name} '{words}'" if info.kind is str and not said.where else _example(info)
        raise UsageError("USAGE-02", f"{said.place} takes one value, not {len(given)}: {words}", fix=fix)
    if info.kind is bool and not said.where:
        return "true"
    raise UsageError("USAGE-02", f"{said.place} has no value", fix=_example(info))


def _scalar(given: Any, info: OptionInfo, said: Said) -> Any:
    text = _tuner(given, said) if info.name == "tuner" and isinstance(given, dict) else _text(given)
    if text is None:
        raise UsageError("USAGE-02", f"{said.place} takes {describe_kind(info.kind)}, not {resolve(given)!r}")
    if not text.strip() and info.name not in MAY_BE_EMPTY:
        raise UsageError("USAGE-02", f"{said.place} is empty", fix=_example(info))
    try:
        return _typed(text, info)
    except (ValueError, OverflowError):
        kind = "true, false or auto" if info.kind is bool and info.optional else describe_kind(info.kind)
        raise UsageError("USAGE-02", f"{said.place} takes {kind}, not {_short(text)!r}", fix=_example(info)) from None


def _tuner(given: dict[str, Any], said: Said) -> str:
    """A tuner that a file spells out as a mapping, as the command line has it."""
    try:
        return to_text(resolve(given))
    except ValueError as error:
        fix = "- lora: {rank: 8, targets: ALL}"
        raise UsageError("USAGE-02", f"{said.place} has an item that is {error}", fix=fix) from None


def _text(given: Any) -> str | None:
    if isinstance(given, bool):
        return "true" if given else "false"
    return given if isinstance(given, str) else None


def _typed(text: str, info: OptionInfo) -> Any:
    if info.kind is bool:
        if text.lower() not in TRUE + FALSE:
            raise ValueError(text)
        return text.lower() in TRUE
    if info.kind is int:
        number = float(text) if re.search(r"[.eE]", text) else int(text)
        if number != int(number):
            raise ValueError(text)
        return int(number)
    if info.kind is float:
        number = float(text)
        if number - number != 0:  # NaN and the infinities
            raise ValueError(text)
        return number
    same = [choice for choice in info.choices or () if choice.lower() == text.lower()]
    return same[0] if len(same) == 1 else str(text)


def _mapping(given: Any, said: Said) -> dict[str, Any]:
    """A JSON object, `a=1 b=text`, or a file's mapping."""
    if isinstance(given, dict):
        return resolve(given)
    words = [word for word in (given if isinstance(given, list) else [given]) if isinstance(word, str)]
    pairs = [word.partition("=") for word in words]
    if words and all(key and equals for key, equals, _ in pairs) and not words[0].lstrip().startswith("{"):
        return {key: _loose(value) for key, _, value in pairs}
    try:
        tree = parse_json(" ".join(words))
    except ValueError:
        tree = None
    if isinstance(tree, dict):
        return resolve(tree)
    shown = _short(" ".join(words))
    raise UsageError(
        "USAGE-02", f"{said.place} takes a JSON object, not {shown!r}", fix=f"--{said.name} name=value other=2"
    )


def _loose(text: str) -> Any:
    try:
        return None if text in NULLS else resolve(parse_json(text))
    except ValueError:
        return text


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _example(info: OptionInfo) -> str:
    """What to type: the choices, or the option with a value that fits."""
    if info.choices:
        return "one of: " + ", ".join(str(choice) for choice in info.choices)
    default = info.default[0] if isinstance(info.default, list) and info.default else info.default
    if info.kind is bool:
        return f"--{info.name} true or --{info.name} false"
    if info.kind is int:
        return f"--{info.name} {default if isinstance(default, int) and default > 0 else 10}"
    if info.kind is float:
        return f"--{info.name} {default or 0.1}"
    return f"--{info.name} {default if isinstance(default, str) and default else '<text>'}"


def spelt(name: str, value: Any) -> list[str]:
    """The words of a command line that say this value of an option."""
    if isinstance(value, dict):
        return [f"--{name}", *(f"{key}={item}" for key, item in value.items())]
    items = value if isinstance(value, list) else [value]
    return [f"--{name}", *(str(item).lower() if isinstance(item, bool) else str(item) for item in items)]
