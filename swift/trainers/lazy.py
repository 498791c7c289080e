"""Training on rows that are encoded when they are drawn."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift.datasets.lazy import LazyDataset


class FollowLazy(TrainerCallback):
    """Enters in the account what was drawn, so that a bad row ends the run at the step that met it."""

    def __init__(self, rows: LazyDataset) -> None:
        self.rows = rows

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After every step."""
        self.rows.settle()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """At the end all processes know what each of them drew."""
        if args.world_size > 1:
            found = self.rows.found.to(args.device)
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
            self.rows.found.copy_(found)
        self.rows.settle()
