"""Signals that stop a run: it saves after the step at hand, every process at the same one, and ends with 143 or 130."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
import torch.distributed
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift import dist
from swift.trainers.verdicts import Later

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
TERMINATED = 143


class StopEvaluation(Exception):
    """An evaluation is given up because the run is to stop."""


class Stops(TrainerCallback):
    """Listens to SIGTERM, SIGINT and SIGUSR1 while a run trains.

    The first one makes the run save after its step; an evaluation is given up for that. A second SIGINT ends the run at
    once. What a scheduler repeats changes nothing.

    Processes on GPUs agree on a step's signal while the next step computes, and save after that one: so none waits.
    """

    reads_late: bool | None = None  # whether the processes agree one step later; None is on GPUs

    def __init__(self) -> None:
        self._coming = Later()
        self.number = 0  # of the signal that came to this process, 0 before one did
        self.due = 0  # of the signal that all processes know of
        self.active = False
        self._owner = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals inside the block; outside the main thread they cannot be taken."""
        in_main = threading.current_thread() is threading.main_thread()
        self.number, self.due, self.active, self._owner = 0, 0, True, os.getpid()
        self._coming = Later()
        before = {number: signal.signal(number, self._take) for number in SIGNALS if in_main}
        try:
            yield
        finally:
            self.active = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a checkpoint when a signal came to any process."""
        group = dist.world_size() > 1 and torch.distributed.is_initialized()
        late = torch.cuda.is_available() if self.reads_late is None else self.reads_late
        if self._agreed_before() if group and late else self.agree():
            control.should_save = True
        return control

    def agree(self) -> bool:
        """Whether a signal came to any process of a run that trains; all of them ask at the same time."""
        if not self.active:
            return False
        self.due = self.number
        if dist.world_size() > 1 and torch.distributed.is_initialized():
            self.due = int(self._highest())
        return self.due > 0

    def _agreed_before(self) -> bool:
        """Whether a signal had come to any process when this was last asked; all of them ask at the same time."""
        if not self.active:
            return False
        self.due = max(self._coming.read() or [0])
        self._coming.send(self._highest())
        return self.due > 0

    def _highest(self) -> Tensor:
        """The highest number that came to any process."""
        gpu = torch.distributed.get_backend() == "nccl"
        box = torch.full((1,), self.number, device="cuda" if gpu else "cpu")
        torch.distributed.all_reduce(box, torch.distributed.ReduceOp.MAX)
        return box

    def end(self) -> NoReturn:
        """End the run after its checkpoint is written.

        Raises:
            KeyboardInterrupt: it was SIGINT.
            SystemExit: it was another signal.
        """
        if self.due == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(TERMINATED)

    def _take(self, number: int, frame: object) -> None:
        if os.getpid() != self._owner:  # a process that makes batches inherits this; ours will end it
            if number == signal.SIGTERM:
                os._exit(TERMINATED)
            return
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whoever started this process says "at once" like that
        if not self.number:
            self.number = number
            if dist.is_main():
                more = "; once more ends it now" if number == signal.SIGINT else ""
                os.write(2, f"{signal.Signals(number).name}: the run is saved after this step{more}\n".encode())
