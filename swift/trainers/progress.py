"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift.log import get_logger

STEP_SPEED, TOKEN_SPEED, MEMORY = "train_speed(iter/s)", "train_speed(token/s)", "memory(GiB)"
LABELS = {
    "loss": "loss {:.4f}",
    "acc": "acc {:.3f}",
    "reward": "reward {:.3f}",
    "rewards/margins": "margin {:.3f}",
    "eval_loss": "eval loss {:.4f}",
    "eval_acc": "eval acc {:.3f}",
    "eval_reward": "eval reward {:.3f}",
    "eval_rewards/margins": "eval margin {:.3f}",
    "grad_norm": "grad {:.3g}",
    "learning_rate": "lr {:.2e}",
    TOKEN_SPEED: "{:.0f} tokens/s",
    MEMORY: "{:.2f} GiB",
}

logger = get_logger()


def progress(plain: bool) -> LineProgress | BarProgress:
    """The callback that shows progress, to be closed: lines when `plain` or when stderr is no terminal."""
    return LineProgress() if plain or not sys.stderr.isatty() else BarProgress()


def describe(logs: dict[str, Any], state: TrainerState) -> str | None:
    """One line on a log event, None for an event without anything to show."""
    shown = [text.format(logs[key]) for key, text in LABELS.items() if isinstance(logs.get(key), (int, float))]
    if not shown:
        return None
    left = (state.max_steps - state.global_step) / logs[STEP_SPEED] if logs.get(STEP_SPEED) else None
    eta = [f"ETA {timedelta(seconds=round(left))}"] if left is not None else []
    step = [f"step {state.global_step}/{state.max_steps}"] if state.max_steps else []
    return "  ".join([*step, *shown, *eta])


def tell_if_over(state: TrainerState) -> None:
    """Say so when a run that goes on had come to its end."""
    if state.is_world_process_zero and state.max_steps and state.global_step >= state.max_steps:
        logger.info(f"step {state.global_step}/{state.max_steps} is done already: nothing is left to train")


class LineProgress(TrainerCallback):
    """A line for every log event."""

    def close(self) -> None:
        """Nothing is open."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say when there is nothing to do."""
        tell_if_over(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Log the event's line."""
        line = describe(logs or {}, state)
        if line and state.is_world_process_zero:
            logger.info(line)


class BarProgress(TrainerCallback):
    """A bar that carries the newest values; evaluation has a bar of its own while it runs."""

    def __init__(self, console: Console | None = None) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bars = Progress(*columns, TextColumn("{task.fields[values]}"), console=console or Console(stderr=True))
        self.train: TaskID | None = None
        self.eval: TaskID | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar."""
        tell_if_over(state)
        if state.is_world_process_zero:
            self.train = self.bars.add_task("train", total=state.max_steps, completed=state.global_step, values="")
            self.bars.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self.train is not None:
            self.bars.update(self.train, completed=state.global_step)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Move evaluation's bar."""
        if self.train is None:
            return
        if self.eval is None:
            self.eval = self.bars.add_task("eval", total=len(eval_dataloader), values="")
        self.bars.advance(self.eval)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest values beside the bar; an evaluation's stay above it."""
        line = describe(logs or {}, state)
        if self.train is None or line is None:
            return
        values = line.partition("  ")[2].partition("  ETA")[0]
        if "eval_loss" in (logs or {}):
            self.bars.console.print(line, highlight=False)
        else:
            self.bars.update(self.train, values=values)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take evaluation's bar away."""
        if self.eval is not None:
            self.bars.remove_task(self.eval)
            self.eval = None

    def close(self) -> None:
        """Leave the bar as it ended, and give the cursor back."""
        self.bars.stop()
        self.train = self.eval = None
