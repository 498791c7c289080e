"""Conversations turned into tokens once, up front; what cannot be trained on is entered in the ledger."""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import Dataset

from swift.datasets.blocks import Block, Blocks, block_of
from swift.datasets.compact import opened
from swift.datasets.convert import Conversation, at
from swift.datasets.ledger import BAD, Ledger, Part
from swift.errors import DataError, InternalError
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
        """Each row as {input_ids, labels}; {} for one that is too long, or refused, which `errors` then names.

        `truncated` is how many tokens of it were cut off, where any were.
        """
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
        return {name: values.tolist() for name, values in self.columns(index).items()}

    def columns(self, index: int) -> dict[str, np.ndarray]:
        """An example as arrays."""
        return self.rows[int(self.order[index])]


def encode(
    rows: Sequence[Conversation],
    template: Encoder,
    ledger: Ledger,
    *,
    split: Part = "train",
    batch_size: int = 1000,
    keep: Callable[[Iterator[Block]], Sequence[Block]] = list,
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
    used: list[bool] = []

    def blocks() -> Iterator[Block]:
        for batch, (block, fates) in zip(batches, judged_in_order(batches, template, processes), strict=True):
            _enter(batch, fates, block, ledger, split, copies[len(used) :].tolist())
            used.extend(fate.reason is None for fate in fates)
            if len(block):
                yield block

    with uncollected():
        stored = Blocks(keep(blocks()))
    ledger.check_bad_rows()
    is_used = np.array(used, bool)
    order = (np.cumsum(is_used) - 1)[which[is_used[which]]]
    if not len(order):
        raise nothing_left(split, ledger)
    encoded = EncodedDataset(stored, order)
    logger.info(f"{split}: tokens per row {length_statistics(encoded.lengths)}")
    return encoded


def different_rows(rows: Sequence[Conversation]) -> tuple[list[Conversation], np.ndarray, np.ndarray]:
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


class Fate(NamedTuple):
    """What became of a row.

    Attributes:
        reason: why it is dropped, None for one that is used.
        error: what is wrong with a bad one.
        truncated: its tokens that were cut off.
    """

    reason: str | None
    error: DataError | None = None
    truncated: int = 0


def judge(batch: Sequence[Conversation], template: Encoder) -> tuple[Block, list[Fate]]:
    """The rows that can be used, encoded, and what became of each."""
    errors: list[tuple[int, DataError]] = []
    results = template.encode_batch([opened(row) for row in batch], errors)
    refused = dict(errors)
    fates: list[Fate] = []
    for i, (row, inputs) in enumerate(zip(batch, results, strict=True)):
        reason = BAD if i in refused else problem(inputs, template)
        if reason is None:
            fates.append(Fate(None, truncated=inputs.get("truncated", 0)))
        else:
            fates.append(Fate(reason, at(row["where"], refused[i]) if i in refused else None))
    return block_of([inputs for inputs, fate in zip(results, fates, strict=True) if fate.reason is None]), fates


def _enter(
    batch: Sequence[Conversation],
    fates: Sequence[Fate],
    block: Block,
    ledger: Ledger,
    split: Part,
    copies: Sequence[int],
) -> None:
    """Enter in the ledger what became of the rows of a batch, each so often; `block` holds those that are used."""
    tokens = iter(zip(Blocks([block]).supervised.tolist(), np.diff(block.offsets).tolist(), strict=True))
    for row, fate, count in zip(batch, fates, copies, strict=False):
        dataset = row.get("dataset")
        if fate.reason is not None:
            ledger.withdraw(split, fate.reason, row["where"], count, fate.error, dataset)
            continue
        if fate.truncated:
            ledger.cut.append(row["where"])
        learnt, length = next(tokens)
        ledger.count(split, dataset, learnt, length - learnt, fate.truncated, count)


def judged_in_order(
    batches: Sequence[Sequence[Conversation]], template: Encoder, processes: int
) -> Iterator[tuple[Block, list[Fate]]]:
    """`judge` of every batch, in order, in so many processes.

    Raises:
        InternalError: a process was killed.
    """
    if min(processes, len(batches)) < 2:
        yield from (judge(batch, template) for batch in batches)
        return
    context, work = multiprocessing.get_context("fork"), partial(_judge_shared, id(batches))
    SHARED[id(batches)] = batches, template  # what a fork has need not be sent to it
    try:
        with ProcessPoolExecutor(min(processes, len(batches)), context, _one_thread_each) as pool:
            yield from pool.map(work, range(len(batches)))
    except BrokenProcessPool:
        why = "there was not enough memory, most likely"
        raise InternalError(
            "RUN-02", "a process that encodes rows was killed", why=why, fix="a smaller --preprocess_num_proc"
        ) from None
    finally:
        del SHARED[id(batches)]


SHARED: dict[int, tuple[Sequence[Sequence[Conversation]], Encoder]] = {}


def _one_thread_each() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _judge_shared(key: int, index: int) -> tuple[Block, list[Fate]]:
    batches, template = SHARED[key]
    return judge(batches[index], template)


def length_statistics(lengths: Sequence[int]) -> str:
    """Mean and standard deviation, smallest, largest and number, in one line."""
    mean, deviation = statistics.fmean(lengths), statistics.pstdev(lengths)
    return f"{mean:.1f}±{deviation:.1f}, min {min(lengths)}, max {max(lengths)}, size {len(lengths)}"


def problem(inputs: Inputs, template: Encoder) -> str | None:
    """Why a row cannot be trained on, None when it can."""
    if not inputs:
        return f"longer than {template.max_length} tokens"
    labels = inputs["labels"]
    if labels is None or labels.count(IGNORED) >= len(labels) - (labels[0] != IGNORED):  # nothing predicts the first
        return NO_TOKEN
    return None


def nothing_left(split: Part, ledger: Ledger) -> DataError:
    """The error that no row can be used."""
    too_long = any(reason.startswith("longer than") for reason in ledger.dropped)
    fixes = ["raise --max_length, or --truncation_strategy truncation_left"] if too_long else []
    fixes += ["--dataset_test_ratio 0 to validate on nothing"] if split == "validation" else []
    purpose = "train" if split == "train" else "validate"
    return DataError(
        "DATA-05", f"no row is left to {purpose} on", why=ledger.summary(), fix="; or ".join(fixes) or "add rows"
    )
