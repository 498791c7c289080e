"""What a run counts between two log lines: sums over tokens, and the time that training took."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator

from swift.trainers.loss import Sums

GIB = 2**30


class Tally:
    """Running sums over batches, kept on the device so that adding to them waits for nothing.

    Args:
        device: where they are.
        datasets: of how many data sets the padding is told apart.
    """

    NAMES = ("loss", "tokens", "correct", "rows", "correct_rows", "weight", "inputs", "padding")

    def __init__(self, device: torch.device, datasets: int = 0) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(len(self.NAMES) + datasets, dtype=wide, device=device)
        self.datasets = datasets

    def add(self, sums: Sums, inputs: Mapping[str, Any], numbers_B: torch.Tensor | None = None) -> None:
        """Add a batch: its sums, how many tokens went into the model, and how much padding with them.

        Args:
            sums: of the loss.
            inputs: of the model.
            numbers_B: the data set of each row; None where there is one, or rows of several are one row.
        """
        count = count_tokens(inputs)
        padding = inputs["input_ids"].numel() - count
        new = [sums.loss.detach(), sums.tokens, sums.correct, sums.rows, sums.correct_rows, sums.weight, count, padding]
        self.sums[: len(new)] += torch.stack([value.to(self.sums) for value in new])
        if self.datasets == 1 and numbers_B is None:
            self.sums[-1] += padding.to(self.sums)
        elif self.datasets and numbers_B is not None and "attention_mask" in inputs:
            mask_BT = inputs["attention_mask"]
            padding_B = mask_BT.shape[1] - mask_BT.sum(1)
            self.sums[len(new) :].index_add_(0, numbers_B, padding_B.to(self.sums))

    @property
    def loss(self) -> torch.Tensor:
        """The summed loss of this process."""
        return self.sums[0]

    def reduced(self, accelerator: Accelerator, copies: int = 1) -> dict[str, Any]:
        """The sums over all processes, by name; `paddings` are those of each data set.

        Args:
            accelerator: knows the processes.
            copies: how many of them see the same batch.
        """
        sums: Any = accelerator.reduce(self.sums, "sum") if accelerator.num_processes > 1 else self.sums
        sums = sums / copies
        own = len(self.NAMES)
        return {**dict(zip(self.NAMES, sums[:own].tolist(), strict=True)), "paddings": sums[own:].tolist()}


def count_tokens(inputs: Mapping[str, Any]) -> torch.Tensor:
    """How many tokens of a batch are not padding.

    In packs, which have no mask, that is at position 0, again and again up to the end of the row.
    """
    mask, positions_BT = inputs.get("attention_mask"), inputs.get("position_ids")
    if mask is not None:
        return mask.sum()
    if positions_BT is None:
        return inputs["input_ids"].new_full((), inputs["input_ids"].numel())
    columns_T = torch.arange(1, positions_BT.shape[1] + 1, device=positions_BT.device)
    return (columns_T * (positions_BT > 0)).amax(dim=1).sum()


class Clock:
    """The seconds and steps since the last lap, without what was spent in pauses such as evaluation."""

    def __init__(self, step: int = 0) -> None:
        self.start, self.step, self.paused_seconds = time.monotonic(), step, 0.0

    def lap(self, step: int) -> tuple[float, int]:
        """Seconds and steps since the last lap; a new one begins."""
        seconds, steps = time.monotonic() - self.start - self.paused_seconds, step - self.step
        self.start, self.step, self.paused_seconds = time.monotonic(), step, 0.0
        return max(seconds, 1e-9), steps

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave the block's time out."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.paused_seconds += time.monotonic() - start


def memory_gib() -> float:
    """The most memory in use so far, in GiB: of the GPUs, else of the process."""
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())  # needs-cuda
        return sum(torch.cuda.max_memory_reserved(device) for device in devices) / GIB  # needs-cuda
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
