"""A plug-in that lets a chosen process fail at a chosen step: FAULT="kind rank step"; it does so once for a directory.

The kind `saving` kills inside the first save: before anything is written, or with a step k as the k-th file of it that
the process writes is to be made safe.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from swift import checkpoint, dist
from swift.trainers.callbacks import register_callback


def stand_still() -> None:
    """What a collator that never ends looks like from outside."""
    while True:
        time.sleep(1)


@register_callback("fault")
class Fault(TrainerCallback):
    """Kills, stops, holds or breaks its process as FAULT says."""

    def __init__(self) -> None:
        self.kind, rank, step = os.environ.get("FAULT", "none 0 0").split()
        self.rank, self.step = int(rank), int(step)
        self.written = 0
        if self.kind == "saving" and dist.rank() == self.rank:
            check, sync = checkpoint.check_finite, os.fsync
            checkpoint.check_finite = lambda *said: (check(*said), self.save_begins())[0]
            os.fsync = lambda handle: (self.file_is_written(), sync(handle))[1]

    def save_begins(self) -> None:
        """Nothing of it is on the disk."""
        self.written = 1
        if not self.step:
            self.strike()

    def file_is_written(self) -> None:
        """It may not be on the disk yet."""
        self.written += self.written > 0
        if self.written - 1 == self.step > 0:
            self.strike()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step begins."""
        if dist.rank() == self.rank and state.global_step + 1 == self.step and self.kind != "saving":
            self.strike()

    def strike(self) -> None:
        """Do it, the first time."""
        mark = Path(os.environ.get("FAULT_MARK", "struck"))
        if mark.exists():
            return
        mark.write_text(str(os.getpid()))
        if self.kind in ("kill", "saving"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.kind == "hold":
            stand_still()
        raise ZeroDivisionError("the fault of this process")
