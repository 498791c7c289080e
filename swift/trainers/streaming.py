"""Training on a stream of rows: what of it a checkpoint remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift import storage
from swift.datasets.stream import Stream
from swift.errors import DataError

STATE_FILE = "data_state.json"


class FollowStream(TrainerCallback):
    """Tells the stream what was trained on, so that its account is that of the rows that were learnt."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After every step: the epoch is the share of the steps, also after going on from a checkpoint."""
        self.stream.settle(examples_of(args, state.global_step, self.stream.begun))
        state.epoch = state.global_step / state.max_steps


def examples_of(args: TrainingArguments, step: int, begun: tuple[int, int]) -> int:
    """How many examples of a stream all processes together have taken after a step.

    Args:
        args: the arguments of the run.
        step: the step.
        begun: the step with which this run began, and how many they were then: batches may have been others before.
    """
    first, examples = begun
    return examples + (step - first) * args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def write_state(stream: Stream, examples: int, directory: Path) -> None:
    """Write where the stream stands into a checkpoint."""
    storage.write_json(directory / STATE_FILE, stream.to_state(examples))


def go_on(stream: Stream, directory: Path) -> None:
    """Let the stream go on from where a checkpoint left it.

    Raises:
        DataError: the checkpoint is not that of a stream.
        ConfigError: it is that of another one.
    """
    try:
        state = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(
            "CKPT-01",
            f"{directory} has no readable {STATE_FILE}: it was not trained with --streaming",
            fix="--ignore_data_skip starts the stream anew",
        ) from None
    stream.from_state(state)
    stream.begun = int(storage.read_manifest(directory)["step"]), state["examples"]


def without_draws(loader: DataLoader) -> DataLoader:
    """The loader, drawing from the random state of nobody else when it begins: going on begins it once more."""
    for each in (loader, getattr(loader, "base_dataloader", None)):
        if each is not None:
            each.generator = torch.Generator()
    return loader
