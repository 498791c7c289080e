"""Training rows for new tokens in a table whose other rows stay as they are."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift.models.room import tables


class OldRows(TrainerCallback):
    """Thaws the rows `ids` of an embedding and a head that are frozen, and holds their other rows to the bit.

    The others get no gradient; weight decay moves them all the same, so they are put back after every step. Tables that
    train as a whole are left alone.
    """

    def __init__(self, model: nn.Module, ids: Sequence[int]) -> None:
        self._kept: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for weight_VD in tables(model):
            if ids and not weight_VD.requires_grad:
                is_new_V = torch.zeros(len(weight_VD), dtype=torch.bool, device=weight_VD.device)
                is_new_V[list(ids)] = True
                weight_VD.requires_grad_(True)
                weight_VD.register_hook(functools.partial(torch.mul, is_new_V[:, None]))
                self._kept.append((weight_VD, ~is_new_V, weight_VD.detach()[~is_new_V].clone()))

    @torch.no_grad()
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the other rows back."""
        for weight_VD, is_old_V, old in self._kept:
            weight_VD[is_old_V] = old.to(weight_VD)
