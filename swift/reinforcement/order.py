"""In which order prompts are drawn: those of a step once, or as often as steps are made with their answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from swift.errors import ConfigError


class Windows(Sampler[int]):
    """Rows in an order of the seed and the epoch; with several steps for each answer, those of a step come again.

    Args:
        size: rows there are.
        window: rows of a step, of all processes.
        times: how often they come.
        seed: of the order.

    Raises:
        ConfigError: there are fewer rows than a step has.
    """

    def __init__(self, size: int, window: int, times: int, seed: int) -> None:
        self.size, self.window, self.times, self.seed, self.epoch = size, window, times, seed, 0
        if times > 1 and size < window:
            what = f"--num_iterations {times} needs whole steps of {window} prompts, and there are {size}"
            raise ConfigError("CONFIG-02", what, fix="a smaller --gradient_accumulation_steps, or more prompts")

    @property
    def left_out(self) -> int:
        """Rows of each epoch that fill no step."""
        return self.size % self.window if self.times > 1 else 0

    def __len__(self) -> int:
        return (self.size - self.left_out) * self.times

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        if self.times == 1:
            yield from order.tolist()
            return
        whole = order[: self.size - self.left_out].reshape(-1, self.window)
        yield from np.repeat(whole, self.times, axis=0).ravel().tolist()

    def set_epoch(self, epoch: int) -> None:
        """The order of the next pass."""
        self.epoch = epoch
