"""Rewrite checkpoints of our layout into PEFT's."""

from __future__ import annotations

import shutil
from pathlib import Path

import peft

from swift import storage
from swift.errors import DataError
from swift.tuners import files, peft_layers
from swift.tuners.files import Stored
from swift.tuners.fingerprint import FINGERPRINT_FILE
from swift.tuners.lora import LoRAConfig, LoraConfig


def save_to_peft_format(ckpt_dir: Path, output_dir: Path) -> None:
    """Copy a checkpoint so that plain PEFT reads it: `default` at the root, other adapters in their folders.

    What is in PEFT's layout stays as it is, so it can be done again, and in place.

    Raises:
        DataError: PEFT has no such adapter, or a field says what PEFT cannot; nothing is written then.
        NotFoundError: there is no adapter.
    """
    stored = files.find(ckpt_dir)
    if (ckpt_dir / files.EXTRA_STATES).is_dir():
        raise DataError(
            "CKPT-03",
            f"{ckpt_dir} holds extra states, for which PEFT has no place",
            fix="save without them: model.save_pretrained(directory, adapter_name=[...])",
        )
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
        plain = peft_layers.peft_keys(values, name, config)
        files.write_tensors(folder, {plain[key]: tensor for key, tensor in values.items()}, safe)
        peft.PeftConfig.save_pretrained(config, str(folder))
        base = stored[name].base
        if base is not None:
            storage.write_json(folder / FINGERPRINT_FILE, base.to_dict())
    if "default" in tensors:
        shutil.rmtree(output_dir / "default")
    if tensors and (output_dir / storage.MANIFEST).is_file():
        _list_anew(output_dir)


def _list_anew(directory: Path) -> None:
    """Make the manifest of a checkpoint say what is there now."""
    facts = storage.read_manifest(directory)
    found = {str(path.relative_to(directory)): path for path in sorted(directory.rglob("*")) if path.is_file()}
    storage.write_manifest(directory, {name: path for name, path in found.items() if name != storage.MANIFEST}, facts)


def _check(stored: Stored) -> None:
    """Raise DataError when PEFT cannot express the adapter."""
    config = stored.config
    if not isinstance(config, peft.PeftConfig):
        what = f"{stored.folder}: PEFT has nothing like {config.swift_type}"
        raise DataError(
            "CKPT-03",
            what,
            why="only LoRA and PEFT's other methods can be converted",
            fix="convert the others alone: copy their folders elsewhere first",
        )
    if isinstance(config, LoraConfig) and config.lora_dtype is not None:
        what = f"{stored.folder}: PEFT has no field lora_dtype"
        raise DataError("CKPT-03", what, fix=f"remove it from {stored.folder / files.CONFIG_FILE}")
    if isinstance(config, LoRAConfig) and config.use_merged_linear:
        raise DataError(
            "CKPT-03",
            f"{stored.folder}: PEFT has no field use_merged_linear",
            why="nor has its LoRA chunks",
            fix="Swift.merge_and_unload(model), and save the whole model",
        )
