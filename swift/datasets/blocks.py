"""Encoded rows side by side in flat arrays: small in memory, and read from a file as they lie there."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Protocol

import numpy as np

COLUMNS = {"input_ids": np.int32, "labels": np.int32, "loss_scale": np.float32, "rejected": np.int8}
"""What a row may have, and how it is kept; `rejected` is 1 at the tokens of an answer to turn away from."""


@dataclass(frozen=True)
class Block:
    """Some rows: all values of each column, and where every row ends.

    Attributes:
        offsets: where row k begins in each column, and at the end their length.
        columns: `input_ids` and `labels`, `loss_scale` where some row weighs other than 0 and 1, and `rejected` where
            rows are of preferences.
    """

    offsets: np.ndarray
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> dict[str, np.ndarray]:
        """The columns of one row."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return {name: values[part] for name, values in self.columns.items()}


def block_of(rows: Sequence[Mapping[str, Any]]) -> Block:
    """Rows, as a template encodes them, side by side; a row that has no weights of its own has 1 where it is learnt."""
    ends = list(accumulate(len(row["input_ids"]) for row in rows))
    size = ends[-1] if ends else 0
    columns = {
        name: np.fromiter(chain.from_iterable(row[name] for row in rows), COLUMNS[name], size)
        for name in ("input_ids", "labels")
    }
    if any("loss_scale" in row for row in rows):
        columns["loss_scale"] = np.fromiter(chain.from_iterable(map(_scales, rows)), np.float32, size)
    if rows and "rejected" in rows[0]:
        columns["rejected"] = np.fromiter(chain.from_iterable(row["rejected"] for row in rows), np.int8, size)
    return Block(np.array([0, *ends], np.int64), columns)


def _scales(row: Mapping[str, Any]) -> list[float]:
    return row.get("loss_scale") or [float(label >= 0) for label in row["labels"]]


class Keep(Protocol):
    """Where blocks are kept as they come."""

    def add(self, block: Block) -> None:
        """Keep one more."""
        ...

    def blocks(self) -> Sequence[Block]:
        """All of them; nothing is added after this."""
        ...


class InMemory:
    """Keeps blocks as they are."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []

    def add(self, block: Block) -> None:
        """Keep one more."""
        self._blocks.append(block)

    def blocks(self) -> Sequence[Block]:
        """All of them."""
        return self._blocks


class Blocks:
    """Blocks as one sequence of rows."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = list(blocks)
        self._ends = list(accumulate(map(len, self.blocks)))
        self.weighs = any("loss_scale" in block.columns for block in self.blocks)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        found = bisect_right(self._ends, index)
        row = self.blocks[found].row(index - (self._ends[found - 1] if found else 0))
        if self.weighs and "loss_scale" not in row:
            row["loss_scale"] = (row["labels"] >= 0).astype(np.float32)
        return row

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every row."""
        return np.concatenate([np.diff(block.offsets) for block in self.blocks] or [np.zeros(0, np.int64)])

    @property
    def supervised(self) -> np.ndarray:
        """Learnt tokens of every row."""
        counts = [_counts(block) for block in self.blocks]
        return np.concatenate(counts or [np.zeros(0, np.int64)])


def _counts(block: Block) -> np.ndarray:
    learnt = np.concatenate([[0], np.cumsum(block.columns["labels"] >= 0)])
    return learnt[block.offsets[1:]] - learnt[block.offsets[:-1]]
