"""From the keys of `--tuner` to the fields of a config: which field a key means, and its text as the field's type."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import yaml

from swift.arguments.specs import split_top
from swift.errors import UnknownNameError, UsageError
from swift.registry import unknown

WORDS = {"targets": "target_modules", "rank": "r", "lr_ratio": "lorap_lr_ratio"}
INTERNAL = {"task_type", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision"}
INTERNAL |= {"inference_mode", "model_key_mapping"}
NONES, FLAGS = ("none", "null"), {"true": True, "false": False}
PLAIN = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
    str: "text",
}


def typed_values(kind: str, config: type, said: Mapping[str, str]) -> dict[str, Any]:
    """Fields of the class `config` with the values that were `said` of them.

    Raises:
        UnknownNameError: a key means no field; the nearest ones are named.
        UsageError: a key means several fields, two keys one, or a value is not of the field's type.
    """
    values: dict[str, Any] = {}
    for key, text in said.items():
        name = field_of(kind, config, key)
        if name in values:
            raise UsageError(
                "USAGE-02", f"--tuner {kind}: {key} says {name} a second time", fix="leave one of them out"
            )
        values[name] = _typed(f"--tuner {kind}: {key}", text, _hints(config)[name])
    return values


def field_of(kind: str, config: type, key: str) -> str:
    """The field that `key` means: of that name, of that name behind the method's, or the only one that ends so."""
    names = [field.name for field in fields(config) if field.init and field.name not in INTERNAL]
    for name in (key, WORDS.get(key, key), f"{kind}_{key}"):
        if name in names:
            return name
    ending = [name for name in names if name.endswith(f"_{key}")]
    if len(ending) > 1:
        raise UsageError("USAGE-02", f"--tuner {kind}: {key} may be {' or '.join(ending)}", fix="write the whole name")
    return ending[0] if ending else _no_field(kind, key, names)


def _no_field(kind: str, key: str, names: list[str]) -> str:
    short = [name.removeprefix(f"{kind}_") for name in names]
    words = [word for word, name in WORDS.items() if name in names]
    error = unknown(f"setting of --tuner {kind}", key, {*names, *short, *words})
    raise UnknownNameError(error.code, error.what, fix=error.fix or f"it has {', '.join(names)}")


@cache
def _hints(config: type) -> dict[str, Any]:
    return typing.get_type_hints(config)


def _typed(place: str, text: str, hint: Any) -> Any:
    """`text` as the first type of `hint` that it fits: None, a flag, a number, a list, a mapping, itself."""
    kinds, literals = _kinds(hint)
    text = text.strip()
    if type(None) in kinds and text.lower() in NONES:
        return None
    if bool in kinds and text.lower() in FLAGS:
        return FLAGS[text.lower()]
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    bracketed = text.startswith("[") and text.endswith("]")
    if list in kinds and (bracketed or "," in text or str not in kinds):
        inside = text[1:-1] if bracketed else text
        return [_item(part) for part in split_top(inside)]
    if dict in kinds and text.startswith("{"):
        return _mapping(place, text)
    if str in kinds and text and (not literals or text in literals or any("[" in word for word in literals)):
        return text
    words = [*map(str, literals), *(PLAIN[kind] for kind in PLAIN if kind in kinds and not (kind is str and literals))]
    raise UsageError("USAGE-02", f"{place} takes {' or '.join(words)}, not {text!r}")


def _kinds(hint: Any) -> tuple[set[type], list[str]]:
    """The plain types in a hint, and the words that its literals allow."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        parts = [_kinds(part) for part in typing.get_args(hint)]
        return {kind for kinds, _ in parts for kind in kinds}, [word for _, words in parts for word in words]
    if origin is typing.Literal:
        return {type(word) for word in typing.get_args(hint)}, list(typing.get_args(hint))
    plain = origin or hint
    if not isinstance(plain, type):
        return {str}, []
    if issubclass(plain, str):  # an enum of words, too
        return {str}, []
    if plain in PLAIN or plain is type(None):
        return {plain}, []
    if plain is typing.Any:
        return {*PLAIN}, []
    return {dict if issubclass(plain, Mapping) else list}, []


def _item(text: str) -> Any:
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return FLAGS.get(text.lower(), text)


def _mapping(place: str, text: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        raise UsageError(
            "USAGE-02", f"{place} takes a mapping, not {text!r}", fix="{key: value, key: value}, in quotes"
        )
    return value
