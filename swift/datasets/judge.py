"""Batches of conversations on their way through the tokenizer, and what becomes of every row."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cached_property
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


MOST = 8
"""Processes, unless more are asked for: reading keeps no more of them busy."""


def processes_for(said: int | None) -> int:
    """How many processes encode.

    Args:
        said: as many as this; None is one for each processor, unless the environment allows the tokenizer fewer.
    """
    if said is not None:
        return said
    parallel = os.environ.get("TOKENIZERS_PARALLELISM", "true").lower() not in ("", "0", "f", "false", "n", "no", "off")
    if not parallel or sys.platform != "linux":  # where forks are not safe, it takes a word
        return 1
    threads = os.environ.get("RAYON_NUM_THREADS", "")
    return min(int(threads) if threads.isdecimal() and int(threads) else len(os.sched_getaffinity(0)), MOST)


class Line:
    """Batches that are judged in processes, given back in order.

    Args:
        template: what encodes.
        processes: how many; a lone batch is judged in this one.

    A context: what is still under way at its end is waited for.
    """

    def __init__(self, template: Encoder, processes: int = 1) -> None:
        self._template, self._processes = template, processes
        self._pool: ProcessPoolExecutor | None = None
        self._held: Batch | None = None
        self._waiting: deque[Future[tuple[Block, list[Fate]]]] = deque()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def send(self, batch: Batch) -> Iterator[tuple[Block, list[Fate]]]:
        """Add a batch; gives the first of those that wait, so that few do.

        Raises:
            InternalError: a process was killed (RUN-02); `rest` likewise.
        """
        if self._processes < 2:
            yield judge(batch, self._template)
        elif self._pool is None and self._held is None:
            self._held = batch
        else:
            self._submit(batch)
            while len(self._waiting) > 2 * self._processes:
                yield self._first()

    def rest(self) -> Iterator[tuple[Block, list[Fate]]]:
        """Those that were not given yet."""
        if self._held is not None:
            held, self._held = self._held, None
            yield judge(held, self._template)
        while self._waiting:
            yield self._first()

    def _submit(self, batch: Batch) -> None:
        with _a_killed_one_is_told():
            if self._pool is None:
                context = multiprocessing.get_context("fork")  # what a fork has need not be sent to it
                self._pool = ProcessPoolExecutor(self._processes, context, _begin, (self._template,))
                assert self._held is not None
                self._waiting.append(self._pool.submit(_judge_here, self._held))
                self._held = None
            self._waiting.append(self._pool.submit(_judge_here, batch))

    def _first(self) -> tuple[Block, list[Fate]]:
        with _a_killed_one_is_told():
            return self._waiting.popleft().result()


@contextmanager
def _a_killed_one_is_told() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        why = "there was not enough memory, most likely"
        raise InternalError(
            "RUN-02", "a process that encodes rows was killed", why=why, fix="--preprocess_num_proc 1, or a smaller one"
        ) from None


HERE: list[Encoder] = []
"""In a process that encodes: what does."""


def _begin(template: Encoder) -> None:
    """Make a fork ready: signals are for the process that reads, and a fork does not outlive it."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    HERE[:] = [template]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _judge_here(batch: Batch) -> tuple[Block, list[Fate]]:
    return judge(batch, HERE[0])


def judged_in_order(
    batches: Sequence[Batch], template: Encoder, processes: int = 1
) -> Iterator[tuple[Block, list[Fate]]]:
    """`judge` of every batch, in order, in so many processes.

    Raises:
        InternalError: a process was killed.
    """
    with Line(template, processes) as line:
        for batch in batches:
            yield from line.send(batch)
        yield from line.rest()
