"""One file per tuning method of our own; the file names are the methods' names."""

from __future__ import annotations

import pkgutil


def method_names() -> list[str]:
    """The methods that have a file here, found without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
