"""Where a run writes: its directory, the checkpoint it goes on from, the disk it needs."""

from __future__ import annotations

import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from swift import checkpoint, dist, storage
from swift.arguments.sft import SftArguments
from swift.errors import DiskError, OutputError
from swift.log import get_logger
from swift.models.source import ModelSource

logger = get_logger()
ADAPTER_BYTES = 64 << 20
LONGEST_SHOWN = 120
SHARED_SECONDS = 10.0
STATES_PER_WEIGHT = 3  # the weight and Adam's two moments


def choose_run(args: SftArguments, source: ModelSource) -> dict[str, Any]:
    """Where this run writes and what it resumes; every process gets what the main one chose.

    Raises:
        DataError: a checkpoint named to resume from is not whole.
    """
    chosen = (_begun(args) or plan_run(args, source)) if dist.is_main() else {}
    if chosen:
        _make_run(Path(chosen["output_dir"]), args.output_dir)
        dist.record_run(chosen["output_dir"])
    if dist.world_size() > 1:
        box = [chosen]
        torch.distributed.broadcast_object_list(box)
        chosen = box[0]
    return chosen


def _begun(args: SftArguments) -> dict[str, Any]:
    """The run that the workers before these had begun, and its last checkpoint; empty where they saved none."""
    run = dist.recorded_run()
    found = None if run is None else checkpoint.latest(run, fast=args.resume_verify == "fast")
    if found is None:
        return {}
    return {"output_dir": run, "resume_from_checkpoint": str(found), "resume_only_model": False}


def check_shared(args: SftArguments) -> None:
    """Refuse to train on machines of which some see another directory than the main process: all write checkpoints.

    Raises:
        OutputError: the run's directory is not on a disk that all machines share.
    """
    if dist.world_size() == dist.local_world_size():
        return
    box = [f".shared-{uuid.uuid4().hex}"]
    if dist.is_main():
        Path(args.output_dir, box[0]).touch()
    torch.distributed.broadcast_object_list(box)
    path = Path(args.output_dir, box[0])
    found: list[Any] = [None] * dist.world_size()
    torch.distributed.all_gather_object(found, (_appears(path), socket.gethostname()))
    if dist.is_main():
        path.unlink()
    without = sorted({host for seen, host in found if not seen})
    if without:
        raise OutputError(
            "OUTPUT-01",
            f"--output_dir: {args.output_dir} of the first machine is not to be seen on {', '.join(without)}",
            why="all machines write each checkpoint together",
            fix="name a directory on a disk that they share",
        )


def _appears(path: Path) -> bool:
    """Whether a file is there within the seconds that a network disk may need."""
    until = time.monotonic() + SHARED_SECONDS
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.1)
    return path.exists()


def plan_run(args: SftArguments, source: ModelSource, *, look_only: bool = False) -> dict[str, Any]:
    """Where a run would write and what it would resume; `look_only` does not even tidy up after killed runs.

    Raises:
        DataError: a checkpoint named to resume from is not whole.
        OutputError: another run has written its checkpoints there, or nothing can lie there.
    """
    output = _place_of(args.output_dir)
    runs = output / (args.model_type or source.name) if args.add_output_dir_suffix else output
    resume, fast = args.resume_from_checkpoint, args.resume_verify == "fast"
    if resume == "auto":
        found = checkpoint.latest_of_runs(runs, fast=fast, look_only=look_only)
        if found is not None:
            return {"output_dir": str(found.parent), "resume_from_checkpoint": str(found)}
        logger.info(f"nothing to resume below {runs}: starting afresh")
        resume = None
    elif resume:
        resume = str(Path(resume).expanduser().resolve())
        if not args.resume_only_model:
            checkpoint.check_resumable(Path(resume), fast=fast)
    run = runs / next_version(runs) if args.add_output_dir_suffix else runs
    goes_on = resume is not None and not args.resume_only_model and Path(resume).parent == run
    if checkpoint.committed(run) and not goes_on:
        raise OutputError(
            "OUTPUT-01",
            f"--output_dir {args.output_dir} holds the checkpoints of another run",
            fix="--resume_from_checkpoint auto goes on from one that is whole; or name another directory",
        )
    return {"output_dir": str(run), "resume_from_checkpoint": resume}


def _place_of(said: str) -> Path:
    """The absolute path of an output directory.

    Raises:
        OutputError: no file can have it: it is too long, a circle of links, or holds a null byte.
    """
    try:
        place = Path(said).expanduser().resolve()
        place.exists()
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        shown = said if len(said) <= LONGEST_SHOWN else f"{said[:LONGEST_SHOWN]}…"
        raise OutputError("OUTPUT-01", f"--output_dir {shown!r} cannot be", why=why, fix="name another") from None
    return place


def check_writable(args: SftArguments) -> None:
    """Refuse, without writing, an output directory that could not be made.

    Raises:
        OutputError: the first of its parents that exists is no directory or not ours to write into.
    """
    parent = _place_of(args.output_dir)
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


@contextmanager
def no_empty_run(args: SftArguments) -> Iterator[None]:
    """Take the run's directory away again when the block ends before anything was written there."""
    try:
        yield
    finally:
        if dist.is_main() and args.add_output_dir_suffix:
            with suppress(OSError):  # what holds something stays
                Path(args.output_dir).rmdir()
                Path(args.output_dir).parent.rmdir()


@contextmanager
def what_is_saved(args: SftArguments) -> Iterator[None]:
    """Say, when the block is interrupted or ended by a signal, where one can go on from."""
    told = dist.record_run(args.output_dir)  # whoever started this worker says it then, for all of them
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if not told:
            checkpoint.say_last(args.output_dir)
        raise


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
