"""A LoRA checkpoint of ours in PEFT's own layout."""

from __future__ import annotations

from swift.arguments.export import ExportArguments
from swift.commands.chosen import find_checkpoint
from swift.errors import DataError, UsageError
from swift.log import get_logger
from swift.tuners import Swift, layout

logger = get_logger()


def to_peft_format(args: ExportArguments) -> str:
    """Write `<ckpt_dir>-peft`, the LoRA checkpoint in PEFT's own layout; return its path."""
    if args.ckpt_dir is None:
        raise UsageError("USAGE-03", "--to_peft_format needs a checkpoint", fix="--ckpt_dir <run>/checkpoint-<step>")
    directory = find_checkpoint(args.ckpt_dir)
    if not layout.folders(directory):
        raise DataError("CKPT-01", f"{args.ckpt_dir} holds no adapter")
    output = directory.with_name(f"{directory.name}-peft")
    Swift.save_to_peft_format(str(directory), str(output))
    logger.info(f"in PEFT's layout: {output}")
    return str(output)
