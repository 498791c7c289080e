"""A worker's words, at every step, for the process that started it."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from transformers import TrainerCallback, TrainerState

from swift import watch

REMEMBERED = 50  # steps


class Heartbeat(TrainerCallback):
    """Says that this worker gets on: at the begin and end of each step, and after each batch of it or of an evaluation.

    Args:
        said: seconds after which a step without end is a hang, 0 never, None by the steps so far.
    """

    def __init__(self, said: int | None) -> None:
        self.said, self.step = said, 0
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._began: float | None = None

    def _beat(self) -> None:
        watch.beat(os.environ, self.step, watch.patience(self.said, median(self._seconds) if self._seconds else None))

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """A step begins."""
        self.step, self._began = state.global_step + 1, time.monotonic()
        self._beat()

    def on_substep_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """One of its batches is done."""
        self._beat()

    def on_prediction_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """A batch is evaluated."""
        self._beat()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """The step is done; the batches of the next one are waited for."""
        if self._began is not None:
            self._seconds.append(time.monotonic() - self._began)
        self.step = state.global_step + 1
        self._beat()

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Nothing more is to come."""
        watch.beat(os.environ, self.step, None)

    def tick(self) -> None:
        """Rows are being made for the next batch."""
        if self._began is not None:
            self._beat()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Expect nothing of this worker inside the block, such as while it saves."""
        watch.beat(os.environ, self.step, None)
        try:
            yield
        finally:
            self._beat()
