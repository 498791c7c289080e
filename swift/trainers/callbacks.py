"""What watches a run: the log file, when to log, early stopping, and the registry of a user's own callbacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift import storage
from swift.registry import unknown

CallbackFactory = Callable[[], TrainerCallback]

CALLBACKS: dict[str, CallbackFactory] = {}


def register_callback(name: str) -> Callable[[CallbackFactory], CallbackFactory]:
    """Decorator that makes a callback class available as `--callbacks name`."""

    def add(factory: CallbackFactory) -> CallbackFactory:
        CALLBACKS[name] = factory
        return factory

    return add


def find_callbacks(names: Sequence[str]) -> list[TrainerCallback]:
    """A new callback for each of the names.

    Raises:
        UnknownNameError: a callback that is not registered.
    """
    for name in names:
        if name not in CALLBACKS:
            raise unknown("callback", name, CALLBACKS)
    return [CALLBACKS[name]() for name in names]


class LogFile(TrainerCallback):
    """Writes every log event as one line of JSON.

    The file is of one run: lines of steps that the run will do, or do again, are removed before it begins.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget what was logged after the checkpoint that the run goes on from, or all when it starts afresh."""
        if state.is_world_process_zero and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            storage.write_text(self.path, "".join(line for line in lines if _step(line) <= state.global_step))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add a line: the logged values, rounded to 8 digits, and the step."""
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            storage.append_jsonl(self.path, {**rounded(logs or {}), "global_step": state.global_step})


def rounded(logs: dict[str, Any]) -> dict[str, Any]:
    """`logs` with its floats rounded to 8 digits after the point."""
    return {key: round(value, 8) if isinstance(value, float) else value for key, value in logs.items()}


def _step(line: str) -> float:
    """The step of a log line; a summary or a torn line belongs to no step and sorts after all."""
    try:
        row = json.loads(line)
    except ValueError:
        return float("inf")
    is_event = isinstance(row, dict) and "log_history" not in row and "train_runtime" not in row
    return row.get("global_step", float("inf")) if is_event else float("inf")


class SaveLast(TrainerCallback):
    """Lets a checkpoint come after all that belongs to its step, so that a run that goes on from it misses nothing.

    The sums behind a log line are not in a checkpoint, so a line must end where one does. Where evaluation waits for
    the end of the epoch, a checkpoint of the epoch's last step waits for evaluation: only then can it be the best.
    """

    def __init__(self) -> None:
        self.waits = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for a log line when a checkpoint will be written or training ends."""
        if control.should_save or state.global_step >= state.max_steps:
            control.should_log = True
        if args.eval_strategy == "epoch" and (control.should_training_stop or float(state.epoch or 0).is_integer()):
            self.waits, control.should_save = control.should_save, False
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Ask for the checkpoint that waited, and for a log line when one will be written."""
        control.should_save, self.waits = control.should_save or self.waits, False
        control.should_log = control.should_log or control.should_save
        return control


class EarlyStopping(TrainerCallback):
    """Stops, and saves, after `patience` evaluations without a better metric.

    It counts in the log history, which is part of every checkpoint, and so needs no state of its own.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Do not go on with a run that was stopped."""
        control.should_training_stop = self._waited_enough(args, state)
        return control

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Stop when the best value is `patience` evaluations old."""
        if self._waited_enough(args, state):
            control.should_training_stop = True
            control.should_save = args.save_strategy != "no"
        return control

    def _waited_enough(self, args: TrainingArguments, state: TrainerState) -> bool:
        key = f"eval_{str(args.metric_for_best_model or 'loss').removeprefix('eval_')}"
        values = [entry[key] for entry in state.log_history if key in entry]
        return evaluations_since_best(values, bool(args.greater_is_better)) >= self.patience


def evaluations_since_best(values: Sequence[float], greater_is_better: bool) -> int:
    """How many values came after the first that is the best, 0 for none."""
    best = (max if greater_is_better else min)(values, default=None)
    return len(values) - 1 - values.index(best) if best is not None else 0
