"""The rows of a run as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from swift.arguments.pt import TextOptions
from swift.arguments.rlhf import RLHFArguments
from swift.arguments.sft import SftArguments
from swift.commands.texts import count, how_texts_are_read, in_pieces, joins
from swift.datasets.convert import Conversation
from swift.datasets.encode import EncodedDataset, encode
from swift.datasets.judge import Encoder
from swift.datasets.ledger import Ledger
from swift.datasets.load import Loaded, how_to_read, parse_specs
from swift.datasets.mix import choose_mix, rows_drawn
from swift.datasets.source import Source
from swift.datasets.spec import DatasetSpec
from swift.datasets.stream import Stream
from swift.errors import UsageError


def open_stream(
    args: SftArguments, encoder: Encoder, held: Loaded | None
) -> tuple[Stream, EncodedDataset | None, Ledger]:
    """The data sets as a stream, with what validates and the account of both.

    Args:
        args: the decided options.
        encoder: what makes tokens of rows, such as a template.
        held: the rows of `--val_dataset`; without them those at the stream's beginning validate, if any.
    """
    specs = _counted(parse_specs(args.dataset))
    reading = how_to_read(specs, args.columns, args.model_name, args.model_author, **how_texts_are_read(args))
    ledger = held.ledger if held else Ledger(args.max_bad_rows)
    stream = Stream(
        [Source(spec, reading, streaming=True) for spec in specs],
        encoder,
        ledger,
        mix=choose_mix(specs, args.interleave, args.interleave_prob, args.stopping_strategy),
        buffer_size=args.streaming_buffer_size,
        val_size=args.streaming_val_size,
        seed=args.dataset_seed,
        pack_size=args.max_length if args.packing else None,
        isolate=not joins(args),
        options=how_encoded(args),
    )
    val: Sequence[Conversation] | None = held.val if held else stream.hold_out()
    if not val:
        return stream, None, ledger
    pieces = in_pieces(encode(val, encoder, ledger, split="validation"), args)
    count(ledger, "validation", pieces)
    return stream, pieces, ledger


def how_encoded(args: SftArguments) -> dict[str, Any]:
    """The options that the tokens of a row depend on, besides those that the stream itself has."""
    names = ["template_type", "system", "loss_scale", "tools_prompt"]
    names += ["text_unit"] if isinstance(args, TextOptions) else []
    names += ["max_prompt_length"] if isinstance(args, RLHFArguments) else []
    return {name: value for name, value in vars(args).items() if name in names}


def _counted(specs: list[DatasetSpec]) -> list[DatasetSpec]:
    """Data sets of which one that is alone has its share as a number of rows.

    Raises:
        UsageError: nobody knows how many rows it has.
    """
    if len(specs) != 1 or specs[0].share is None:
        return specs
    spec = specs[0]
    if spec.sample is None:
        what = f"--dataset {spec.text}: how many rows a stream has is not known, nor what a share of them is"
        raise UsageError("USAGE-02", what, fix=f"--dataset {spec.text.rpartition('@')[0]}#<rows>, or no --streaming")
    return [replace(spec, sample=rows_drawn(spec, 0), share=None)]
