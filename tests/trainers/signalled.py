"""A run to which a signal comes: `signalled.py OUT SIGNAL RANK STEP [RESUME [LATE]]`; what is left lies in OUT/run.

With LATE its processes agree on a signal as they do on GPUs.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import save_file
from transformers import TrainerCallback

from swift import dist
from swift.trainers import Seq2SeqTrainer
from tests.trainers.rows import Rows, lora, trainer_of, weights

SAID: dict[str, Any] = {
    "per_device_train_batch_size": 2, "max_steps": 7, "eval_strategy": "steps", "eval_steps": 3,
    "save_strategy": "steps", "save_steps": 3, "save_total_limit": None, "per_device_eval_batch_size": 2,
}  # fmt: skip


class Kick(TrainerCallback):
    """Sends this process a signal `times` times at a moment of its run."""

    def __init__(self, number: int, step: int, moment: str = "train", times: int = 1) -> None:
        self.number, self.step, self.moment, self.times, self.seen = number, step, moment, times, 0

    def kick(self) -> None:
        for _ in range(self.times):
            self.seen += 1
            os.kill(os.getpid(), self.number)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.moment == "train" and state.global_step == self.step - 1:
            self.kick()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.moment == "evaluation" and state.global_step == self.step and not self.seen:
            self.kick()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.moment == "log" and state.global_step == self.step and not self.seen:
            self.kick()


def trainer(out: Path, *callbacks: TrainerCallback, **said: Any) -> Seq2SeqTrainer:
    model = lora(dropout=0.2)
    return trainer_of(model, out, train=Rows(21), val=Rows(7, seed=5), callbacks=list(callbacks), **{**SAID, **said})


def main(out: str, number: str, rank: str, step: str, resume: str = "", late: str = "") -> None:
    kicks = [Kick(int(number), int(step))] if int(rank) == dist.rank() and int(number) else []
    run = trainer(Path(out) / "run", *kicks)
    run.stops.reads_late = bool(late)
    run.train(resume_from_checkpoint=resume or None)
    if dist.is_main():
        save_file({k: v.contiguous() for k, v in weights(run.model).items()}, Path(out) / "end.safetensors")
    if dist.world_size() > 1:
        torch.distributed.barrier()


if __name__ == "__main__":
    code = 0
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stderr.flush()
    os._exit(code)  # without the teardown, in which gloo may abort
