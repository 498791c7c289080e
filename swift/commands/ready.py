"""What is got ready before anything trains, and all that a dry run looks at: the run's place, its rows, its tuner."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from swift import checkpoint, dist, storage
from swift.arguments.sft import SftArguments
from swift.datasets.encode import EncodedDataset, encode
from swift.datasets.ledger import Ledger
from swift.datasets.load import load_datasets
from swift.errors import DiskError, OutputError
from swift.log import get_logger
from swift.models.source import ModelSource
from swift.templates.template import Template
from swift.tuners import Swift
from swift.tuners.choose import choose_tuner
from swift.tuners.freeze import freeze_parameters

logger = get_logger()
ADAPTER_BYTES = 64 << 20
STATES_PER_WEIGHT = 3  # the weight and Adam's two moments


@dataclass(frozen=True)
class Data:
    """Encoded rows and the account of every row read; `val` is None without evaluation."""

    train: EncodedDataset
    val: EncodedDataset | None
    ledger: Ledger


def read_data(args: SftArguments, template: Template) -> Data:
    """Read, split and encode the data sets."""
    loaded = load_datasets(
        args.dataset,
        val_specs=args.val_dataset,
        test_ratio=args.dataset_test_ratio if args.evaluation_strategy != "no" else 0.0,
        seed=args.dataset_seed,
        columns=args.columns,
        model_name=args.model_name,
        model_author=args.model_author,
        max_bad_rows=args.max_bad_rows,
    )
    train = encode(loaded.train, template, loaded.ledger)
    val = encode(loaded.val, template, loaded.ledger, split="validation") if loaded.val else None
    return Data(train, val, loaded.ledger)


def add_tuner(args: SftArguments, model: torch.nn.Module, source: ModelSource) -> torch.nn.Module:
    """The model with what trains: a fresh tuner, one to continue, or (a part of) itself."""
    if args.sft_type == "full":
        freeze_parameters(model, args.freeze_parameters, args.additional_trainable_parameters)
        return model
    if args.resume_only_model and args.resume_from_checkpoint:
        return Swift.from_pretrained(model, args.resume_from_checkpoint, is_trainable=True)
    return Swift.prepare_model(model, choose_tuner(args, model, source.targets))


def choose_run(args: SftArguments, source: ModelSource) -> dict[str, Any]:
    """Where this run writes and what it resumes; every process gets what the main one chose.

    Raises:
        DataError: a checkpoint named to resume from is not whole.
    """
    chosen = plan_run(args, source) if dist.is_main() else {}
    if chosen:
        _make_run(Path(chosen["output_dir"]), args.output_dir)
    if dist.world_size() > 1:
        box = [chosen]
        torch.distributed.broadcast_object_list(box)
        chosen = box[0]
    return chosen


def plan_run(args: SftArguments, source: ModelSource, *, look_only: bool = False) -> dict[str, Any]:
    """Where a run would write and what it would resume; `look_only` does not even tidy up after killed runs.

    Raises:
        DataError: a checkpoint named to resume from is not whole.
    """
    output = Path(args.output_dir).expanduser().resolve()
    runs = output / (args.model_type or source.name) if args.add_output_dir_suffix else output
    resume = args.resume_from_checkpoint
    if resume == "auto":
        found = checkpoint.latest_of_runs(runs, look_only=look_only)
        if found is not None:
            return {"output_dir": str(found.parent), "resume_from_checkpoint": str(found)}
        logger.info(f"nothing to resume below {runs}: starting afresh")
        resume = None
    elif resume:
        resume = str(Path(resume).expanduser().resolve())
        if not args.resume_only_model:
            checkpoint.check_resumable(Path(resume))
    run = runs / next_version(runs) if args.add_output_dir_suffix else runs
    return {"output_dir": str(run), "resume_from_checkpoint": resume}


def check_writable(args: SftArguments) -> None:
    """Refuse, without writing, an output directory that could not be made.

    Raises:
        OutputError: the first of its parents that exists is no directory or not ours to write into.
    """
    parent = Path(args.output_dir)
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        why = "it is not writable" if parent.is_dir() else "it is a file"
        raise OutputError("OUTPUT-01", f"--output_dir: nothing can be made in {parent}", why=why, fix="name another")


def _make_run(run: Path, said: str) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / ".writable").touch()
        (run / ".writable").unlink()
    except OSError as error:
        raise OutputError("OUTPUT-01", f"--output_dir {said}: {error.strerror}", fix="name another") from None


def next_version(runs: Path) -> str:
    """`v<K>-<time>` with K one above the highest there is, from 0."""
    numbers = [int(m[1]) for path in runs.glob("v*") if (m := re.match(r"v(\d+)-", path.name))]
    return f"v{max(numbers, default=-1) + 1}-{datetime.now():%Y%m%d-%H%M%S}"


def check_disk(args: SftArguments, source: ModelSource) -> None:
    """Refuse to start when the checkpoints to come do not fit on the output's disk."""
    if not dist.is_main():
        return
    states = 1 if args.save_only_model else STATES_PER_WEIGHT
    one = source.weight_bytes * states if args.sft_type == "full" else ADAPTER_BYTES
    needed, free = int(one * 1.2), storage.free_bytes(Path(args.output_dir))
    if free < needed:
        raise DiskError(
            "DISK-01",
            f"No space left for a checkpoint in {args.output_dir}: {needed >> 20} MiB needed, {free >> 20} MiB free",
            fix="--output_dir on a larger disk, or --save_only_model",
        )
