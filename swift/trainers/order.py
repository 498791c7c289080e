"""The order in which a run draws its rows, as one text."""

from __future__ import annotations

import copy
import hashlib
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

MOST_BATCHES = 100_000


class NoteOrder(TrainerCallback):
    """Keeps the digest of the order of the first epoch's rows; None for a stream, whose order is told otherwise."""

    def __init__(self) -> None:
        self.digest: str | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Look at the order without drawing from it."""
        self.digest = order_of(train_dataloader) if isinstance(train_dataloader, DataLoader) else None


def order_of(loader: DataLoader) -> str | None:
    """The SHA-256 of the row numbers of this process' first `MOST_BATCHES` batches; None where rows have none."""
    if loader.batch_sampler is None:
        return None
    seen = hashlib.sha256()
    kept = {id(loader.dataset): loader.dataset}  # a sampler may hold the rows, which are not to be copied
    for batch in islice(copy.deepcopy(loader.batch_sampler, kept), MOST_BATCHES):
        seen.update(f"{list(batch)}\n".encode())
    return seen.hexdigest()
