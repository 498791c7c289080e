"""Batches of conversations on their way through the tokenizer, and what becomes of every row."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from swift.datasets.blocks import Block, Blocks, Keep, block_of
from swift.datasets.compact import opened
from swift.datasets.convert import Conversation, at
from swift.datasets.ledger import BAD
from swift.errors import DataError, InternalError

IGNORED = -100
NO_TOKEN = "no supervised token"
Inputs = Mapping[str, Any]
Batch = Sequence[Conversation]


class Encoder(Protocol):
    """What is needed of a template."""

    @property
    def max_length(self) -> int | None:
        """Longest row in tokens, None without a limit."""
        ...

    @property
    def truncation_strategy(self) -> str:
        """What happens to longer rows: "delete", "truncation_left" or "split"."""
        ...

    @property
    def threads(self) -> int:
        """How many calls of `encode_batch` at once are faster than one after another."""
        ...

    def encode_batch(self, rows: Any, errors: list[tuple[int, DataError]], /) -> Sequence[Inputs]:
        """Each row as {input_ids, labels}; {} for one that is too long, or refused, which `errors` then names.

        `truncated` is how many tokens of it were cut off, where any were.
        """
        ...


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


USED = Fate(None)


def problem(inputs: Inputs, template: Encoder) -> str | None:
    """Why a row cannot be trained on, None when it can."""
    if not inputs:
        return f"longer than {template.max_length} tokens"
    labels = inputs["labels"]
    if labels is None or labels.count(IGNORED) >= len(labels) - (labels[0] != IGNORED):  # nothing predicts the first
        return NO_TOKEN
    return None


def judge(batch: Batch, template: Encoder) -> tuple[Block, list[Fate]]:
    """The rows that can be used, encoded, and what became of each."""
    errors: list[tuple[int, DataError]] = []
    results = template.encode_batch([opened(row) for row in batch], errors)
    refused = dict(errors)
    fates: list[Fate] = []
    for i, (row, inputs) in enumerate(zip(batch, results, strict=True)):
        reason = BAD if i in refused else problem(inputs, template)
        if reason is None:
            fates.append(Fate(None, truncated=inputs["truncated"]) if "truncated" in inputs else USED)
        else:
            fates.append(Fate(reason, at(row["where"], refused[i]) if i in refused else None))
    return block_of([inputs for inputs, fate in zip(results, fates, strict=True) if fate.reason is None]), fates


class Judged:
    """Rows after their encoding, in the order in which they came.

    Args:
        keep: where those that can be used go.

    Attributes:
        fates: of every row.
    """

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self.fates: list[Fate] = []
        self._learnt: list[np.ndarray] = []

    def add(self, block: Block, fates: Sequence[Fate]) -> None:
        """Add what `judge` gave."""
        self.fates += fates
        if len(block):
            self._learnt.append(Blocks([block]).supervised)
            self._keep.add(block)

    @cached_property
    def rows(self) -> Blocks:
        """Those that can be used; nothing can be added any more."""
        return Blocks(self._keep.blocks())

    @cached_property
    def used(self) -> np.ndarray:
        """Whether each row can be used."""
        return np.fromiter((fate.reason is None for fate in self.fates), bool, len(self.fates))

    @cached_property
    def learnt(self) -> np.ndarray:
        """Learnt tokens of every row that can be used."""
        return np.concatenate(self._learnt or [np.zeros(0, np.int64)])


class Line:
    """Batches that are judged in threads, given back in order: while one is in the tokenizer, another is prepared.

    Args:
        template: what encodes.

    A context: what is still under way at its end is waited for.
    """

    def __init__(self, template: Encoder) -> None:
        self._template = template
        self._pool = ThreadPoolExecutor(template.threads) if template.threads > 1 else None
        self._waiting: deque[Future[tuple[Block, list[Fate]]]] = deque()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def send(self, batch: Batch) -> Iterator[tuple[Block, list[Fate]]]:
        """Add a batch; gives the first of those that wait, so that few do."""
        if self._pool is None:
            yield judge(batch, self._template)
            return
        self._waiting.append(self._pool.submit(judge, batch, self._template))
        while len(self._waiting) > self._template.threads + 1:
            yield self._waiting.popleft().result()

    def rest(self) -> Iterator[tuple[Block, list[Fate]]]:
        """Those that were not given yet."""
        while self._waiting:
            yield self._waiting.popleft().result()


def judged_in_order(
    batches: Sequence[Batch], template: Encoder, processes: int = 1
) -> Iterator[tuple[Block, list[Fate]]]:
    """`judge` of every batch, in order, in so many processes.

    Raises:
        InternalError: a process was killed.
    """
    if min(processes, len(batches)) > 1:
        yield from _in_processes(batches, template, min(processes, len(batches)))
        return
    with Line(template) as line:
        for batch in batches:
            yield from line.send(batch)
        yield from line.rest()


SHARED: dict[int, tuple[Sequence[Batch], Encoder]] = {}


def _in_processes(batches: Sequence[Batch], template: Encoder, count: int) -> Iterator[tuple[Block, list[Fate]]]:
    context, work = multiprocessing.get_context("fork"), partial(_judge_shared, id(batches))
    SHARED[id(batches)] = batches, template  # what a fork has need not be sent to it
    try:
        with ProcessPoolExecutor(count, context, _one_thread_each) as pool:
            yield from pool.map(work, range(len(batches)))
    except BrokenProcessPool:
        why = "there was not enough memory, most likely"
        raise InternalError(
            "RUN-02", "a process that encodes rows was killed", why=why, fix="a smaller --preprocess_num_proc"
        ) from None
    finally:
        del SHARED[id(batches)]


def _one_thread_each() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _judge_shared(key: int, index: int) -> tuple[Block, list[Fate]]:
    batches, template = SHARED[key]
    return judge(batches[index], template)
