"""Sizes in the configs of PEFT's classes, of which PEFT looks at some only, and torch at the others too late."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import peft

from swift.errors import ConfigError
from swift.tuners.lora import kind_of

LEAST = {
    "r": 1,
    "init_r": 1,
    "target_r": 1,
    "rank_pattern": 1,
    "n_frequency": 1,
    "n_frequency_pattern": 1,
    "num_virtual_tokens": 1,
    "encoder_hidden_size": 1,
    "encoder_num_layers": 1,
    "boft_n_butterfly_factor": 1,
    "boft_block_size": 0,
    "boft_block_num": 0,
    "oft_block_size": 0,
}
# OFT's r is the number of blocks where their size is 0; AdaLoRA has init_r and a pattern of flags.
FREE = {"OFT": {"r": 0}, "ADALORA": {"r": 0, "rank_pattern": None}}


def check_sizes(config: peft.PeftConfig) -> None:
    """Raise ConfigError for a size that is too small for anything, or a dropout that is no share below 1."""
    least = LEAST | FREE.get(kind_of(config).value, {})
    for field, size in _numbers(config):
        name = field.partition("[")[0]
        low = least.get(name)
        if low is not None and size < low:
            raise _fault(config, f"{field} is {size}, which has to be {low} or more", name)
        if name.endswith("dropout") and not 0 <= size < 1:
            raise _fault(config, f"{field} is {size}, which is no share from 0 to below 1", name)
        if name == "decompose_factor" and size < 1 and size != -1:
            raise _fault(config, f"{field} is {size}, which is neither -1 nor positive", name)


def _numbers(config: peft.PeftConfig) -> Iterator[tuple[str, float]]:
    for field, value in vars(config).items():
        values = {f"{field}[{key!r}]": one for key, one in value.items()} if isinstance(value, dict) else {field: value}
        yield from ((name, one) for name, one in values.items() if isinstance(one, int | float))


def _fault(config: Any, what: str, name: str) -> ConfigError:
    default = next(field.default for field in fields(config) if field.name == name)
    fix = f"{name}={default}, as it is by default" if isinstance(default, int | float) and default else None
    return ConfigError("CONFIG-02", f"{kind_of(config).value}: {what}", fix=fix)
