"""Pictures of a run: one PNG for each value that was logged."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swift import storage

COLOR, PALE = "#FF7043", "#FFE2D9"
SMOOTHING = 0.9
NOT_PLOTTED = {"step", "epoch", "total_flos"}
SIZE_INCHES, DPI = (8, 5), 100


def plot_log(log_history: Sequence[dict[str, Any]], directory: Path | str) -> list[Path]:
    """Draw every logged value over the steps into `directory`; return the files, such as `train_loss.png`.

    The training loss is drawn pale, with its running average on top.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    sheet, written = Sheet(), []
    for tag, points in series(log_history).items():
        path = directory / f"{tag.replace('/', '_')}.png"
        storage.write_bytes(path, sheet.draw(tag, points))
        written.append(path)
    return written


def series(log_history: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of everything that was logged, by its tag: `train/loss`, `eval/acc`."""
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in log_history:
        if "train_runtime" in entry:  # the summary at the end is no curve
            continue
        for key, value in entry.items():
            if key not in NOT_PLOTTED and isinstance(value, (int, float)) and math.isfinite(value):
                tag = f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"
                found.setdefault(tag, []).append((int(entry.get("step", 0)), float(value)))
    return found


def smooth(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """The exponential running average of `values`, corrected for its start as TensorBoard does."""
    average, norm, smoothed = 0.0, 0.0, []
    for value in values:
        average, norm = weight * average + value, weight * norm + 1
        smoothed.append(average / norm)
    return smoothed


class Sheet:
    """Axes that every picture of a run is drawn with, one after another: to make them anew takes most of the time."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=SIZE_INCHES, dpi=DPI)
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_subplot()
        (self.pale,) = self.axes.plot([], [], color=PALE)
        (self.line,) = self.axes.plot([], [], color=COLOR)

    def draw(self, tag: str, points: Sequence[tuple[int, float]]) -> bytes:
        """The picture of a tag's values, as PNG."""
        steps, values = [step for step, _ in points], [value for _, value in points]
        smoothed = tag == "train/loss" and len(points) > 1
        self.pale.set_data(*((steps, values) if smoothed else ([], [])))
        self.line.set_data(steps, smooth(values) if smoothed else values)
        self.line.set_marker("o" if len(points) == 1 else "")
        self.axes.set_title(tag)
        self.axes.relim()
        self.axes.autoscale_view()
        picture = io.BytesIO()
        self.figure.savefig(picture, format="png")
        return picture.getvalue()
