"""Rows one after another in one row of a batch, and whether a model keeps them apart."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from swift.datasets.pack import join
from swift.errors import ConfigError
from swift.trainers import saving

BEFORE, OWN = 16, 8  # tokens of the row before, and of the row that is looked at
TOLERANCE = 1e-5  # of the largest logit, in float32; coarser types get their own


def end_to_end(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """A batch without padding, its rows one after another: `input_ids_1T`, `labels_1T`, `position_ids_1T`.

    Also `loss_scale_1T` where any row has it.
    """
    return {name: torch.from_numpy(values)[None] for name, values in join(rows).items()}


def row_of_token(position_ids_1T: Tensor) -> Tensor:
    """Which row of a batch without padding each token is of, from 0; shapes: position_ids_1T -> T."""
    return (position_ids_1T[0] == 0).cumsum(0) - 1


def check_rows_apart(model: nn.Module, option: str = "packing") -> None:
    """Try it out: a row must come out the same whatever stands before it in a pack, and as it does alone.

    Args:
        model: as it trains.
        option: what puts rows together, for the message.

    Raises:
        ConfigError: rows in a pack would see each other.
    """
    reason = _reason(model)
    if reason is not None:
        name = type(saving.base_of(model)).__name__
        raise ConfigError(
            "CONFIG-02",
            f"--{option}: {name} does not keep the rows of a pack apart",
            why=reason,
            fix=f"--{option} false",
        )


def _reason(model: nn.Module) -> str | None:
    """Why rows see each other, None when they do not."""
    base = saving.base_of(model)
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return "it takes no positions, by which it could tell them"
    one, other, alone = _logits(model, base)
    tolerance = max(TOLERANCE, 4 * torch.finfo(one.dtype).eps) * alone.abs().max()
    if (one - other).abs().max() > tolerance:
        return "what stands before a row changes it: attention or a state goes on from row to row"
    if (one - alone).abs().max() > tolerance:
        return "a row is another one than alone: positions do not begin again"
    return None


def _logits(model: nn.Module, base: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a row that stands after one row, after another, and alone."""
    embedding = base.get_input_embeddings().weight  # type: ignore[operator]
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(len(embedding), (2 * BEFORE + OWN,), generator=draw).to(embedding.device)
    first, second, own = ids.split([BEFORE, BEFORE, OWN])
    training = model.training
    model.eval()
    try:
        found = [_last(model, before, own) for before in (first, second, first[:0])]
    finally:
        model.train(training)
    return found[0], found[1], found[2]


@torch.no_grad()
def _last(model: nn.Module, before: Tensor, own: Tensor) -> Tensor:
    """Logits of `own`, in a pack after the row `before`."""
    positions = torch.cat([torch.arange(len(before)), torch.arange(len(own))]).to(own.device)
    ids = torch.cat([before, own])
    logits = model(input_ids=ids[None], position_ids=positions[None], use_cache=False).logits
    return logits[0, -len(own) :]
