"""Registries of named rows, filled from the modules of a catalog package at first use."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from swift.errors import UnknownNameError

SHOWN = 20
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
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    more += f"; {LISTS[kind]} lists them" if more and kind in LISTS else ""
    fix = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(sorted(names)[:SHOWN])}{more}"
    return UnknownNameError("USAGE-04", f"no {kind} is called {name!r}", fix=fix)
