"""Texts cut into pieces that a model can take: no token is lost, and none is learnt twice.

What is learnt at a token is the next one, so every piece but the first begins with the last token of the piece before,
which it only reads. A row of n tokens makes one piece, or ceil((n - 1) / (size - 1)) where it is longer than `size`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from swift.datasets.blocks import COLUMNS
from swift.datasets.encode import EncodedDataset
from swift.datasets.judge import IGNORED

SPLIT = "split"
"""The truncation strategy of whose rows nothing is cut off."""
LEAST = 2
"""Tokens of the smallest piece: one to read and one to learn."""
Columns = dict[str, np.ndarray]


def count_pieces(lengths: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
    """How many pieces each row makes."""
    more = np.asarray(lengths, np.int64) - 1
    return np.maximum(-(-more // (size - 1)), 1)


def piece(row: Mapping[str, np.ndarray], start: int, size: int) -> Columns:
    """The piece of a row that begins at `start`."""
    found = {name: values[start : start + size] for name, values in row.items()}
    if start:
        found["labels"] = found["labels"].copy()
        found["labels"][0] = IGNORED
    return found


def cut(row: Mapping[str, np.ndarray], size: int | None) -> Iterator[Columns]:
    """The pieces of a row, in order; itself where there is no `size`."""
    length = len(row["input_ids"])
    if size is None or length <= size:
        yield dict(row)
        return
    for k in range(int(count_pieces([length], size)[0])):
        yield piece(row, k * (size - 1), size)


def as_arrays(row: Mapping[str, Any]) -> Columns:
    """An encoded row in little memory."""
    return {name: np.asarray(row[name], kind) for name, kind in COLUMNS.items() if row.get(name) is not None}


def end_to_end(rows: Sequence[Mapping[str, np.ndarray]]) -> Columns:
    """Rows as one, each right after the one before, which it sees."""
    weighs = any("loss_scale" in row for row in rows)
    names = [name for name in COLUMNS if name != "loss_scale" or weighs]
    return {name: np.concatenate([_column(row, name) for row in rows]) for name in names}


def _column(row: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The values of a row; where it does not weigh its tokens, those that are learnt weigh 1."""
    return (row["labels"] != IGNORED).astype(np.float32) if name not in row else row[name]


class Pieces(EncodedDataset):
    """Encoded rows in pieces, those of a row one after another.

    Args:
        whole: the rows.
        size: tokens of a piece, at most.
    """

    def __init__(self, whole: EncodedDataset, size: int) -> None:
        super().__init__(whole.rows, whole.order)
        self.whole, self.size = whole, size
        lengths = np.asarray(whole.lengths, np.int64)
        counts = count_pieces(lengths, size)
        self._row = np.repeat(np.arange(len(lengths)), counts)
        self.dataset_names = whole.dataset_names
        self.numbers = None if whole.numbers is None else whole.numbers[self._row]
        within = np.arange(len(self._row)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._start = within * (size - 1)
        self.lengths = np.minimum(lengths[self._row] - self._start, size).tolist()

    def __len__(self) -> int:
        return len(self._row)

    def columns(self, index: int) -> Columns:
        """A piece as arrays."""
        return piece(self.whole.columns(int(self._row[index])), int(self._start[index]), self.size)


class Joined(Dataset[Columns]):
    """All rows as one long text, in pieces of `size` tokens: a row goes on where the piece before it ends.

    Args:
        whole: the rows, each with the end of its text.
        size: tokens of every piece but the last.

    Attributes:
        lengths: tokens of every piece.
    """

    def __init__(self, whole: EncodedDataset, size: int) -> None:
        self.whole, self.size = whole, size
        self._ends = np.cumsum(np.asarray(whole.lengths, np.int64))
        total = int(self._ends[-1])
        starts = np.arange(int(count_pieces([total], size)[0])) * (size - 1)
        self.lengths: list[int] = np.minimum(total - starts, size).tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def num_supervised(self) -> int:
        """How many tokens of all rows are learnt."""
        return self.whole.num_supervised

    def __getitem__(self, index: int) -> Columns:
        start = index * (self.size - 1)
        end = start + self.lengths[index]
        first, last = np.searchsorted(self._ends, [start, end - 1], side="right").tolist()
        before = int(self._ends[first - 1]) if first else 0
        around = end_to_end([self.whole.columns(k) for k in range(first, last + 1)])
        found = {name: values[start - before : end - before].copy() for name, values in around.items()}
        if start:
            found["labels"][0] = IGNORED
        return found
