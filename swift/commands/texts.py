"""What the options of `swift pt` make of encoded texts."""

from __future__ import annotations

from typing import Any

from swift.arguments.pt import TextOptions
from swift.arguments.reinforcement import METHODS
from swift.arguments.rlhf import RLHFArguments
from swift.arguments.sft import SftArguments
from swift.datasets.encode import EncodedDataset
from swift.datasets.ledger import Ledger, Part
from swift.datasets.pieces import SPLIT, Joined, Pieces
from swift.datasets.prompts import PROMPT_FORMATS
from swift.datasets.retrieval import HEAD_FORMATS, WITH_NUMBERS


def how_texts_are_read(args: SftArguments) -> dict[str, Any]:
    """What of the options `how_to_read` is told."""
    if isinstance(args, RLHFArguments) and args.rlhf_type == "rm":
        return {"formats": WITH_NUMBERS}
    if isinstance(args, RLHFArguments) and args.rlhf_type in METHODS:
        return {"answers": False, "formats": PROMPT_FORMATS}
    if args.task_type != "causal_lm":
        return {"answers": False, "formats": HEAD_FORMATS}
    if not isinstance(args, TextOptions):
        return {}
    return {"text_unit": args.text_unit, "endless": args.truncation_strategy == SPLIT}


def joins(args: SftArguments) -> bool:
    """Whether documents run on, one right after the other."""
    return isinstance(args, TextOptions) and args.packing and not args.isolate_documents


def in_pieces(rows: EncodedDataset, args: SftArguments) -> EncodedDataset:
    """The rows in pieces of --max_length, where longer ones are split."""
    splits = args.truncation_strategy == SPLIT and args.max_length > 0
    return Pieces(rows, args.max_length) if splits else rows


def joined(rows: EncodedDataset, args: SftArguments) -> Joined:
    """The rows as one text in pieces of --max_length."""
    return Joined(rows, args.max_length)


def count(ledger: Ledger, part: Part, pieces: EncodedDataset | Joined) -> None:
    """Enter how many pieces the rows of a part were cut into, if they were."""
    if isinstance(pieces, Pieces | Joined):
        ledger.pieces[part] = len(pieces)
