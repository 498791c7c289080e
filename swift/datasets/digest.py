"""One text that tells whether two runs learn the same rows."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from swift.datasets.encode import EncodedDataset, Inputs
from swift.datasets.lazy import LazyDataset
from swift.datasets.pack import PackedDataset


def digest_of_rows(dataset: Any) -> str | None:
    """The SHA-256 of all that the examples of `dataset` are made of, in order; None where that cannot be known."""
    seen = hashlib.sha256()
    if isinstance(dataset, PackedDataset):
        seen.update(dataset.pack_of.tobytes())
        _add(seen, dataset.rows)
    elif isinstance(dataset, EncodedDataset):
        _add(seen, dataset)
    elif isinstance(dataset, LazyDataset):
        seen.update(dataset.order.tobytes())
        for row in dataset.rows:
            told = {name: value for name, value in row.items() if name != "where"}
            seen.update(json.dumps(told, sort_keys=True, default=repr).encode())
    else:
        return None
    return seen.hexdigest()


def _add(seen: Any, dataset: EncodedDataset) -> None:
    """Add encoded rows, however they are cut into blocks, which a file may do otherwise than memory."""
    for numbers in (dataset.order, dataset.rows.lengths):
        seen.update(numbers.astype(np.int64).tobytes())
    for name in ("input_ids", "labels", "loss_scale") if dataset.rows.weighs else ("input_ids", "labels"):
        for block in dataset.rows.blocks:
            seen.update(np.ascontiguousarray(_column(block.columns, name)).data)


def _column(columns: Inputs, name: str) -> np.ndarray:
    """The values of a column; where weights are not told, those that are learnt weigh 1."""
    return columns[name] if name in columns else (columns["labels"] >= 0).astype(np.float32)
