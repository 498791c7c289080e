"""Rows that are only asked: prompts as tokens, with whatever else their rows say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from swift.datasets.convert import FORMATS

PROMPT_FORMATS = tuple(
    replace(known, needs=known.asks, keeps=True)
    for known in FORMATS
    if known.name not in ("text", "multiple choice", "multiple choice in columns")
)
"""In the order in which they are tried."""


@dataclass(frozen=True)
class Prompt:
    """One row.

    Attributes:
        ids: the tokens up to where the answer begins.
        messages: the same as roles and contents.
        columns: the whole row, and its `solution`.
        where: file and line.
        number: which example of its data set it is.
    """

    ids: np.ndarray
    messages: list[dict[str, Any]]
    columns: Mapping[str, Any]
    where: str
    number: int = 0


class Prompts(Dataset[Prompt]):
    """Prompts; one that is drawn twice is stored once.

    Attributes:
        rows: the different ones.
        order: which of them each example is.
        lengths: tokens of every example.
        times: how many steps are made with the answers to each.
    """

    num_supervised = 0
    """Tokens that are learnt: the answers are not written yet."""

    def __init__(self, rows: Sequence[Prompt], order: Sequence[int]) -> None:
        self.rows, self.order = list(rows), list(order)
        self.lengths: list[int] = [len(self.rows[k].ids) for k in self.order]
        self.times = 1

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Prompt:
        return replace(self.rows[self.order[index]], number=index)

    @property
    def names(self) -> list[str]:
        """All columns that some row has."""
        return list(dict.fromkeys(name for row in self.rows for name in row.columns))

    def digest(self) -> bytes:
        """What tells these rows, in their order, from others."""
        each = [self._digest(row) for row in self.rows]
        return hashlib.sha256(b"".join(each[k] for k in self.order)).digest()

    def _digest(self, row: Prompt) -> bytes:
        told = json.dumps(dict(row.columns), sort_keys=True, default=repr).encode()
        return hashlib.blake2b(len(row.ids).to_bytes(8, "little") + row.ids.tobytes() + told, digest_size=16).digest()
