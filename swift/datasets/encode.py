"""Conversations turned into tokens once, up front; what cannot be trained on is entered in the ledger."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from swift.datasets.blocks import Block, Blocks, block_of
from swift.datasets.convert import Conversation, at
from swift.datasets.ledger import BAD, Ledger, Part
from swift.errors import DataError
from swift.log import get_logger

logger = get_logger()
IGNORED = -100
NO_TOKEN = "no supervised token"
Inputs = Mapping[str, Any]


class Encoder(Protocol):
    """What is needed of a template."""

    @property
    def max_length(self) -> int | None:
        """Longest row in tokens, None without a limit."""
        ...

    @property
    def truncation_strategy(self) -> str:
        """What happens to longer rows: "delete" or "truncation_left"."""
        ...

    def encode_batch(self, rows: Any, errors: list[tuple[int, DataError]], /) -> Sequence[Inputs]:
        """Each row as {input_ids, labels}; {} for one that is too long, or refused, which `errors` then names."""
        ...


class EncodedDataset(Dataset[dict[str, list[Any]]]):
    """Rows as {input_ids, labels}, and loss_scale where any has it; a row that is drawn twice is stored once.

    Attributes:
        rows: the different rows.
        order: which of them each example is.
        lengths: tokens of every example, in order.
    """

    def __init__(self, rows: Blocks, order: np.ndarray) -> None:
        self.rows, self.order = rows, order
        self.lengths: list[int] = rows.lengths[order].tolist()

    def __len__(self) -> int:
        return len(self.order)

    @property
    def num_supervised(self) -> int:
        """How many tokens of all examples are learnt."""
        return int(self.rows.supervised[self.order].sum())

    def __getitem__(self, index: int) -> dict[str, list[Any]]:
        return {name: values.tolist() for name, values in self.rows[int(self.order[index])].items()}


def encode(
    rows: Sequence[Conversation],
    template: Encoder,
    ledger: Ledger,
    *,
    split: Part = "train",
    batch_size: int = 1000,
    keep: Callable[[Iterator[Block]], Sequence[Block]] = list,
) -> EncodedDataset:
    """Encode every row, in order; over-long ones and those with nothing to learn are dropped and counted.

    Args:
        rows: as `load_datasets` gives them.
        template: the chat template.
        ledger: the account that `load_datasets` opened.
        split: which part of it these rows are.
        batch_size: rows per call of the tokenizer.
        keep: where encoded rows are kept, block by block as they come; in memory unless said.

    Raises:
        DataError: rows that do not fit the template, beyond the ledger's `max_bad_rows`, or no row is left (DATA-05).
    """
    copies = Counter(id(row) for row in rows)
    different = list({id(row): row for row in rows}.values())
    place: dict[int, int] = {}

    def blocks() -> Iterator[Block]:
        for start in range(0, len(different), batch_size):
            batch = different[start : start + batch_size]
            kept = [
                (row, inputs) for row, inputs in _encoded(batch, template, ledger, split, copies) if inputs is not None
            ]
            place.update({id(row): len(place) + k for k, (row, _) in enumerate(kept)})
            block = block_of([inputs for _, inputs in kept])
            _count(block, [row for row, _ in kept], [inputs for _, inputs in kept], ledger, split, copies)
            if len(block):
                yield block

    stored = Blocks(keep(blocks()))
    ledger.check_bad_rows()
    order = np.array([place[id(row)] for row in rows if id(row) in place], np.int64)
    if not len(order):
        raise _nothing_left(split, ledger)
    encoded = EncodedDataset(stored, order)
    logger.info(f"{split}: tokens per row {length_statistics(encoded.lengths)}")
    return encoded


def _encoded(
    batch: Sequence[Conversation], template: Encoder, ledger: Ledger, split: Part, copies: Mapping[int, int]
) -> Iterator[tuple[Conversation, Inputs | None]]:
    """Each row with what it became; None for one that is left out, which is entered in the ledger."""
    errors: list[tuple[int, DataError]] = []
    results = template.encode_batch(batch, errors)
    refused = dict(errors)
    for i, (row, inputs) in enumerate(zip(batch, results, strict=True)):
        reason = BAD if i in refused else problem(inputs, template)
        if reason is None:
            if template.truncation_strategy == "truncation_left" and len(inputs["input_ids"]) == template.max_length:
                ledger.cut.append(row["where"])
            yield row, inputs
            continue
        error = at(row["where"], refused[i]) if i in refused else None
        ledger.withdraw(split, reason, row["where"], copies[id(row)], error, row.get("dataset"))
        yield row, None


def _count(
    block: Block,
    rows: Sequence[Conversation],
    inputs: Sequence[Inputs],
    ledger: Ledger,
    split: Part,
    copies: Mapping[int, int],
) -> None:
    """Enter the tokens of the rows of a block."""
    learnt, lengths = Blocks([block]).supervised.tolist(), np.diff(block.offsets).tolist()
    for row, found, supervised, length in zip(rows, inputs, learnt, lengths, strict=True):
        cut = found.get("truncated", 0)
        ledger.count(split, row.get("dataset"), supervised, length - supervised, cut, copies[id(row)])


def length_statistics(lengths: Sequence[int]) -> str:
    """Mean and standard deviation, smallest, largest and number, in one line."""
    mean, deviation = statistics.fmean(lengths), statistics.pstdev(lengths)
    return f"{mean:.1f}±{deviation:.1f}, min {min(lengths)}, max {max(lengths)}, size {len(lengths)}"


def problem(inputs: Inputs, template: Encoder) -> str | None:
    """Why a row cannot be trained on, None when it can."""
    if not inputs:
        return f"longer than {template.max_length} tokens"
    labels = inputs["labels"]
    if labels is None or labels.count(IGNORED) == len(labels):
        return NO_TOKEN
    return None


def _nothing_left(split: Part, ledger: Ledger) -> DataError:
    too_long = any(reason.startswith("longer than") for reason in ledger.dropped)
    fixes = ["raise --max_length, or --truncation_strategy truncation_left"] if too_long else []
    fixes += ["--dataset_test_ratio 0 to validate on nothing"] if split == "validation" else []
    purpose = "train" if split == "train" else "validate"
    return DataError(
        "DATA-05", f"no row is left to {purpose} on", why=ledger.summary(), fix="; or ".join(fixes) or "add rows"
    )
