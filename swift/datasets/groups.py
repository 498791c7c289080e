"""Rows of several texts that belong together: a text with its label, a query with documents, two answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Group:
    """One row.

    Attributes:
        texts: the ids of each text.
        numbers: what is learnt of them, as the head has it.
    """

    texts: tuple[np.ndarray, ...]
    numbers: np.ndarray


class Groups(Dataset[Group]):
    """Rows of texts; one that is drawn twice is stored once.

    Attributes:
        rows: the different rows.
        order: which of them each example is.
        lengths: tokens of the longest text of every example.
        names: those of labels, where they have names.
    """

    def __init__(self, rows: Sequence[Group], order: Sequence[int], names: Sequence[str] = ()) -> None:
        self.rows, self.order, self.names = list(rows), list(order), list(names)
        longest = [max(map(len, row.texts)) for row in self.rows]
        self.lengths: list[int] = [longest[k] for k in self.order]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Group:
        return self.rows[self.order[index]]

    def digest(self) -> bytes:
        """What tells these rows, in their order, from others."""
        seen = hashlib.sha256()
        each = [self._digest(row) for row in self.rows]
        for k in self.order:
            seen.update(each[k])
        return seen.digest()

    def _digest(self, row: Group) -> bytes:
        found = hashlib.blake2b(row.numbers.tobytes(), digest_size=16)
        for ids in row.texts:
            found.update(len(ids).to_bytes(8, "little"))
            found.update(ids.tobytes())
        return found.digest()
