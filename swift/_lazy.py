"""Export the names that a module's stub lists, importing each one's home on first use (PEP 562)."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach(name: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Give module `name` its `__getattr__`, `__dir__` and `__all__`, read from the `.pyi` file beside it."""
    module = sys.modules[name]
    home = _addresses(Path(str(module.__file__)).with_suffix(".pyi"))

    def get(attribute: str) -> Any:
        if attribute not in home:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        source, original = home[attribute]
        value = getattr(importlib.import_module(source), original)
        setattr(module, attribute, value)
        return value

    return get, lambda: sorted({*vars(module), *home}), sorted(home)


def _addresses(stub: Path) -> dict[str, tuple[str, str]]:
    """Public name -> (module, name there), from the `from m import x as y` lines of a stub."""
    home: dict[str, tuple[str, str]] = {}
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            home |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return home


def named(address: str) -> Any:
    """What an address such as "module:name" means; its module is imported now."""
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)
