"""The log file, early stopping's count, the registry, progress, and pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState

from swift.errors import UnknownNameError
from swift.trainers import callbacks, plots, progress, register_callback
from swift.trainers.callbacks import CALLBACKS, LogFile, evaluations_since_best, rounded
from swift.trainers.plots import plot_log
from tests.trainers.rows import Rows, lora, trainer_of

LINES = [
    {"loss": 1.0, "global_step": 1},
    {"eval_loss": 1.0, "global_step": 2},
    {"loss": 1.0, "global_step": 3},
    {"train_runtime": 1.0, "global_step": 2},
    {"log_history": [], "global_step": 2},
]


@pytest.mark.parametrize(("step", "left"), [(0, 0), (2, 2), (3, 3)])
def test_lines_of_steps_to_be_done_again_are_dropped(tmp_path: Path, step: int, left: int) -> None:
    path = tmp_path / "log"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"torn')
    LogFile(path).on_train_begin(None, TrainerState(global_step=step), TrainerControl())
    assert len(path.read_text().splitlines()) == left


def test_floats_are_rounded() -> None:
    assert rounded({"a": 0.123456789, "b": 3, "c": "x"}) == {"a": 0.12345679, "b": 3, "c": "x"}


@given(values=st.lists(st.integers(0, 5), max_size=8), greater=st.booleans())
def test_the_count_since_the_best(values: list[int], greater: bool) -> None:
    counter, best = 0, None
    for value in values:
        if best is None or (value > best if greater else value < best):
            best, counter = value, 0
        else:
            counter += 1
    assert evaluations_since_best(values, greater) == counter


def test_a_callback_can_be_added(tmp_path: Path) -> None:
    steps = []

    @register_callback("counts")
    class Counts(TrainerCallback):
        def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
            steps.append(state.global_step)

    try:
        trainer_of(lora(), tmp_path, callback_names=["counts"], max_steps=2).train()
        assert steps == [1, 2]
        with pytest.raises(UnknownNameError, match="no callback is called 'count'"):
            callbacks.find_callbacks(["count"])
    finally:
        del CALLBACKS["counts"]


def test_a_line_of_progress() -> None:
    state = TrainerState(global_step=10, max_steps=70)
    logs = {"loss": 1.23456, "acc": 0.5, "learning_rate": 1e-4, "grad_norm": 0.25, "train_speed(iter/s)": 2.0}
    logs |= {"train_speed(token/s)": 812.3, "memory(GiB)": 1.5, "epoch": 1}
    line = "step 10/70  loss 1.2346  acc 0.500  grad 0.25  lr 1.00e-04  812 tokens/s  1.50 GiB  ETA 0:00:30"
    assert progress.describe(logs, state) == line
    assert (
        progress.describe({"eval_loss": 2.0, "eval_acc": 0.25}, state) == "step 10/70  eval loss 2.0000  eval acc 0.250"
    )
    assert progress.describe({"eval_loss": 2.0}, TrainerState()) == "eval loss 2.0000"
    assert progress.describe({"loss": 0.0, "reward": 0.5}, TrainerState()) == "loss 0.0000  reward 0.500"
    assert progress.describe({"eval_reward": 0.75}, TrainerState()) == "eval reward 0.750"  # it has no loss
    assert progress.describe({"loss": 1.0, "rewards/margins": 2.0}, TrainerState()) == "loss 1.0000  margin 2.000"
    assert progress.describe({"train_runtime": 1.0}, state) is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress.progress(plain=False), progress.LineProgress)
    monkeypatch.setattr("sys.stderr", Terminal())
    assert isinstance(progress.progress(plain=False), progress.BarProgress)
    assert isinstance(progress.progress(plain=True), progress.LineProgress)


@pytest.mark.parametrize("colours", [True, False])
def test_the_bar_shows_both_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colours: bool) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colours:
        monkeypatch.setenv("NO_COLOR", "1")
    screen = Terminal()
    console = Console(file=screen, force_terminal=True, width=160, color_system="standard")
    bar = progress.BarProgress(console)
    trainer = trainer_of(
        lora(), tmp_path, val=Rows(8), max_steps=4, eval_strategy="steps", eval_steps=2, callbacks=[bar]
    )
    trainer.train()
    text = screen.getvalue()
    assert "step 2/4  eval loss" in text
    assert "4/4" in text
    assert "tokens/s" in text
    assert ("\x1b[3" in text) == colours  # a colour
    bar.close()
    assert text.count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") == 1
    trainer.evaluate()
    assert bar.train is None
    assert bar.eval is None


def test_the_cursor_comes_back_however_training_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(lora(), tmp_path, max_steps=2)
    trainer.remove_callback(trainer.progress)
    screen = Terminal()
    trainer.progress = progress.BarProgress(Console(file=screen, force_terminal=True))
    trainer.add_callback(trainer.progress)
    monkeypatch.setattr(trainer, "training_step", lambda *_: pytest.fail("as a user who stops it"))
    with pytest.raises(pytest.fail.Exception):
        trainer.train()
    assert screen.getvalue().endswith("\x1b[?25h")


def test_the_plain_lines_go_to_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(progress.logger, "info", lambda text, *args: lines.append(text % args if args else text))
    trainer_of(lora(), tmp_path, max_steps=2).train()
    assert [line.partition("  ")[0] for line in lines if line.startswith("step")] == ["step 1/2", "step 2/2"]


HISTORY = [
    {"loss": 3.0, "acc": 0.1, "epoch": 0.1, "step": 1},
    {"eval_loss": 2.5, "step": 2},
    {"loss": 2.0, "acc": 0.2, "train_speed(iter/s)": 1.0, "step": 2},
    {"train_runtime": 9.0, "total_flos": 1.0, "step": 2},
]


def test_pictures(tmp_path: Path) -> None:
    written = plot_log(HISTORY, tmp_path / "images")
    names = {"train_loss.png", "train_acc.png", "eval_loss.png", "train_train_speed(iter_s).png"}
    assert {path.name for path in written} == {path.name for path in (tmp_path / "images").iterdir()} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert plots.series(HISTORY)["train/loss"] == [(1, 3.0), (2, 2.0)]
    for path, (tag, points) in zip(written, plots.series(HISTORY).items(), strict=True):
        assert path.read_bytes() == plots.Sheet().draw(tag, points)  # nothing is left of the pictures before
    assert plot_log([], tmp_path / "none") == []
    endless = [{"grad_norm": float("inf"), "acc": float("nan"), "loss": 1.0, "step": 1}]
    assert set(plots.series(endless)) == {"train/loss"}


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
def test_smoothing_is_a_weighted_mean_of_the_past(values: list[float]) -> None:
    smoothed = plots.smooth(values)
    for position in range(len(values)):
        weights = [0.9 ** (position - i) for i in range(position + 1)]
        mean = sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights)
        assert smoothed[position] == pytest.approx(mean, abs=1e-6)
