"""One file per tuning method of our own; the file names are the methods' names."""

from __future__ import annotations

import pkgutil
from functools import cache

# PEFT's methods that have options; `swift.tuners.choose` says which. "lora" is made as PEFT makes it, too.
PEFT_TYPES = (
    "lora",
    "adalora",
    "ia3",
    "boft",
    "oft",
    "vera",
    "fourierft",
    "loha",
    "lokr",
    "prefix_tuning",
    "prompt_tuning",
    "p_tuning",
)
WITH_OTHERS = ("neftune",)  # trains nothing itself


def available_sft_types() -> list[str]:
    """What `--sft_type` may be: `lora`, `full`, PEFT's other methods, and those of our own that read options."""
    return ["lora", "full", *PEFT_TYPES[1:], *filter(_reads_options, method_names())]


def available_tuners() -> list[str]:
    """What a value of `--tuner` may begin with: every method."""
    return [*PEFT_TYPES, *method_names()]


def method_names() -> list[str]:
    """The methods that have a file here, found without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@cache
def _reads_options(name: str) -> bool:
    """Whether the file of a method says how options become its config, found without importing it."""
    return name not in WITH_OTHERS and b"def from_options(" in (pkgutil.get_data(__name__, f"{name}.py") or b"")
