"""Rows of different lengths as one batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from swift.errors import ConfigError

MASKED = -100
PADS = {"labels": MASKED, "loss_scale": 0.0}


def data_collator(
    batch: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, padding_to: int | None = None
) -> dict[str, torch.Tensor]:
    """Rows padded on the right to the longest: `input_ids_BT`, `attention_mask_BT`, `labels_BT`, `loss_scale_BT`.

    Args:
        batch: rows with `input_ids`, and `labels` if the first row has them, and `loss_scale` if any row has it: in
            the others every label weighs 1. Other columns are left out.
        tokenizer: says the id to pad with.
        padding_to: a length that the batch has at least; None is that of the longest row.

    Raises:
        ConfigError: the tokenizer has no padding token.
    """
    if tokenizer.pad_token_id is None:
        raise ConfigError(
            "CONFIG-02",
            "the tokenizer has no padding token",
            why="rows of different lengths cannot be one batch",
            fix="tokenizer.pad_token = tokenizer.eos_token",
        )
    lengths = [len(row["input_ids"]) for row in batch]
    width = max(*lengths, padding_to or 0) if batch else 0
    if any(row.get("loss_scale") is not None for row in batch):
        batch = [{**row, "loss_scale": scale_of(row)} for row in batch]
    columns = ["input_ids", *(name for name in PADS if batch[0].get(name) is not None)]
    pads = {"input_ids": tokenizer.pad_token_id, **PADS}
    padded = {
        name: torch.tensor([[*row[name], *[pads[name]] * (width - len(row[name]))] for row in batch])
        for name in columns
    }
    padded["attention_mask"] = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    return padded


def scale_of(row: Mapping[str, Any]) -> list[float]:
    """The weight of every token of a row: what it says, else 1 for what is learnt and 0 for what is not."""
    said = row.get("loss_scale")
    return [float(label != MASKED) for label in row["labels"]] if said is None else list(said)
