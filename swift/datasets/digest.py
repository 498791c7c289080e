"""One text that tells whether two runs learn the same rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from swift.datasets.encode import EncodedDataset
from swift.datasets.groups import Groups
from swift.datasets.lazy import LazyDataset
from swift.datasets.pack import PackedDataset
from swift.datasets.pieces import Joined, Pieces
from swift.datasets.prompts import Prompts

SIZE = 16


def digest_of_rows(dataset: Any) -> str | None:
    """The SHA-256 of all that the examples of `dataset` are made of, in order; None where that cannot be known."""
    seen = hashlib.sha256()
    if isinstance(dataset, PackedDataset):
        seen.update(dataset.pack_of.tobytes())
        seen.update(_size(dataset.rows))
        _add(seen, dataset.rows)
    elif isinstance(dataset, Joined):
        seen.update(b"joined" + str(dataset.size).encode())
        _add(seen, dataset.whole)
    elif isinstance(dataset, EncodedDataset):
        seen.update(_size(dataset))
        _add(seen, dataset)
    elif isinstance(dataset, Groups | Prompts):
        seen.update(dataset.digest())
    elif isinstance(dataset, LazyDataset):
        seen.update(dataset.order.tobytes())
        for row in dataset.rows:
            told = {name: value for name, value in row.items() if name != "where"}
            seen.update(json.dumps(told, sort_keys=True, default=repr).encode())
    else:
        return None
    return seen.hexdigest()


def _size(dataset: EncodedDataset) -> bytes:
    """What tells pieces of one size from those of another, and from whole rows."""
    return f"pieces of {dataset.size}".encode() if isinstance(dataset, Pieces) else b""


def _add(seen: Any, dataset: EncodedDataset) -> None:
    """Add the rows of every example, however they are kept: in what order, in how many blocks, with what others."""
    blocks, order = dataset.rows.blocks, dataset.order
    is_used = np.zeros(len(dataset.rows), bool)
    is_used[order] = True
    each = np.zeros((len(dataset.rows), SIZE), np.uint8)
    rows = ((block, k) for block in blocks for k in range(len(block)))
    for place, (block, k) in enumerate(rows):
        if is_used[place]:
            each[place] = np.frombuffer(_digest(block.row(k)), np.uint8)
    seen.update(each[order].tobytes())


def _digest(row: Mapping[str, np.ndarray]) -> bytes:
    """That of a row; weights that are not told are 1 where a token is learnt."""
    found = hashlib.blake2b(row["input_ids"].data, digest_size=SIZE)
    found.update(np.ascontiguousarray(row["labels"]).data)
    scales = row.get("loss_scale")
    if scales is not None and not np.array_equal(scales, row["labels"] >= 0):
        found.update(b"weighed")
        found.update(scales.data)
    if "rejected" in row:
        found.update(b"rejected")
        found.update(row["rejected"].data)
    return found.digest()
