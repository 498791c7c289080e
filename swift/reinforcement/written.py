"""Answers of a step, batch by batch: prompts before they are answered, and answers kept in a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from swift.datasets.prompts import Prompt

Batch = dict[str, Any]
FILE = "answers-{}.pt"
"""What a checkpoint in the middle of several steps on the same answers has of each process."""


def collate(rows: Sequence[Prompt]) -> Batch:
    """Prompts as a batch; its answers come when its step begins."""
    return {"prompts": list(rows), "weight": torch.ones(len(rows))}


def save(written: Sequence[Batch], directory: Path, process: int) -> None:
    """Write the answers of a process into a checkpoint."""
    torch.save(list(written), directory / FILE.format(process))


def load(directory: Path, process: int) -> list[Batch] | None:
    """The answers that `save` wrote; None where there are none."""
    path = directory / FILE.format(process)
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
