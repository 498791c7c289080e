"""Which rows make a batch: rows of like length, as many as `batch_size` says or as a number of tokens holds.

The order is a function of the seed and the epoch alone, so a run that goes on finds it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import BatchRebalanceSampler

from swift.errors import ConfigError

GROUPED = "group_by_length"  # what transformers calls this order
POOL = 128  # batches among whose rows the like ones are looked for: padding is about 1 %


@runtime_checkable
class Measured(Protocol):
    """A data set that knows how many tokens each of its rows has."""

    lengths: Sequence[int]


def lengths_of(rows: Any) -> Sequence[int]:
    """Tokens of every row; they are all read where the data set does not know."""
    return rows.lengths if isinstance(rows, Measured) else [len(rows[k]["input_ids"]) for k in range(len(rows))]


def by_length(lengths: Sequence[int]) -> list[int]:
    """The rows from the longest to the shortest."""
    return np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist()


class Grouped(Sampler[int]):
    """Rows in an order in which each `batch_size` of them, taken together, have about the same length.

    Rows are shuffled; among those of `POOL` steps like lengths come together; then the steps are shuffled. Only the
    rows of a whole step count, so the order is the same however a step is cut into processes and batches. What fills no
    step comes last. The first step of the first epoch has the longest row, so a run that does not fit the memory ends
    at once.

    Args:
        lengths: tokens of every row.
        batch_size: rows of a batch.
        seed: of the order.
        batches: how many make a step, of all processes together.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, batches: int = 1) -> None:
        self.lengths, self.seed, self.epoch = np.asarray(lengths, np.int64), seed, 0
        self.step_rows = batch_size * batches

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        yield from self.order().tolist()

    def set_epoch(self, epoch: int) -> None:
        """The order of the next pass."""
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """The rows of the epoch."""
        draw, together = np.random.default_rng([self.seed, self.epoch]), self.step_rows
        shuffled = draw.permutation(len(self.lengths))
        whole = len(shuffled) // together * together
        pools = np.split(shuffled[:whole], range(together * POOL, whole, together * POOL))
        ordered = [pool[np.argsort(-self.lengths[pool], kind="stable")] for pool in pools]
        groups = draw.permutation(np.concatenate(ordered).reshape(-1, together))
        if self.epoch == 0 and len(groups):
            longest = int(self.lengths[groups].max(axis=1).argmax())
            groups[[0, longest]] = groups[[longest, 0]]
        return np.concatenate([groups.ravel(), shuffled[whole:]])


class TokenBatches(BatchRebalanceSampler):
    """Batches of rows of like length, each with as many rows as hold at most `tokens` tokens with their padding.

    Rows are sorted, those of one length at random, cut into batches, and the batches shuffled. Lengths alone decide how
    many there are, so every epoch has as many, and so has every process. Transformers hands a sampler of this kind on
    as it is: each process has its own.

    Args:
        lengths: tokens of every row.
        tokens: what a batch holds.
        seed: of the order.
        processes: how many take batches in turn.
        process: which of them this is.

    Raises:
        ConfigError: a row is longer than a batch; batches that cannot be dealt out evenly.
    """

    def __init__(self, lengths: Sequence[int], tokens: int, seed: int, processes: int = 1, process: int = 0) -> None:
        self.lengths, self.seed, self.processes, self.process = np.asarray(lengths, np.int64), seed, processes, process
        self.epoch = 0
        if len(self.lengths) and self.lengths.max() > tokens:
            what = f"--max_tokens_per_batch {tokens}: a row has {self.lengths.max()} tokens"
            raise ConfigError("CONFIG-02", what, fix=f"{self.lengths.max()} or more, or --max_length {tokens}")
        self.sizes = self._evened(_cut(np.sort(self.lengths)[::-1], tokens), tokens)

    def _evened(self, sizes: list[int], tokens: int) -> list[int]:
        """The sizes with the largest batches halved until every process gets as many."""
        while len(sizes) % self.processes:
            largest = int(np.argmax(sizes))
            if sizes[largest] == 1:
                what = f"--max_tokens_per_batch {tokens}: {len(sizes)} batches are not as many for each process"
                raise ConfigError("CONFIG-02", what, fix=f"{2 * tokens}, or add rows")
            sizes[largest : largest + 1] = [sizes[largest] - sizes[largest] // 2, sizes[largest] // 2]
        return sizes

    def __len__(self) -> int:
        return len(self.sizes) // self.processes

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches()[self.process :: self.processes]:
            yield batch.tolist()

    def set_epoch(self, epoch: int) -> None:
        """The order of the next pass."""
        self.epoch = epoch

    def batches(self) -> list[np.ndarray]:
        """The batches of the epoch, of all processes."""
        draw = np.random.default_rng([self.seed, self.epoch])
        order = np.lexsort((draw.random(len(self.lengths)), -self.lengths))
        batches = np.split(order, np.cumsum(self.sizes)[:-1])
        turns = draw.permutation(len(batches) // self.processes)
        if self.epoch == 0 and len(turns):
            turns = np.concatenate([[0], turns[turns != 0]])
        return [batches[turn * self.processes + k] for turn in turns.tolist() for k in range(self.processes)]


def _cut(falling: np.ndarray, tokens: int) -> list[int]:
    """How many rows each batch takes, of rows sorted from the longest."""
    sizes, start = [], 0
    while start < len(falling):
        size = min(tokens // max(int(falling[start]), 1), len(falling) - start)
        sizes.append(size)
        start += size
    return sizes
