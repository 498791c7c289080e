"""Adapters on disk: which ones a directory holds, their configs and tensors, and whether they fit a model.

Two layouts are read. Ours has one folder per adapter, whose adapter_config.json says `swift_type`, with the adapter's
name in the keys. PEFT's has the adapter `default` at the root and others in folders, with no names in the keys.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from swift import storage
from swift.errors import DataError, NotFoundError, UsageError
from swift.registry import unknown
from swift.tuners.config import SwiftConfig, find_kind
from swift.tuners.fingerprint import FINGERPRINT_FILE, REMEMBERED, Fingerprint
from swift.tuners.layout import (
    AGAIN,
    CONFIG_FILE,
    DIRECTORY_FILE,
    RUN_FILE,
    SAFE_WEIGHTS_FILE,
    WEIGHTS_FILE,
    folders,
    read_json,
    read_order,
)
from swift.tuners.layout import EXTRA_STATES as EXTRA_STATES
from swift.tuners.lora import EXTRAS, EXTRAS_FILE, LoraConfig, folded, kind_of, of, unfolded
from swift.tuners.methods import method_names

OTHER_WEIGHTS_FILE = {WEIGHTS_FILE: SAFE_WEIGHTS_FILE, SAFE_WEIGHTS_FILE: WEIGHTS_FILE}
MODEL_FILE = "model.safetensors"
DIGEST = "sha256"
CARD_FILE = "README.md"
OURS = {"swift_type", "model_key_mapping", REMEMBERED}
RETIRED = {"ranknum"}  # of AdaLoRA, which earlier files have: its rank as a number, which follows from the config
SHOWN = 5

Config = SwiftConfig | peft.PeftConfig


@dataclass(frozen=True)
class Stored:
    """One adapter on disk."""

    name: str
    folder: Path
    config: Config
    in_peft_layout: bool
    base: Fingerprint | None = None

    def to_train(self) -> Stored:
        """The same, to go on training."""
        return replace(self, config=unfolded(self.config))


def find(directory: Path) -> dict[str, Stored]:
    """The adapters of a directory by name, in the order in which they were added to the model that was saved.

    Raises:
        UsageError: it is a file.
        NotFoundError: it does not exist or holds no adapter.
        DataError: a config cannot be read.
    """
    if directory.is_file():
        raise UsageError("USAGE-02", f"{directory} is a file", fix="give the directory that holds it")
    if not directory.is_dir():
        raise NotFoundError(
            "FOUND-01",
            f"{directory} does not exist",
            fix="give the directory of a checkpoint, or the id of one on a hub",
        )
    found = {
        name: Stored(name, folder, *read_config(folder), read_base(folder))
        for name, folder in folders(directory).items()
    }
    if not found:
        raise _no_adapter(directory)
    order = read_order(directory)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _no_adapter(directory: Path) -> NotFoundError:
    """The error for a directory without an adapter, which may be a run, or a checkpoint that lacks the configs."""
    what, why = f"no adapter in {directory}", f"neither it nor a folder of an adapter in it has {CONFIG_FILE}"
    if (directory / MODEL_FILE).is_file() and not (directory / "config.json").is_file():
        why = f"it has the tensors alone, in {MODEL_FILE}, as transformers' Trainer writes them of a SwiftModel"
        fix = "swift's Seq2SeqTrainer, or model.save_pretrained(directory) after training, saves the adapters; these "
        fix += "tensors: model = Swift.prepare_model(model, <the same configs>), then "
        fix += f"model.load_state_dict(safetensors.torch.load_file({str(directory / MODEL_FILE)!r}))"
        return NotFoundError("FOUND-01", what, why=why, fix=fix)
    runs = sorted((file.parent for file in directory.glob(f"*/{RUN_FILE}")), key=lambda run: run.stat().st_mtime)
    fix = f"give one of its checkpoints, such as {runs[-1]}" if runs else "give what model.save_pretrained was given"
    return NotFoundError("FOUND-01", what, why=why, fix=fix)


def write_order(directory: Path, names: list[str]) -> None:
    """State the order of the adapters in configuration.json, leaving what else it says."""
    file = directory / DIRECTORY_FILE
    storage.write_json(file, {**(read_json(file) if file.is_file() else {}), "adapters": names})


def read_config(folder: Path) -> tuple[Config, bool]:
    """The config in a folder, and whether the folder has PEFT's layout.

    Raises:
        DataError: it is damaged, or of a kind that neither we nor PEFT have.
    """
    values = read_json(folder / CONFIG_FILE)
    kind = values.get("swift_type")
    if kind is None:
        extras = read_json(folder / EXTRAS_FILE) if (folder / EXTRAS_FILE).is_file() else {}
        return _peft_config(folder, values, extras), True
    if not isinstance(kind, str):
        raise DataError("CKPT-01", f"{folder / CONFIG_FILE}: swift_type is no text: {kind!r}", fix=AGAIN)
    if "peft_type" in values and kind.lower() not in method_names():
        if kind.upper() != str(values["peft_type"]).upper():
            what = f"swift_type is {kind!r} and peft_type is {values['peft_type']!r}"
            raise DataError("CKPT-01", f"{folder / CONFIG_FILE}: {what}", fix="both name the same method")
        extras = {key: value for key, value in values.items() if key in EXTRAS}
        plain = {key: value for key, value in values.items() if key not in {*OURS, *EXTRAS}}
        return _peft_config(folder, plain, extras), False
    try:
        return find_kind(kind).from_dict({key: values[key] for key in values if key != REMEMBERED}), False
    except (DataError, UsageError) as error:
        raise DataError("CKPT-01", f"{folder / CONFIG_FILE}: {error.what}", why=error.why, fix=error.fix) from error


def read_base(folder: Path) -> Fingerprint | None:
    """The fingerprint of the base that the adapter in a folder was trained on, None when the folder does not say."""
    values = read_json(folder / CONFIG_FILE).get(REMEMBERED)
    beside = folder / FINGERPRINT_FILE
    if values is None and beside.is_file():
        values = read_json(beside)
    return Fingerprint.from_dict(values) if values is not None else None


def write_config(folder: Path, config: Config, base: Fingerprint) -> None:
    """Write adapter_config.json in our layout."""
    config = folded(config)
    values = {"model_key_mapping": None, **config.to_dict(), REMEMBERED: base.to_dict()}
    if isinstance(config, peft.PeftConfig):
        values |= {"swift_type": kind_of(config).value}
    if isinstance(config, LoraConfig):
        values |= {**config.extras, "swift_type": config.kind.upper()}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
    storage.write_text(folder / CONFIG_FILE, json.dumps(plain, indent=2, sort_keys=True))


def write_extra_keys(folder: Path, keys: list[str]) -> None:
    """Write which tensors of the base a folder of extra states holds, as regular expressions."""
    storage.write_json(folder / CONFIG_FILE, {"extra_state_keys": keys})


def read_extra_keys(folder: Path) -> list[str]:
    """Which tensors of the base a folder of extra states holds. Raises DataError when it does not say."""
    keys = read_json(folder / CONFIG_FILE).get("extra_state_keys")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise DataError("CKPT-01", f"{folder / CONFIG_FILE} has no list extra_state_keys", fix=AGAIN)
    return keys


def has_tensors(config: Config) -> bool:
    """Whether an adapter has parameters, and so a file of weights."""
    return not isinstance(config, SwiftConfig) or config.trains


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors in a folder, on the CPU. Nothing but tensors is ever read.

    Raises:
        NotFoundError: there is no file of weights.
        DataError: it is damaged or holds something else.
    """
    safe, plain = folder / SAFE_WEIGHTS_FILE, folder / WEIGHTS_FILE
    file = safe if safe.is_file() else plain
    if not file.is_file():
        raise NotFoundError("FOUND-01", f"{folder} has no {SAFE_WEIGHTS_FILE} or {WEIGHTS_FILE}", fix=AGAIN)
    try:
        values = _load_safe(safe) if file == safe else torch.load(plain, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        why = "it is damaged, or holds more than tensors"
        raise DataError("CKPT-01", f"{file} cannot be read", why=why, fix=AGAIN) from error
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise DataError("CKPT-01", f"{file} holds something else than named tensors", fix="save a dict of tensors")
    wild = [key for key, value in values.items() if value.is_floating_point() and not value.float().isfinite().all()]
    if wild:
        raise DataError(
            "CKPT-01",
            f"{file} holds numbers that are not finite: {', '.join(wild[:SHOWN])}",
            fix="take an earlier checkpoint: this one was saved after training had failed",
        )
    return {key: value for key, value in values.items() if not RETIRED & set(key.split("."))}


def _load_safe(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError when we wrote it and its digest says that they changed."""
    with safe_open(file, "pt") as opened:
        stated = (opened.metadata() or {}).get(DIGEST)
    tensors = load_file(file)
    if stated is not None and stated != _digest(tensors):
        raise ValueError("its tensors were changed after they were written")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _safe_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file. The library writes several metadata in an order of chance, so they are put in after it."""
    plain = save(tensors)
    start = 8 + int.from_bytes(plain[:8], "little")
    header = {"__metadata__": metadata, **json.loads(plain[8:start])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(plain)[start:]))


@contextmanager
def filled(directory: Path) -> Iterator[Path]:
    """A hidden folder whose files move into `directory` when the block ends well, and go when it does not.

    A disk that fills up midway so leaves what was there before, and nothing of the new.
    """
    stage, new = directory / f"{storage.STAGE}adapters-{os.getpid()}", not directory.exists()
    try:
        storage.make_directory(stage)
        yield stage
        for file in sorted(path for path in stage.rglob("*") if path.is_file()):
            place = directory / file.relative_to(stage)
            storage.make_directory(place.parent)
            file.replace(place)
            if file.name in OTHER_WEIGHTS_FILE:
                place.with_name(OTHER_WEIGHTS_FILE[file.name]).unlink(missing_ok=True)
        new = False
    finally:
        shutil.rmtree(directory if new else stage, ignore_errors=True)


def write_card(folder: Path, directory: Path, adapters: Mapping[str, Config], base: str | None) -> None:
    """Write the model card, unless `directory` has one: what is here, of which base, and how to load it."""
    if (directory / CARD_FILE).exists():
        return
    kinds = [kind_of(one).value if isinstance(one, peft.PeftConfig) else one.swift_type for one in adapters.values()]
    listed = "\n".join(f"- `{name}`: {kind}" for name, kind in zip(adapters, kinds, strict=True))
    facts = "library_name: swift\n" + (f"base_model: {json.dumps(base)}\n" if base else "")
    load = '```python\nfrom swift import Swift\n\nmodel = Swift.from_pretrained(model, "this directory")\n```'
    text = f"---\n{facts}---\n\n# Adapters of {base or 'a model'}\n\n{listed}\n\n{load}\n"
    storage.write_text(folder / CARD_FILE, text)


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], safe: bool) -> None:
    """Write the tensors, as safetensors or with `torch.save`, and remove the other file if there is one."""
    own = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    if safe:
        storage.write_bytes(folder / SAFE_WEIGHTS_FILE, _safe_bytes(own, {"format": "pt", DIGEST: _digest(own)}))
    else:
        buffer = io.BytesIO()
        torch.save(own, buffer)
        storage.write_bytes(folder / WEIGHTS_FILE, buffer.getvalue())
    (folder / (WEIGHTS_FILE if safe else SAFE_WEIGHTS_FILE)).unlink(missing_ok=True)


def check_fit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str, why: str | None = None) -> None:
    """See that exactly the `expected` tensors were `found`, in their shapes, numbers of their kind.

    Args:
        expected: key -> a tensor of the right shape and kind of numbers; its precision may be another.
        found: what is to be loaded.
        what: what the keys are of, for the message.
        why: a line about it, such as the base that it was trained on.

    Raises:
        DataError: naming up to five keys of each fault.
    """
    faults = {
        "missing": [key for key in expected if key not in found],
        "not in the model": [key for key in found if key not in expected],
        "of another shape": [
            f"{key} {tuple(tensor.shape)}, not {tuple(expected[key].shape)}"
            for key, tensor in found.items()
            if key in expected and tensor.shape != expected[key].shape
        ],
        "of another type": [
            f"{key} {tensor.dtype}, not {expected[key].dtype}"
            for key, tensor in found.items()
            if key in expected and tensor.is_floating_point() != expected[key].is_floating_point()
        ],
    }
    said = [f"{len(keys)} {fault}: {', '.join(keys[:SHOWN])}" for fault, keys in faults.items() if keys]
    if said:
        fix = "load it onto the model that it was trained on"
        raise DataError("CKPT-02", f"{what} does not fit the model; {'; '.join(said)}", why=why, fix=fix)


def _peft_config(folder: Path, values: dict[str, Any], extras: dict[str, Any]) -> peft.PeftConfig:
    kind = values.get("peft_type")
    if kind not in list(peft.PeftType):
        near = unknown("PEFT method", str(kind), [str(known.value) for known in peft.PeftType])
        raise DataError("CKPT-01", f"{folder / CONFIG_FILE}: {near.what}", fix=near.fix)
    try:
        config = peft.PeftConfig.from_peft_type(**values)
        known = {key: value for key, value in extras.items() if key in EXTRAS}
        return of(config, **known) if known and isinstance(config, peft.LoraConfig) else config
    except (TypeError, ValueError, KeyError) as error:
        raise DataError("CKPT-01", f"{folder / CONFIG_FILE}: {error}") from error
