"""A training loop whose host runs ahead of its device: between two lines of the log nothing is read from the device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NoReturn

import torch
from accelerate.data_loader import DataLoaderShard
from torch import Tensor, nn
from transformers.trainer_utils import TrainOutput

from swift import checkpoint
from swift.errors import DataError, InternalError
from swift.trainers.committing import CommittingTrainer
from swift.trainers.engines import DEEPSPEED
from swift.trainers.known import Known, sent
from swift.trainers.verdicts import Verdicts, takes_flag

LOSS, GRADIENT, TOKENS = "the loss", "the gradient", "the tokens to learn"


class AheadTrainer(CommittingTrainer):
    """Looks at batches while they are on the host, and at what became of a step one step later.

    On a CPU there is nothing to be ahead of: what became of a step is read before the optimiser takes it, as it is with
    weights in main memory, fp16, and optimisers that cannot be kept from a step on the device. DeepSpeed takes a step
    with its last backward pass: that is read right after, before anything is logged or saved.
    """

    places_batches = True  # whether it is this class that puts the batches of training on the device
    reads_late: bool | None = None  # whether a step is heard of one step later where that can be; None is on a GPU
    known: Known | None = None  # of the batch in hand

    _waiting: deque[Known] | tuple[()] = ()  # of the step's other batches
    _places_now = False
    _tokens: Tensor | None = None  # how many a step learns, over all processes, where the host does not know

    # Batches

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        with self._placing(kwargs["train_dataloader"]):
            super()._run_epoch(*args, **kwargs)

    @contextmanager
    def _placing(self, loader: Any) -> Iterator[None]:
        """Let `loader` leave its batches on the host inside the block."""
        if not self.places_batches or not isinstance(loader, DataLoaderShard):
            yield
            return
        device, loader.device, self._places_now = loader.device, None, True
        try:
            yield
        finally:
            loader.device, self._places_now, self._waiting = device, False, ()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The batches of an optimiser step, on the device, and what their tokens weigh."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._places_now:
            self._waiting = deque(Known.of(batch, device) for batch in batches)
            batches = [
                {name: sent(value, device) if isinstance(value, Tensor) else value for name, value in batch.items()}
                for batch in batches
            ]
        return batches, count

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """One batch."""
        self.known = self._waiting.popleft() if self._waiting else None
        try:
            return super().training_step(model, *args, **kwargs)
        finally:
            self.known = None

    # Steps that are not sound

    @cached_property
    def _verdicts(self) -> Verdicts | None:
        """What judges steps on the device; None where the host does."""
        late = self.args.device.type == "cuda" if self.reads_late is None else self.reads_late
        if not late or self.engine == DEEPSPEED or self.offloaded or self.accelerator.scaler is not None:
            return None
        return Verdicts(self._own_optimizer) if takes_flag(self._own_optimizer) else None

    def _judge(self, loss: Tensor, norm: Any) -> None:
        """Stop, or make sure of stopping, before the optimiser takes a step whose numbers are not finite.

        Args:
            loss: of the step, summed.
            norm: of the gradient; None where nothing follows from it.
        """
        self._hear()
        step, numbers = self.state.global_step + 1, {LOSS: loss, GRADIENT: norm}
        numbers = {what: value for what, value in numbers.items() if value is not None}
        if self._verdicts is None:
            for what, value in numbers.items():
                if not math.isfinite(value):
                    self._stop(what, step)
            return
        sound = {what: torch.isfinite(value) for what, value in numbers.items()}
        if self._tokens is not None:
            sound = {TOKENS: self._tokens > 0, **sound}
        self._verdicts.judge(step, sound)

    def _judge_tokens(self, count: Tensor) -> None:
        """Stop, or make sure of stopping, where all processes together have nothing to learn in a step."""
        if self._verdicts is not None:
            self._tokens = count
        elif count == 0:
            self._nothing_to_learn(self.state.global_step + 1)

    def _hear(self) -> None:
        """Stop if the last step that was judged was not sound."""
        wrong = None if self._verdicts is None else self._verdicts.read()
        if wrong is not None:
            step, what = wrong
            if what == TOKENS:
                self._nothing_to_learn(step)
            self._stop(what, step)

    def _stop(self, what: str, step: int) -> NoReturn:
        saved = checkpoint.committed(self.args.output_dir)
        good = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved before"
        raise InternalError(
            "RUN-01",
            f"step {step}: {what} is not finite: training stops",
            why=good,
            fix="lower --learning_rate, or use --dtype bf16 or fp32",
        )

    def _nothing_to_learn(self, step: int) -> NoReturn:
        raise DataError(
            "DATA-05",
            f"step {step}: none of its rows has a token to learn",
            fix="drop rows whose answer is empty or cut off",
        )

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self._hear()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        self._hear()
        return super()._finalize_training(*args, **kwargs)

    def _train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        try:
            return super()._train(*args, **kwargs)
        finally:
            verdicts = vars(self).pop("_verdicts", None)
            if verdicts is not None:
                verdicts.close()
