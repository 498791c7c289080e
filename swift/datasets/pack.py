"""Rows put together into packs of a fixed size: whole rows only, and hardly any room left.

Best-fit decreasing: from the longest row to the shortest, each goes into the pack in which it leaves the least room,
and begins a new one where none has room. Only lengths decide, so the same rows always make the same packs.

Paper: Worst-Case Performance Bounds for Simple One-Dimensional Packing Algorithms, https://doi.org/10.1137/0203025
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from swift.datasets.encode import EncodedDataset
from swift.datasets.judge import IGNORED
from swift.errors import ConfigError

KINDS = {"input_ids": np.int64, "labels": np.int64, "loss_scale": np.float32}
Packed = dict[str, np.ndarray]


def best_fit(lengths: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
    """The pack of every row; packs are numbered in the order of their first rows.

    Args:
        lengths: of the rows, none above `size`.
        size: how much a pack holds.

    Raises:
        ConfigError: a row is longer than a pack.
    """
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) and lengths.max() > size:
        raise ConfigError("CONFIG-02", f"a row of {lengths.max()} tokens does not fit a pack of {size}")
    found, packs = np.zeros(len(lengths), np.int64), 0
    with_room: defaultdict[int, list[int]] = defaultdict(list)
    rooms = 0  # bit r is on where some pack has room for exactly r
    order = np.argsort(-lengths, kind="stable")
    for k, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            pack = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, pack, packs = size, packs, packs + 1
        found[k] = pack
        with_room[room - length].append(pack)
        rooms |= 1 << (room - length)
    _, first, which = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which]


def members(pack_of: np.ndarray) -> list[np.ndarray]:
    """The rows of every pack, in their order."""
    order = np.argsort(pack_of, kind="stable")
    return np.split(order, np.cumsum(np.bincount(pack_of))[:-1]) if len(order) else []


def join(rows: Sequence[Mapping[str, Any]]) -> Packed:
    """Rows one after another, with the position of each token in its row.

    A model that is given positions and no attention mask lets no row see another. The first label of a row is masked:
    the token before it is another row's.
    """
    lengths = [len(row["input_ids"]) for row in rows]
    starts = np.cumsum([0, *lengths[:-1]])
    names = ["input_ids", "labels", *["loss_scale"] * any(row.get("loss_scale") is not None for row in rows)]
    packed = {name: np.concatenate([_column(row, name) for row in rows]) for name in names}
    packed["labels"][starts] = IGNORED
    packed["position_ids"] = np.arange(sum(lengths)) - np.repeat(starts, lengths)
    return packed


def first_row(example: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first row of a pack; what is no pack is a row already."""
    if "position_ids" not in example:
        return example
    starts = np.flatnonzero(np.asarray(example["position_ids"]) == 0)
    end = int(starts[1]) if len(starts) > 1 else None
    return {name: list(values[:end]) for name, values in example.items() if name != "position_ids"}


def _column(row: Mapping[str, Any], name: str) -> np.ndarray:
    """The values of a row; where it does not weigh its tokens, those that are learnt weigh 1."""
    values = row.get(name)
    if values is None:
        values = np.asarray(row["labels"]) != IGNORED
    return np.asarray(values, KINDS[name])


class PackedDataset(Dataset[Packed]):
    """Packs as {input_ids, labels, position_ids}, and loss_scale where any row has it.

    Attributes:
        rows: what they are made of.
        size: how much a pack holds, in tokens.
        pack_of: the pack of each of `rows`.
        lengths: tokens of every pack.
    """

    def __init__(self, rows: EncodedDataset, size: int, pack_of: np.ndarray | None = None) -> None:
        self.rows, self.size = rows, size
        self.pack_of = best_fit(rows.lengths, size) if pack_of is None else pack_of
        self._members = members(self.pack_of)
        self.lengths: list[int] = np.bincount(self.pack_of, rows.lengths).astype(np.int64).tolist()

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Packed:
        return join([self.rows.columns(k) for k in self._members[index].tolist()])

    @property
    def num_supervised(self) -> int:
        """How many tokens of all rows are learnt."""
        return self.rows.num_supervised

    @property
    def fill(self) -> float:
        """The share of the packs' room that rows take."""
        return sum(self.lengths) / (self.size * len(self))

    def describe(self) -> str:
        """One line: how many rows became how many packs."""
        packs = "1 pack" if len(self) == 1 else f"{len(self):,} packs"
        return f"{len(self.rows):,} rows in {packs} of {self.size:,} tokens, {100 * self.fill:.2f} % filled"
