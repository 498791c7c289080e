"""Registries of named rows, filled from the modules of a catalog package at first use."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from swift.errors import UnknownNameError

SHOWN = 20
PARTS = re.compile(r"[\s\/_.-]+")
# what lists all names of a kind, where they are too many for a message
LISTS = {"model": "swift models", "template": "swift template list", "dataset": "swift datasets"}


class Record(Protocol):
    """Whatever has a name."""

    @property
    def name(self) -> str:
        """What it is asked for by."""
        ...


R = TypeVar("R", bound=Record)


class Registry(Generic[R]):
    """Rows by name; every module of the package `catalog` adds its own.

    Args:
        kind: what a row is, for messages: "model", "template", "dataset".
        catalog: dotted name of the package whose modules call `add`.
    """

    def __init__(self, kind: str, catalog: str) -> None:
        self.kind, self.catalog = kind, catalog
        self._records: dict[str, R] = {}
        self._filled = False

    def add(self, *records: R, replace: bool = False) -> None:
        """Add rows. Raises ValueError for a name that exists already, unless `replace`."""
        for record in records:
            if record.name in self._records and not replace:
                raise ValueError(f"{self.kind} {record.name!r} is registered twice")
            self._records[record.name] = record

    def __getitem__(self, name: str) -> R:
        self._fill()
        if name not in self._records:
            raise unknown(self.kind, name, self._records)
        return self._records[name]

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(list(self._records))

    def __len__(self) -> int:
        self._fill()
        return len(self._records)

    def values(self) -> list[R]:
        """Every row, in the order of registration."""
        self._fill()
        return list(self._records.values())

    def _fill(self) -> None:
        if self._filled:
            return
        self._filled = True
        package = importlib.import_module(self.catalog)
        for module in pkgutil.iter_modules(package.__path__, f"{self.catalog}."):
            importlib.import_module(module.name)


class Names:
    """A registry's names as attributes: `ModelType.qwen_7b_chat == "qwen-7b-chat"`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def __getattr__(self, attribute: str) -> str:
        if not attribute.startswith("_"):
            for name in self._registry:
                if slug(name) == attribute:
                    return name
        raise AttributeError(f"no {self._registry.kind} is called {attribute!r}")

    def __dir__(self) -> list[str]:
        return [slug(name) for name in self._registry]

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry)


def slug(name: str) -> str:
    """A name as a Python attribute: `-` and `.` become `_`."""
    return name.replace("-", "_").replace(".", "_")


def unknown(kind: str, name: str, known: Iterable[object]) -> UnknownNameError:
    """The error for a `name` that none of the `known` ones is, with the nearest of them."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, 3, cutoff=0.5)
    if near:
        fix = f"did you mean {', '.join(near)}?"
    elif len(names) > SHOWN and kind in LISTS:
        fix = f"`{LISTS[kind]}` lists all {len(names)}"
    else:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        fix = f"known: {', '.join(sorted(names)[:SHOWN])}{more}"
    return UnknownNameError("USAGE-04", f"no {kind} is called {name!r}", fix=fix)


def no_hit(kind: str, words: Sequence[str], rows: Iterable[str]) -> UnknownNameError:
    """The error for `words` that no row of a list has all of, with the nearest of theirs.

    Args:
        kind: of the rows, one of `LISTS`.
        words: that were searched for.
        rows: the text of each row.
    """
    texts = list(rows)
    known = {part for text in texts for part in (*text.lower().split(), *PARTS.split(text.lower())) if part}
    near: dict[str, str] = {}
    for word in words:
        if not any(word.lower() in text.lower() for text in texts):
            near[word] = next(iter(difflib.get_close_matches(word.lower(), known, 1, cutoff=0.7)), "")
    said = " ".join(words)
    instead = " ".join(near.get(word, word) for word in words)
    parts = [f"did you mean {instead}?"] if near and all(near.values()) else []
    missing = [repr(word) for word, other in near.items() if not other]
    why = f"none has {' or '.join(missing)}" if missing and len(words) > 1 else None
    if not near and said.count(" "):
        why = "each of these words is in some, but no row has all"
    return UnknownNameError(
        "USAGE-04", f"no {kind} is found by {said!r}", why=why, fix=" ".join([*parts, f"`{LISTS[kind]}` lists all"])
    )
