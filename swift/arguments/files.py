"""Configuration files: YAML or JSON that holds options by name, read without trusting them.

Every scalar stays the text that was written (`Plain` when it was not quoted), so that `no`, `1e-4` or `2.10` are read
by the type of the option they are given to, not by YAML's guesses. Tags, aliases, duplicate keys, NaN, several
documents, deep nesting and large files are refused: a list of options needs none of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from swift.errors import ConfigError, NotFoundError

LARGEST_BYTES = 256 * 1024
DEEPEST = 20
NULLS = ("", "~", "null", "Null", "NULL", "None")


class Plain(str):
    """A scalar written without quotes, as it was written."""


@dataclass(frozen=True)
class Entry:
    """One option in a file: `name` as written, its `value` as a tree of texts, and `where` it stands, `run.yaml:7`."""

    name: str
    value: Any
    where: str


def read_config(path: str) -> list[Entry]:
    """The options in a YAML or (by its suffix) JSON file, in their order.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: the file is too large, damaged, or holds something other than options by name.
    """
    text = _read(Path(path).expanduser(), path)
    if path.lower().endswith(".json"):
        tree, lines = _read_json(text, path)
    else:
        tree, lines = _read_yaml(text, path)
    if not isinstance(tree, dict):
        raise _broken(path, "it holds no `name: value` pairs")
    return [Entry(name, value, f"{path}:{lines(name)}") for name, value in tree.items()]


def resolve(tree: Any) -> Any:
    """A tree of texts as JSON values: unquoted numbers, true, false and null become what they look like."""
    if isinstance(tree, dict):
        return {key: resolve(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [resolve(value) for value in tree]
    if not isinstance(tree, Plain):
        return tree
    if tree in NULLS:
        return None
    try:
        return json.loads(tree, parse_constant=_no_constant)
    except ValueError:
        return str(tree)


def parse_json(text: str) -> Any:
    """JSON as a tree of texts. Raises ValueError for bad JSON, duplicate keys, NaN and deep nesting."""
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=Plain, parse_float=Plain
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _read(path: Path, said: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError("FOUND-01", f"{said} does not exist", fix="check the path of --config") from None
    except OSError as error:
        raise _broken(said, str(error.strerror)) from None
    if len(data) > LARGEST_BYTES:
        raise _broken(said, f"it is larger than {LARGEST_BYTES >> 10} KiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _broken(f"{said}:{line}", "it is not UTF-8 text") from None


def _broken(where: str, why: str) -> ConfigError:
    return ConfigError("CONFIG-01", f"{where}: cannot be read as options", why=why)


def _read_json(text: str, path: str) -> tuple[Any, Callable[[str], int]]:
    def line_of(name: str) -> int:
        key = re.search(rf"{re.escape(json.dumps(name, ensure_ascii=False))}\s*:", text)
        return text.count("\n", 0, key.start()) + 1 if key else 1

    try:
        tree = parse_json(text)
    except json.JSONDecodeError as error:
        raise _broken(f"{path}:{error.lineno}", f"{error.msg} (column {error.colno})") from None
    except ValueError as error:
        raise _broken(path, str(error)) from None
    if isinstance(tree, dict) and not all(isinstance(key, str) for key in tree):
        raise _broken(path, "its keys are not names")
    return tree, line_of


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in pairs:
        if key in tree:
            raise ValueError(f"{key!r} is said twice")
        tree[key] = value
    return tree


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON knows")


def _read_yaml(text: str, path: str) -> tuple[Any, Callable[[str], int]]:
    builder = _Builder(path)
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    try:
        tree = builder.document(iter(yaml.parse(text, Loader=loader)))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _broken(f"{path}:{line}", f"{error.context or ''} {error.problem or ''}".strip()) from None
    except yaml.YAMLError as error:
        raise _broken(path, str(error).splitlines()[0]) from None
    return tree, lambda name: builder.lines[name]


class _Builder:
    """Builds a tree from YAML events, refusing what options do not need; `lines` has those of the top-level keys."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines: dict[str, int] = {}

    def document(self, events: Iterator[Any]) -> Any:
        tree: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.refuse(event, "it holds several documents")
            elif isinstance(event, yaml.NodeEvent):
                tree = self.node(event, events, 0)
        return tree

    def node(self, event: Any, events: Iterator[Any], depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            raise self.refuse(event, "aliases (`*name`) are not allowed here")
        if event.tag not in (None, "!"):
            raise self.refuse(event, f"tags ({event.tag}) are not allowed here")
        if depth > DEEPEST:
            raise self.refuse(event, "it is nested too deeply")
        if isinstance(event, yaml.ScalarEvent):
            return Plain(event.value) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(events, depth)
        return self.mapping(events, depth)

    def sequence(self, events: Iterator[Any], depth: int) -> list[Any]:
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self.node(event, events, depth + 1))
        return items

    def mapping(self, events: Iterator[Any], depth: int) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self.node(event, events, depth + 1)
            if not isinstance(key, str):
                raise self.refuse(event, "its keys are not names")
            if key in tree:
                raise self.refuse(event, f"{str(key)!r} is said twice")
            if depth == 0:
                self.lines[key] = event.start_mark.line + 1
            tree[str(key)] = self.node(next(events), events, depth + 1)
        return tree

    def refuse(self, event: Any, why: str) -> ConfigError:
        return _broken(f"{self.path}:{event.start_mark.line + 1}", why)
