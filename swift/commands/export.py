"""`swift export`: stages from one directory to the next. `swift merge-lora` is the merging stage alone."""

from __future__ import annotations

from typing import Any

from swift.arguments.export import ExportArguments
from swift.arguments.fields import check_values
from swift.arguments.reading import read_arguments
from swift.commands.merge import merge_lora
from swift.commands.prepare import find_checkpoint
from swift.decide import tidy
from swift.errors import DataError, UsageError, raise_all
from swift.log import get_logger
from swift.tuners import Swift, files

logger = get_logger()


def export_main(said: ExportArguments | list[str] | None = None, **options: Any) -> None:
    """Do what the options ask of a checkpoint: change its layout, merge it.

    Raises:
        UsageError: nothing is asked for.
    """
    args = tidy(read_arguments(ExportArguments, said, **options))
    raise_all(check_values(args))
    if not args.merge_lora and not args.to_peft_format:
        raise UsageError("USAGE-03", "nothing to export is asked for", fix="--merge_lora true or --to_peft_format true")
    if args.to_peft_format:
        to_peft_format(args)
    if args.merge_lora:
        merge_lora(args)


def merge_lora_main(said: ExportArguments | list[str] | None = None, **options: Any) -> None:
    """Merge a checkpoint's LoRA anew, replacing an older merged model."""
    args = tidy(read_arguments(ExportArguments, said, **options))
    raise_all(check_values(args))
    merge_lora(args, replace_if_exists=True)


def to_peft_format(args: ExportArguments) -> str:
    """Write `<ckpt_dir>-peft`, the LoRA checkpoint in PEFT's own layout; return its path."""
    if args.ckpt_dir is None:
        raise UsageError("USAGE-03", "--to_peft_format needs a checkpoint", fix="--ckpt_dir <run>/checkpoint-<step>")
    directory = find_checkpoint(args.ckpt_dir)
    if not files.folders(directory):
        raise DataError("CKPT-01", f"{args.ckpt_dir} holds no adapter")
    output = directory.with_name(f"{directory.name}-peft")
    Swift.save_to_peft_format(str(directory), str(output))
    logger.info(f"in PEFT's layout: {output}")
    return str(output)
