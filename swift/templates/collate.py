"""Rows of different lengths as one batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from swift.errors import ConfigError

MASKED = -100
OF_ROWS = ("dataset_number",)  # columns with one number for a whole row
PADS = {"labels": MASKED, "loss_scale": 0.0, "position_ids": 0}


def data_collator(
    batch: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, padding_to: int | None = None
) -> dict[str, torch.Tensor]:
    """Rows padded on the right to the longest: `input_ids_BT`, `attention_mask_BT`, `labels_BT`, `loss_scale_BT`.

    Packs have `position_ids_BT` instead of an attention mask: from positions that begin again a model knows where the
    next row begins, but it looks at them only where there is no mask. Padding is at position 0, each token alone.

    Args:
        batch: rows with `input_ids`, and `labels` and `position_ids` if the first row has them, and `loss_scale` if any
            row has it: in the others every label weighs 1; `dataset_number` is a number for each row. Other columns
            are left out.
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
    pads = {"input_ids": tokenizer.pad_token_id, **PADS}
    names = [name for name in pads if batch[0].get(name) is not None]
    padded = {name: torch.from_numpy(_padded([row[name] for row in batch], width, pads[name])) for name in names}
    padded |= {
        name: torch.tensor([row[name] for row in batch]) for name in OF_ROWS if all(name in row for row in batch)
    }
    if "position_ids" not in names:
        lengths_B1 = torch.tensor(lengths)[:, None]
        padded["attention_mask"] = (torch.arange(width) < lengths_B1).long()
    return padded


def _padded(rows: Sequence[Any], width: int, pad: float) -> np.ndarray:
    found = np.full((len(rows), width), pad, np.float32 if isinstance(pad, float) else np.int64)
    for k, row in enumerate(rows):
        found[k, : len(row)] = row
    return found


def scale_of(row: Mapping[str, Any]) -> Sequence[float]:
    """The weight of every token of a row: what it says, else 1 for what is learnt and 0 for what is not."""
    said = row.get("loss_scale")
    return [float(label != MASKED) for label in row["labels"]] if said is None else said


class DataCollatorForChatGLM:
    """Rows with labels as a batch, as examples for ChatGLM do it: the longest first, no attention mask.

    Args:
        pad_token_id: fills `input_ids` on the right.
        max_length: what is longer is cut on the right.
        ignore_label_id: fills `labels`.
    """

    def __init__(self, pad_token_id: int, max_length: int = 2048, ignore_label_id: int = MASKED) -> None:
        self.pad_token_id, self.max_length, self.ignore_label_id = pad_token_id, max_length, ignore_label_id

    def __call__(self, batch_data: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, torch.Tensor]:
        """`input_ids_BT` and `labels_BT` of rows that have both."""
        rows = sorted(batch_data, key=lambda row: -len(row["input_ids"]))
        longest = len(rows[0]["input_ids"])

        def filled(name: str, value: int) -> torch.Tensor:
            padded = [[*row[name], *[value] * (longest - len(row["input_ids"]))][: self.max_length] for row in rows]
            return torch.tensor(padded, dtype=torch.long)

        return {"input_ids": filled("input_ids", self.pad_token_id), "labels": filled("labels", self.ignore_label_id)}
