"""The rows of a run as a stream."""

from __future__ import annotations

from collections.abc import Sequence

from swift.arguments.sft import SftArguments
from swift.datasets.convert import Conversation
from swift.datasets.encode import EncodedDataset, encode
from swift.datasets.ledger import Ledger
from swift.datasets.load import Loaded, how_to_read, parse_specs
from swift.datasets.mix import choose_mix
from swift.datasets.source import Source
from swift.datasets.stream import Stream
from swift.templates.template import Template


def open_stream(
    args: SftArguments, template: Template, held: Loaded | None
) -> tuple[Stream, EncodedDataset | None, Ledger]:
    """The data sets as a stream, with what validates and the account of both.

    Args:
        args: the decided options.
        template: bound to its tokenizer.
        held: the rows of `--val_dataset`; without them those at the stream's beginning validate, if any.
    """
    specs = parse_specs(args.dataset)
    reading = how_to_read(specs, args.columns, args.model_name, args.model_author)
    ledger = held.ledger if held else Ledger(args.max_bad_rows)
    stream = Stream(
        [Source(spec, reading, streaming=True) for spec in specs],
        template,
        ledger,
        mix=choose_mix(specs, args.interleave, args.interleave_prob, args.stopping_strategy),
        buffer_size=args.streaming_buffer_size,
        val_size=args.streaming_val_size,
        seed=args.dataset_seed,
        pack_size=args.max_length if args.packing else None,
    )
    val: Sequence[Conversation] | None = held.val if held else stream.hold_out()
    return stream, encode(val, template, ledger, split="validation") if val else None, ledger
