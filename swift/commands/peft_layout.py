"""A LoRA checkpoint of ours in PEFT's own layout."""

from __future__ import annotations

from pathlib import Path

from swift import checkpoint, storage
from swift.arguments.export import ExportArguments
from swift.commands.chosen import find_checkpoint
from swift.commands.replacing import check_gives_way
from swift.errors import DataError, UsageError
from swift.log import get_logger
from swift.publish.contents import files_of_model
from swift.tuners import Swift, layout

logger = get_logger()


def to_peft_format(args: ExportArguments) -> str:
    """Write `<ckpt_dir>-peft`, the LoRA checkpoint in PEFT's own layout; return its path.

    Raises:
        UsageError: no checkpoint is named.
        DataError: it holds no adapter, a damaged one, or one that PEFT cannot express.
        OutputError: the output is something else.
    """
    if args.ckpt_dir is None:
        raise UsageError("USAGE-03", "--to_peft_format needs a checkpoint", fix="--ckpt_dir <run>/checkpoint-<step>")
    directory = find_checkpoint(args.ckpt_dir)
    if not layout.folders(directory):
        raise DataError("CKPT-01", f"{args.ckpt_dir} holds no adapter")
    checkpoint.check_weights(directory)
    output = directory.with_name(f"{directory.name}-peft")
    facts = storage.read_manifest(directory) if (directory / storage.MANIFEST).is_file() else {}
    check_gives_way(output, directory, fix="move what is there")
    storage.sweep(output.parent, output.name)
    storage.check_free(output.parent, sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()))
    with storage.staged_directory(output, {**facts, "base": str(directory)}) as stage:
        Swift.save_to_peft_format(str(directory), str(stage))
        _leave_out_others(stage, set(facts.get("files", ())))
    logger.info(f"in PEFT's layout: {output}")
    return str(output)


def _leave_out_others(stage: Path, listed: set[str]) -> None:
    """Take away what neither was `listed` nor is an adapter's or a model's: what a manifest lists may be published."""
    present = [str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file()]
    kept = (listed | files_of_model(stage, present)) - {storage.MANIFEST}
    for name in set(present) - kept:
        (stage / name).unlink()
