"""Conversations turned into tokens once, up front; what cannot be trained on is entered in the ledger."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

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


@dataclass(frozen=True)
class Tokens:
    """One encoded row: token ids and labels, int32, of equal length."""

    input_ids: np.ndarray
    labels: np.ndarray


class EncodedDataset(Dataset[dict[str, list[int]]]):
    """Rows as {input_ids, labels}; a row that is drawn twice is stored once.

    Attributes:
        lengths: tokens of every example, in order.
    """

    def __init__(self, examples: Sequence[Tokens]) -> None:
        self._examples = list(examples)
        self.lengths = [len(example.input_ids) for example in self._examples]

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def num_supervised(self) -> int:
        """How many tokens of all examples are learnt."""
        return sum(int(np.count_nonzero(example.labels != IGNORED)) for example in self._examples)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        example = self._examples[index]
        return {"input_ids": example.input_ids.tolist(), "labels": example.labels.tolist()}


def encode(
    rows: Sequence[Conversation],
    template: Encoder,
    ledger: Ledger,
    *,
    split: Part = "train",
    batch_size: int = 1000,
) -> EncodedDataset:
    """Encode every row, in order; over-long ones and those with nothing to learn are dropped and counted.

    Args:
        rows: as `load_datasets` gives them.
        template: the chat template.
        ledger: the account that `load_datasets` opened.
        split: which part of it these rows are.
        batch_size: rows per call of the tokenizer.

    Raises:
        DataError: rows that do not fit the template, beyond the ledger's `max_bad_rows`, or no row is left (DATA-05).
    """
    copies = Counter(id(row) for row in rows)
    different = list({id(row): row for row in rows}.values())
    kept: dict[int, Tokens] = {}
    for start in range(0, len(different), batch_size):
        batch = different[start : start + batch_size]
        errors: list[tuple[int, DataError]] = []
        results = template.encode_batch(batch, errors)
        refused = dict(errors)
        for i, (row, inputs) in enumerate(zip(batch, results, strict=True)):
            reason = BAD if i in refused else _problem(inputs, template)
            dataset = row.get("dataset")
            if reason is None:
                kept[id(row)] = tokens = _stored(inputs)
                learnt = int(np.count_nonzero(tokens.labels != IGNORED))
                cut = inputs.get("truncated", 0)
                ledger.count(split, dataset, learnt, len(tokens.labels) - learnt, cut, copies[id(row)])
                continue
            error = at(row["where"], refused[i]) if i in refused else None
            ledger.withdraw(split, reason, row["where"], copies[id(row)], error, dataset)
    ledger.check_bad_rows()
    encoded = EncodedDataset([kept[id(row)] for row in rows if id(row) in kept])
    if not encoded:
        raise _nothing_left(split, ledger)
    if template.truncation_strategy == "truncation_left":
        for row in different:
            if id(row) in kept and len(kept[id(row)].input_ids) == template.max_length:
                ledger.cut.append(row["where"])
    logger.info(f"{split}: tokens per row {length_statistics(encoded.lengths)}")
    return encoded


def length_statistics(lengths: Sequence[int]) -> str:
    """Mean and standard deviation, smallest, largest and number, in one line."""
    mean, deviation = statistics.fmean(lengths), statistics.pstdev(lengths)
    return f"{mean:.1f}±{deviation:.1f}, min {min(lengths)}, max {max(lengths)}, size {len(lengths)}"


def _problem(inputs: Inputs, template: Encoder) -> str | None:
    """Why a row cannot be trained on, None when it can."""
    if not inputs:
        return f"longer than {template.max_length} tokens"
    if inputs["labels"] is None or all(label == IGNORED for label in inputs["labels"]):
        return NO_TOKEN
    return None


def _stored(inputs: Inputs) -> Tokens:
    return Tokens(np.asarray(inputs["input_ids"], np.int32), np.asarray(inputs["labels"], np.int32))


def _nothing_left(split: Part, ledger: Ledger) -> DataError:
    too_long = any(reason.startswith("longer than") for reason in ledger.dropped)
    fixes = ["raise --max_length, or --truncation_strategy truncation_left"] if too_long else []
    fixes += ["--dataset_test_ratio 0 to validate on nothing"] if split == "validation" else []
    purpose = "train" if split == "train" else "validate"
    return DataError(
        "DATA-05", f"no row is left to {purpose} on", why=ledger.summary(), fix="; or ".join(fixes) or "add rows"
    )
