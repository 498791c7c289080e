"""Options of `swift export` and `swift merge-lora`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option
from swift.arguments.infer import CheckpointOptions


@dataclass(kw_only=True)
class ExportArguments(CheckpointOptions):
    """Merge LoRA into its model, or change an adapter's layout."""

    output_dir: str | None = option(
        None, group="Output", help="Where the merged model is written.", none="`<ckpt_dir>-merged`"
    )
    replace_if_exists: bool = option(
        False, group="Output", help="Write a merged model anew where one exists; otherwise it is used as it is."
    )
    to_peft_format: bool = option(
        False,
        group="Checkpoint",
        help="Write a LoRA checkpoint with a folder per tuner in PEFT's layout, in `<ckpt_dir>-peft`.",
    )
