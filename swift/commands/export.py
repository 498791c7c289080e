"""`swift export`: stages from one directory to the next. `swift merge-lora` is the merging stage alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from swift._lazy import named
from swift.arguments.export import ExportArguments
from swift.arguments.fields import check_values
from swift.arguments.reading import read_arguments
from swift.commands.merge import merge_lora
from swift.decide import tidy
from swift.errors import UsageError, raise_all
from swift.publish.token import settle


@dataclass(frozen=True)
class Stage:
    """One step of an export.

    Args:
        option: what asks for it.
        wanted: whether the options do.
        run: address of the function that is given the options and returns the directory that it wrote; its module is
            loaded when it runs.
        goes_on: whether the stages after it work on what it wrote.
        check: address of a function that raises what is known before any stage has written something.
    """

    option: str
    wanted: Callable[[ExportArguments], bool]
    run: str
    goes_on: bool = False
    check: str | None = None


STAGES = (
    Stage("--from_sharded <checkpoint>", lambda args: bool(args.from_sharded), "swift.commands.unshard:unshard"),
    Stage("--to_peft_format true", lambda args: args.to_peft_format, "swift.commands.peft_layout:to_peft_format"),
    Stage("--merge_lora true", lambda args: args.merge_lora, "swift.commands.merge:merge_lora", goes_on=True),
    Stage("--to_hf_template true", lambda args: args.to_hf_template, "swift.commands.hf_template:to_hf_template"),
    Stage(
        "--to_gguf q8_0",
        lambda args: bool(args.to_gguf),
        "swift.commands.to_gguf:to_gguf",
        check="swift.commands.to_gguf:check_before",
    ),
    Stage(
        "--quant_bits 4",
        lambda args: bool(args.quant_bits or args.quant_method),
        "swift.commands.quantize:quantize",
        check="swift.commands.quantize:check",
    ),
    Stage(
        "--push_to_hub true",
        lambda args: args.push_to_hub,
        "swift.commands.push:push_exported",
        check="swift.commands.push:check_token",
    ),
)


def export_main(said: ExportArguments | list[str] | None = None, **options: Any) -> None:
    """Do what the options ask of a checkpoint or model, one stage after the other.

    Raises:
        UsageError: nothing is asked for.
    """
    args = settle(tidy(read_arguments(ExportArguments, said, **options)))
    raise_all(check_values(args))
    wanted = [stage for stage in STAGES if stage.wanted(args)]
    if not wanted:
        fix = f"one or several of {', '.join(stage.option for stage in STAGES)}"
        raise UsageError("USAGE-03", "nothing to export is asked for", fix=fix)
    for stage in wanted:
        if stage.check is not None:
            named(stage.check)(args)
    written = None
    for stage in wanted:
        if stage is STAGES[-1] and written is not None:  # what was written last is published
            args = replace(args, ckpt_dir=written)
        written = named(stage.run)(args)
        if stage.goes_on:
            args = replace(args, ckpt_dir=written, adapters=[])


def merge_lora_main(said: ExportArguments | list[str] | None = None, **options: Any) -> None:
    """Merge a checkpoint's LoRA anew, replacing an older merged model."""
    args = tidy(read_arguments(ExportArguments, said, **options))
    raise_all(check_values(args))
    merge_lora(args, replace_if_exists=True)
