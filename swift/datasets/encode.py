"""Conversations turned into tokens once, up front; what cannot be trained on is entered in the ledger."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numpy as np
from torch.utils.data import Dataset

from swift.datasets.ahead import Placed
from swift.datasets.blocks import Blocks, InMemory, Keep
from swift.datasets.convert import Conversation
from swift.datasets.judge import Encoder, Judged, judged_in_order
from swift.datasets.ledger import Ledger, Part
from swift.errors import DataError
from swift.log import get_logger

logger = get_logger()
T = TypeVar("T")
DATASET_NUMBER = "dataset_number"  # the column that tells of which data set a row is, where there are several


class EncodedDataset(Dataset[dict[str, Any]]):
    """Rows as {input_ids, labels}, and loss_scale where any has it; a row that is drawn twice is stored once.

    Of several data sets, an example also says which one it is of: `dataset_number`.

    Attributes:
        rows: the different rows.
        order: which of them each example is.
        lengths: tokens of every example, in order.
        dataset_names: the data sets as typed; those of kept rows that do not tell are none.
        numbers: which of these every example is of; None where there is one.
    """

    def __init__(
        self, rows: Blocks, order: np.ndarray, dataset_names: Sequence[str] = (), numbers: np.ndarray | None = None
    ) -> None:
        self.rows, self.order = rows, order
        self.dataset_names, self.numbers = dataset_names, numbers if len(dataset_names) > 1 else None
        self.lengths: list[int] = rows.lengths[order].tolist()

    def __len__(self) -> int:
        return len(self.order)

    @property
    def num_supervised(self) -> int:
        """How many tokens of all examples are learnt."""
        return int(self.rows.supervised[self.order].sum())

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = {name: values.tolist() for name, values in self.columns(index).items()}
        return row if self.numbers is None else {**row, DATASET_NUMBER: int(self.numbers[index])}

    def columns(self, index: int) -> dict[str, np.ndarray]:
        """An example as arrays."""
        return self.rows[int(self.order[index])]


def encode(
    rows: Sequence[Conversation],
    template: Encoder,
    ledger: Ledger,
    *,
    split: Part = "train",
    batch_size: int = 250,
    keep: Keep | None = None,
    processes: int = 1,
) -> EncodedDataset:
    """Encode every row, in order; over-long ones and those with nothing to learn are dropped and counted.

    Args:
        rows: as `load_datasets` gives them.
        template: the chat template.
        ledger: the account that `load_datasets` opened.
        split: which part of it these rows are.
        batch_size: rows per call of the tokenizer.
        keep: where encoded rows are kept, block by block as they come; in memory unless said.
        processes: how many encode, each a batch at a time; what they give is the same as that of one.

    Raises:
        DataError: rows that do not fit the template, beyond the ledger's `max_bad_rows`, or no row is left (DATA-05).
        InternalError: a process was killed.
    """
    different, which, copies = different_rows(rows)
    batches = [different[start : start + batch_size] for start in range(0, len(different), batch_size)]
    judged = Judged(keep or InMemory())
    with uncollected():
        for found in judged_in_order(batches, template, processes):
            judged.add(*found)
        return _settled(different, np.arange(len(different)), which, copies, judged, ledger, split)


def settle(rows: Sequence[Conversation], judged: Judged, ledger: Ledger, split: Part = "train") -> EncodedDataset:
    """What `encode` gives, of rows that were encoded while they were read.

    Args:
        rows: as `Ahead.take` gave them.
        judged: all rows that were encoded.
        ledger: the account that `load_datasets` opened.
        split: which part of it these rows are.

    Raises:
        DataError: as `encode` does.
    """
    different, which, copies = different_rows(rows)
    with uncollected():
        numbers = np.fromiter((cast(Placed, row).index for row in different), np.int64, len(different))
        return _settled(different, numbers, which, copies, judged, ledger, split)


def _settled(
    rows: Sequence[Mapping[str, Any]],
    numbers: np.ndarray,
    which: np.ndarray,
    copies: np.ndarray,
    judged: Judged,
    ledger: Ledger,
    split: Part,
) -> EncodedDataset:
    """Enter in the ledger what became of different rows, each of its number in `judged`; give those that are left."""
    stored, used = judged.rows, judged.used
    places = (np.cumsum(used) - 1)[numbers]
    names = list(ledger.accounts)
    number_of: dict[str | None, int] = {name: k for k, name in enumerate(names)}
    learnt, lengths = judged.learnt.tolist(), stored.lengths.tolist()
    tokens: dict[str | None, list[int]] = {}
    for row, number, place, count in zip(rows, numbers.tolist(), places.tolist(), copies.tolist(), strict=True):
        fate, dataset = judged.fates[number], row.get("dataset")
        if fate.reason is not None:
            ledger.withdraw(split, fate.reason, row["where"], count, fate.error, dataset)
            continue
        sums = tokens.setdefault(dataset, [0, 0, 0])
        sums[0] += learnt[place] * count
        sums[1] += (lengths[place] - learnt[place]) * count
        if fate.truncated:
            sums[2] += fate.truncated * count
            ledger.cut.append(row["where"])
    for dataset, sums in tokens.items():
        ledger.count(split, dataset, *sums)
    ledger.check_bad_rows()
    order = places[which[used[numbers][which]]]
    if not len(order):
        raise nothing_left(split, ledger)
    of_rows = np.fromiter((number_of.get(row.get("dataset"), 0) for row in rows), np.int32, len(rows))
    encoded = EncodedDataset(stored, order, names, of_rows[which[used[numbers][which]]])
    logger.info(f"{split}: tokens per row {length_statistics(encoded.lengths)}")
    return encoded


def different_rows(rows: Sequence[T]) -> tuple[list[T], np.ndarray, np.ndarray]:
    """The different rows as they first come; which of them each row is; how often each comes."""
    ids = np.fromiter(map(id, rows), np.int64, len(rows))
    _, first, which, copies = np.unique(ids, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)
    return [rows[k] for k in first[order].tolist()], np.argsort(order)[which], copies[order]


@contextmanager
def uncollected() -> Iterator[None]:
    """Leave the collector of cycles off while many rows come to be: it would look through all, again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def length_statistics(lengths: Sequence[int]) -> str:
    """Mean and standard deviation, smallest, largest and number, in one line."""
    mean, deviation = statistics.fmean(lengths), statistics.pstdev(lengths)
    return f"{mean:.1f}±{deviation:.1f}, min {min(lengths)}, max {max(lengths)}, size {len(lengths)}"


def nothing_left(split: Part, ledger: Ledger) -> DataError:
    """The error that no row can be used."""
    too_long = any(reason.startswith("longer than") for reason in ledger.dropped)
    fixes = ["raise --max_length, or --truncation_strategy truncation_left"] if too_long else []
    fixes += ["--dataset_test_ratio 0 to validate on nothing"] if split == "validation" else []
    purpose = "train" if split == "train" else "validate"
    return DataError(
        "DATA-05", f"no row is left to {purpose} on", why=ledger.summary(), fix="; or ".join(fixes) or "add rows"
    )
