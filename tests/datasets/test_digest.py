"""The digest of rows is that of what is learnt, not of how it is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from swift.datasets.blocks import Blocks, block_of
from swift.datasets.digest import digest_of_rows
from swift.datasets.encode import EncodedDataset
from swift.datasets.pack import PackedDataset

ROWS: list[dict[str, Any]] = [
    {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
    {"input_ids": [4, 5], "labels": [-100, 5]},
    {"input_ids": [6, 7, 8, 9], "labels": [-100, -100, 8, 9]},
]


def encoded(*cut: list[dict[str, Any]], order: tuple[int, ...] = (0, 1, 2)) -> EncodedDataset:
    return EncodedDataset(Blocks([block_of(rows) for rows in cut]), np.array(order))


def test_how_rows_are_kept_does_not_count() -> None:
    weighed = [{**ROWS[2], "loss_scale": [0.0, 0.0, 1.0, 2.0]}]
    assert digest_of_rows(encoded(ROWS)) == digest_of_rows(encoded(ROWS[:1], ROWS[1:]))
    assert digest_of_rows(encoded([*ROWS[:2], *weighed])) == digest_of_rows(encoded(ROWS[:2], weighed))


def test_everything_that_is_learnt_counts() -> None:
    other = [{**ROWS[0], "labels": [1, 2, 3]}, *ROWS[1:]]
    weighed = [{**ROWS[0], "loss_scale": [0.0, 1.0, 0.5]}, *ROWS[1:]]
    cut = [{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [3, 4, 5], "labels": [3, -100, 5]}, ROWS[2]]
    kinds = [encoded(ROWS), encoded(ROWS, order=(1, 0, 2)), encoded(other), encoded(weighed), encoded(cut)]
    packed = [PackedDataset(encoded(ROWS), size) for size in (4, 9)]
    found = [digest_of_rows(each) for each in (*kinds, *packed)]
    assert len(set(found)) == len(found)
    assert None not in found


def test_rows_of_somebody_else_are_not_read() -> None:
    class Rows(torch.utils.data.Dataset):
        def __getitem__(self, index: int) -> Any:
            raise AssertionError

    assert digest_of_rows(Rows()) is None
