"""Rows of several texts as one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from swift.datasets.groups import Group


def pad(texts: Sequence[np.ndarray], pad_id: int) -> dict[str, Tensor]:
    """Texts padded on the right: `input_ids_ST` and `attention_mask_ST`."""
    lengths = torch.tensor([len(ids) for ids in texts])
    ids_ST = torch.full((len(texts), int(lengths.max())), pad_id)
    for k, ids in enumerate(texts):
        ids_ST[k, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
    return {"input_ids": ids_ST, "attention_mask": (torch.arange(ids_ST.shape[1]) < lengths[:, None]).long()}


def collate(rows: Sequence[Group], pad_id: int) -> dict[str, Tensor]:
    """All texts of the rows, one row after another.

    Also `counts_R`, how many each row has, `weights_R`, which are 1, and `labels`, the numbers of all rows.
    """
    return {
        **pad([ids for row in rows for ids in row.texts], pad_id),
        "counts": torch.tensor([len(row.texts) for row in rows]),
        "weights": torch.ones(len(rows)),
        "labels": torch.from_numpy(np.concatenate([row.numbers for row in rows])),
    }
