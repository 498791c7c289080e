"""Rows of the embedding and the head for new tokens: made alike on every load, and trained without the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swift.errors import DataError

SPREAD = 0.02  # of the spread of the other rows: enough to tell new tokens apart


def make_room(model: Any, ids: Sequence[int], multiple: int | None = None, rows: int | None = None) -> None:
    """Give every new token a row: the mean of the old ones, each a little off it, always the same for the same model.

    Rows that a model has beyond its tokenizer are used before any is added. Nothing is done without `ids`.

    Args:
        model: a causal language model.
        ids: of the new tokens.
        multiple: the number of rows is made a multiple of it; None adds as few as are needed.
        rows: how many rows there have to be; None for what `ids` and `multiple` say.

    Raises:
        DataError: the model has more rows than `rows`.
    """
    if not ids:
        return
    old = model.get_input_embeddings().num_embeddings
    needed = max(old, max(ids) + 1)
    needed = rows or (math.ceil(needed / multiple) * multiple if multiple else needed)
    if needed < max(old, max(ids) + 1):
        raise DataError("CKPT-02", f"the model has {old} rows, and the checkpoint was trained with {needed}")
    if needed > old:
        model.resize_token_embeddings(needed, mean_resizing=False)
    first = min(*ids, old)
    for weight in tables(model):
        fill(weight, first, [*ids, *range(old, needed)])


def token_rows(model: Any, ids: Sequence[int]) -> dict[str, list[int]]:
    """The new rows by the path of the module that has them: the embedding, and the head unless they are one."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    modules = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    paths = {id(module): path for path, module in model.named_modules()}
    return {paths[id(module)]: sorted(ids) for module in modules}


def tables(model: Any) -> list[nn.Parameter]:
    """The embedding's weight and the head's, once where they are one."""
    found = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not found[0]:
        found.append(head.weight)
    return found


@torch.no_grad()
def fill(weight_VD: Tensor, first: int, rows: Sequence[int]) -> None:
    """Fill `rows` of a table by its rows before `first`: the mean of them, each a little off it."""
    old_VD = weight_VD[:first].float()
    mean_D, spread_D = old_VD.mean(0), old_VD.std(0)
    for row in sorted(set(rows)):
        noise_D = torch.randn(len(mean_D), generator=torch.Generator().manual_seed(row)).to(mean_D.device)
        weight_VD[row] = (mean_D + SPREAD * spread_D * noise_D).to(weight_VD.dtype)
