"""Rewrite checkpoints of our layout into PEFT's."""

from __future__ import annotations

import shutil
from pathlib import Path

import peft
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from torch import Tensor

from swift.errors import DataError
from swift.tuners import files
from swift.tuners.files import Stored
from swift.tuners.lora import LoraConfig, kind_of

PREFIX = "base_model.model."


def save_to_peft_format(ckpt_dir: Path, output_dir: Path) -> None:
    """Copy a checkpoint so that plain PEFT reads it: `default` at the root, other adapters in their folders.

    What is in PEFT's layout stays as it is, so it can be done again, and in place.

    Raises:
        DataError: PEFT has no such adapter, or a field says what PEFT cannot; nothing is written then.
        NotFoundError: there is no adapter.
    """
    stored = files.find(ckpt_dir)
    if (ckpt_dir / files.EXTRA_STATES).is_dir():
        raise DataError("CKPT-03", f"{ckpt_dir} holds extra states, for which PEFT has no place")
    for one in stored.values():
        _check(one)
    tensors = {name: files.read_tensors(one.folder) for name, one in stored.items() if not one.in_peft_layout}
    if output_dir.resolve() != ckpt_dir.resolve():
        shutil.copytree(ckpt_dir, output_dir, dirs_exist_ok=True)
    for name, values in tensors.items():
        config = stored[name].config
        assert isinstance(config, peft.PeftConfig)
        folder = output_dir if name == "default" else output_dir / name
        safe = (stored[name].folder / files.SAFE_WEIGHTS_FILE).is_file()
        files.write_tensors(folder, _without_name(values, name, config), safe)
        peft.PeftConfig.save_pretrained(config, str(folder))
    if "default" in tensors:
        shutil.rmtree(output_dir / "default")


def _check(stored: Stored) -> None:
    """Raise DataError when PEFT cannot express the adapter."""
    config = stored.config
    if not isinstance(config, peft.PeftConfig):
        what = f"{stored.folder}: PEFT has nothing like {config.swift_type}"
        raise DataError("CKPT-03", what, why="only LoRA and PEFT's other methods can be converted")
    if isinstance(config, LoraConfig) and config.lora_dtype is not None:
        what = f"{stored.folder}: PEFT has no field lora_dtype"
        raise DataError("CKPT-03", what, fix=f"remove it from {stored.folder / files.CONFIG_FILE}")


def _without_name(tensors: dict[str, Tensor], name: str, config: peft.PeftConfig) -> dict[str, Tensor]:
    """The tensors under PEFT's keys: with its prefix, and without the adapter's name."""
    start = PEFT_TYPE_TO_PREFIX_MAPPING[kind_of(config)]
    targets = {key.split(f".{start}")[0] for key in tensors if f".{start}" in key}
    return {PREFIX + _peft_key(key, name, start, targets): tensor for key, tensor in tensors.items()}


def _peft_key(key: str, name: str, start: str, targets: set[str]) -> str:
    parts = key.replace(f".modules_to_save.{name}.", ".").split(".")
    if parts[-1] == "bias" and ".".join(parts[:-1]) in targets:
        return ".".join([*parts[:-1], "base_layer", "bias"])
    for place in (-2, -1):
        if len(parts) + place > 0 and parts[place] == name and parts[place - 1].startswith(start):
            del parts[place]
            break
    if parts[-2] == "lora_magnitude_vector":
        parts.pop()
    return ".".join(parts)
