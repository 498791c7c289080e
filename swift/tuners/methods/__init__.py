"""One file per tuning method of our own; the file names are the methods' names."""

from __future__ import annotations

import pkgutil


def available_sft_types() -> list[str]:
    """What `--sft_type` may be: `lora`, `full`, and each method."""
    return ["lora", "full", *method_names()]


def method_names() -> list[str]:
    """The methods that have a file here, found without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
