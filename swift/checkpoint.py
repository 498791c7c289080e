"""Training checkpoints: the one place that writes, finds, checks and removes them.

A checkpoint is a directory `checkpoint-<step>` whose manifest verifies (`swift.storage`); anything else is not one.
Going on from it needs all of its files; loading its weights for inference or a merge needs only those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swift import storage
from swift.errors import DataError, InternalError, NotFoundError
from swift.log import get_logger
from swift.storage import StagedDirectory, staged_directory

PREFIX = "checkpoint-"
STATE_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
WEIGHTS = (".safetensors", ".bin")
HEADROOM = 1.2
SHARDS, MODEL_SHARDS, OPTIMIZER_SHARDS = "shards", "model", "optimizer"

logger = get_logger()


def directory_of(output_dir: Path | str, step: int) -> Path:
    """Where the checkpoint of `step` lies, or will."""
    return Path(output_dir) / f"{PREFIX}{step}"


def step_of(directory: Path | str) -> int | None:
    """The step in a checkpoint's name, None for a directory called otherwise."""
    match = re.fullmatch(rf"{PREFIX}(\d+)", Path(directory).name)
    return int(match[1]) if match else None


def save(final: Path, facts: Mapping[str, Any]) -> StagedDirectory:
    """A new checkpoint: write its files into the stage that the `with` block gets; the block's end commits it.

    Args:
        final: the checkpoint's directory, see `directory_of`.
        facts: what its manifest says about the run: step, world size, seed, fingerprints.

    Raises:
        DiskError: less than 1.2 times the newest checkpoint's size is free, or the disk filled up.
    """
    sizes = [storage.size_bytes(path) for path in committed(final.parent)[-1:]]
    if sizes:
        storage.check_free(final.parent, int(HEADROOM * sizes[0]))
    return staged_directory(final, facts)


def check_finite(tensors: Iterable[tuple[str, Tensor]], last_good: Path | str | None = None) -> None:
    """Refuse to save what holds NaN or infinity.

    Raises:
        InternalError: the first such tensor, by name, and the last good checkpoint.
    """
    for name, tensor in tensors:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            fix = f"the last good checkpoint is {last_good}" if last_good else "no checkpoint was saved before"
            raise InternalError("RUN-01", f"{name} holds NaN or infinity: no checkpoint is written", fix=fix)


def committed(output_dir: Path | str) -> list[Path]:
    """The checkpoints of a run that have a sound manifest, oldest first; their files are not looked at."""
    found = [path for path in _candidates(output_dir) if not _manifest_fault(path)]
    return sorted(found, key=lambda path: step_of(path) or 0)


def say_last(output_dir: Path | str) -> None:
    """Tell whoever stopped a run where it can be gone on from."""
    found = committed(output_dir)
    if found:
        logger.warning(f"last checkpoint: {found[-1]}; --resume_from_checkpoint auto goes on from there")
    else:
        logger.warning("stopped before the first checkpoint: nothing was saved")


def latest(output_dir: Path | str, *, fast: bool = False, look_only: bool = False) -> Path | None:
    """The newest checkpoint that verifies and can be gone on from, None when there is none.

    Newer ones that do not are named in a warning each. What a killed process left half done is tidied up first.

    Args:
        output_dir: the run's directory.
        fast: compare the sizes of files only, not their SHA-256.
        look_only: leave what killed processes left.
    """
    if not look_only:
        storage.sweep(output_dir)
    for path in sorted(_candidates(output_dir), key=lambda path: step_of(path) or 0, reverse=True):
        faults = _faults(path, fast)
        if not faults:
            return path
        logger.warning("%s is passed over: %s", path, "; ".join(faults[:3]))
    return None


def latest_of_runs(runs: Path | str, *, fast: bool = False, look_only: bool = False) -> Path | None:
    """The newest resumable checkpoint of a run's directory, or of the newest run `v<K>-<time>` in it that has one."""
    found = latest(runs, fast=fast, look_only=look_only)
    if found is not None or not Path(runs).is_dir():
        return found
    names = [(int(match[1]), path.name) for path in Path(runs).iterdir() if (match := re.match(r"v(\d+)-", path.name))]
    newest_first = (Path(runs) / name for _, name in sorted(names, reverse=True))  # two begun at once have one number
    return next((found for run in newest_first if (found := latest(run, fast=fast, look_only=look_only))), None)


def check_resumable(directory: Path | str, *, fast: bool = False) -> None:
    """Make sure that a run can go on from `directory`.

    Raises:
        NotFoundError: there is no such directory.
        DataError: it is incomplete or damaged, with each file and what is wrong with it.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise NotFoundError("FOUND-01", f"{directory} is not a directory", fix="name a checkpoint, or `auto`")
    faults = _faults(directory, fast)
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise DataError(
            "CKPT-01",
            f"{directory} cannot be gone on from: {shown}",
            why="going on without a part of the state would quietly train something else",
            fix="take another checkpoint, or `auto` for the newest whole one",
        )


def check_weights(directory: Path | str) -> None:
    """Make sure that the weights of a checkpoint are those that were written; the rest of it may be gone.

    Raises:
        DataError: a file of weights is missing or damaged. Directories without a manifest are not looked at.
    """
    directory = Path(directory)
    if not (directory / storage.MANIFEST).is_file():
        return
    faults = storage.verify(directory, suffixes=WEIGHTS)
    if faults:
        raise DataError(
            "CKPT-01",
            f"{directory} is damaged: {'; '.join(faults[:5])}",
            fix="take another checkpoint, or copy it again",
        )


def weights_in_shards(directory: Path | str) -> bool:
    """Whether a checkpoint has the weights of its whole model in shards, and nowhere else."""
    directory = Path(directory)
    return (directory / SHARDS / MODEL_SHARDS).is_dir() and (directory / "config.json").is_file()


def resolve(said: Path | str | bool | None, output_dir: Path | str, *, fast: bool = False) -> Path | None:
    """The checkpoint that `--resume_from_checkpoint` means, verified; None for a fresh start.

    `auto` and True take the newest whole one of `output_dir`, or start afresh when it has none. With `fast` only the
    sizes of files are compared, not their SHA-256.
    """
    if said is None or said is False:
        return None
    if said is True or said == "auto":
        found = latest(output_dir, fast=fast)
        if found is None:
            logger.info("%s has no checkpoint to go on from: starting afresh", output_dir)
        return found
    check_resumable(said, fast=fast)
    return Path(said)


def rotate(output_dir: Path | str, limit: int | None, keep: Iterable[Path | str | None] = ()) -> None:
    """Remove the oldest checkpoints beyond `limit`, never the newest nor one of `keep`.

    Args:
        output_dir: the run's directory.
        limit: how many may stay; None or less than 1 keeps all.
        keep: further ones to keep: the best, and the one just written, beside which newer ones may lie that the run
            passed over because they are damaged.
    """
    found = committed(output_dir)
    if limit is None or limit < 1 or not found:
        return
    pinned = {found[-1].resolve(), *(Path(path).resolve() for path in keep if path is not None)}
    for path in [path for path in found if path.resolve() not in pinned][: max(0, len(found) - limit)]:
        storage.remove(path)


def _candidates(output_dir: Path | str) -> list[Path]:
    directory = Path(output_dir)
    if not directory.is_dir():
        return []
    return [
        path for path in directory.iterdir() if step_of(path) is not None and path.is_dir() and not path.is_symlink()
    ]


def _manifest_fault(directory: Path) -> str | None:
    try:
        storage.read_manifest(directory)
    except ValueError as error:
        return str(error)
    return None


def _faults(directory: Path, fast: bool) -> list[str]:
    faults = storage.verify(directory, fast=fast)
    if faults:
        return faults
    listed = storage.read_manifest(directory)["files"]
    wanted = list(STATE_FILES)
    if any(name.startswith("global_step") for name in listed):  # DeepSpeed keeps optimiser and schedule in there
        wanted = wanted[:1]
    elif any(name.startswith(f"{SHARDS}/{OPTIMIZER_SHARDS}/") for name in listed):
        wanted.remove("optimizer.pt")
    lacking = [f"{name} was not saved" for name in wanted if name not in listed]
    if not any(re.fullmatch(r"rng_state(_\d+)?\.pth", name) for name in listed):
        lacking.append("rng_state.pth was not saved")
    return lacking
