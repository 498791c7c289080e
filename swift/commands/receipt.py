"""The receipt of a run, `run.lock.json`: all that decides its numbers, and the numbers."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import tokenizers
import torch

from swift import dist, storage
from swift.arguments.fields import to_json
from swift.arguments.sft import SftArguments
from swift.commands.rows import made_of
from swift.datasets.digest import digest_of_rows
from swift.errors import DataError, NotFoundError
from swift.templates.template import Template
from swift.trainers.sameness import versions
from swift.trainers.trainer import Seq2SeqTrainer

RECEIPT = "run.lock.json"
FORMAT = 1
CURVE = ("loss", "grad_norm", "learning_rate", "eval_loss")
WEIGHTS = (".safetensors",)
FACTS = ("world_size", "devices", "versions", "data", "template", "order")
KINDS: dict[str, Any] = {
    "arguments": dict, "world_size": int, "devices": list, "versions": dict, "data": dict, "template": dict,
    "order": str | None, "curve": list, "weights": dict,
}  # fmt: skip


def write_receipt(
    args: SftArguments, trainer: Seq2SeqTrainer, template: Template, order: str | None, command: str = "sft"
) -> None:
    """Write the receipt of a finished run into its directory."""
    if dist.is_main():
        receipt = {"command": command, **receipt_of(args, trainer, template, order)}
        storage.write_json(Path(args.output_dir) / RECEIPT, receipt, private=True)


def receipt_of(args: SftArguments, trainer: Seq2SeqTrainer, template: Template, order: str | None) -> dict[str, Any]:
    """What the receipt says.

    Args:
        args: the decided options.
        trainer: after training.
        template: the one that rows were encoded with.
        order: the digest of the order of rows, None where there is none.
    """
    made = made_of(args, template, of_files=False) or {}
    return {
        "format": FORMAT,
        "arguments": to_json(args),
        "world_size": dist.world_size(),
        "devices": devices(),
        "versions": {
            **versions(),
            "accelerate": accelerate.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "data": {"train": digest_of_rows(trainer.train_dataset), "validation": digest_of_rows(trainer.eval_dataset)},
        "template": {"template": made.get("template"), "tokenizer": made.get("tokenizer")},
        "order": order,
        "curve": curve_of(trainer.state.log_history),
        "weights": weights_of(Path(args.output_dir) / f"checkpoint-{trainer.state.global_step}"),
    }


def devices() -> list[str]:
    """What computed, by name."""
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]  # needs-cuda
    return [f"cpu {platform.machine()}, {torch.get_num_threads()} threads"]


def curve_of(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The numbers of every log line, with their steps."""
    lines = ({name: line[name] for name in ("step", *CURVE) if name in line} for line in history)
    return [line for line in lines if line.keys() & {"loss", "eval_loss"}]


def weights_of(directory: Path) -> dict[str, str]:
    """The SHA-256 of each file of weights of a checkpoint; {} where it has none."""
    if not (directory / storage.MANIFEST).is_file():
        return {}
    listed = storage.read_manifest(directory)["files"]
    return {name: entry["sha256"] for name, entry in listed.items() if name.endswith(WEIGHTS)}


def read_receipt(said: str) -> dict[str, Any]:
    """The receipt in a file, or of the newest run in a directory.

    Raises:
        NotFoundError: there is none.
        DataError: it is not one that this version reads.
    """
    path = Path(said).expanduser()
    if path.is_dir():
        found = [file for depth in ("", "*/", "*/*/") for file in path.glob(f"{depth}{RECEIPT}")]
        path = max(found, key=lambda file: file.stat().st_mtime, default=path / RECEIPT)
    if not path.is_file():
        raise NotFoundError("FOUND-01", f"{path} does not exist", fix="a run that came to its end has written one")
    try:
        receipt = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("RECEIPT-01", f"{path} is not JSON: {error}") from None
    if not isinstance(receipt, dict) or receipt.get("format") != FORMAT:
        raise DataError("RECEIPT-01", f"{path} is not a receipt of this version", why=f'it has no "format": {FORMAT}')
    lacking = [name for name, kind in KINDS.items() if name not in receipt or not isinstance(receipt[name], kind)]
    if lacking:
        raise DataError("RECEIPT-01", f"{path} is not a receipt", why=f"it lacks {', '.join(lacking)}")
    return receipt


def first_difference(then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> str | None:
    """Where two curves part, in words; None for the same to the last bit."""
    for before, after in zip(then, now, strict=False):
        for name in before:
            if before[name] != after.get(name):
                return f"step {before.get('step')}: {name} was {before[name]!r}, is {after.get(name)!r}"
    if len(then) != len(now):
        return f"there were {len(then)} lines, there are {len(now)}"
    return None
