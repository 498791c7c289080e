"""What a run has logged so far, and curves of it as pictures (SVG) that know no script and load nothing."""

from __future__ import annotations

import html
import json
import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

LARGEST_LOG = 64 << 20
MOST_POINTS = 400
Points = list[tuple[int, float]]
"""Step and value, in the order of the steps."""
KEYS = {
    "loss": "loss",
    "eval_loss": "eval_loss",
    "acc": "acc",
    "eval_acc": "eval_acc",
    "learning_rate": "learning_rate",
    "train_speed(token/s)": "speed",
    "memory(GiB)": "memory",
    "grad_norm": "grad_norm",
}
CHARTS = {
    "loss": ("loss", "eval_loss"),
    "acc": ("acc", "eval_acc"),
    "learning_rate": ("learning_rate",),
    "speed": ("speed",),
    "memory": ("memory",),
}
"""A picture's name, and what it draws: in training as a line, in evaluation as dots."""
SMOOTH = ("loss", "acc", "speed")
MEMORY, ENOUGH_TO_SMOOTH = 0.7, 24
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 200, 50, 10, 12, 32
COLOURS = 6  # `--line-0` to `--line-5` of the page's style


@dataclass(frozen=True)
class Log:
    """What a run has logged: by kind the points, and the report at its end, if there is one."""

    curves: Mapping[str, Points]
    report: Mapping[str, Any] | None = None

    def last(self, kind: str) -> float | None:
        """The latest value."""
        points = self.curves.get(kind)
        return points[-1][1] if points else None

    @property
    def step(self) -> int:
        """The latest step."""
        return max((points[-1][0] for points in self.curves.values() if points), default=0)


_READ: dict[Path, tuple[tuple[int, int], Log]] = {}
_READ_LOCK = threading.Lock()
MOST_READ = 4096


def read_log(path: Path) -> Log:
    """A run's logging.jsonl as far as it is written; a step that was done twice counts as it was done last."""
    try:
        found = path.stat()
        stamp, kept = (found.st_size, found.st_mtime_ns), _READ.get(path)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        log = _parse(path)
    except OSError:  # there is none, or it has just gone
        return Log({})
    with _READ_LOCK:
        _READ[path] = (stamp, log)
        while len(_READ) > MOST_READ:
            del _READ[next(iter(_READ))]
    return log


def _parse(path: Path) -> Log:
    curves: dict[str, dict[int, float]] = {}
    report: Mapping[str, Any] | None = None
    with path.open("rb") as log:
        log.seek(max(os.fstat(log.fileno()).st_size - LARGEST_LOG, 0))
        for line in log:
            try:
                row = json.loads(line)
            except ValueError:  # the line that is just being written
                continue
            if not isinstance(row, dict):
                continue
            if "log_history" in row:
                report = row
                continue
            report = None  # a run that went on has not ended
            step = row.get("global_step")
            for key, kind in KEYS.items():
                value = row.get(key)
                if isinstance(step, int) and isinstance(value, (int, float)) and math.isfinite(value):
                    curves.setdefault(kind, {})[step] = float(value)
    return Log({kind: sorted(points.items()) for kind, points in curves.items()}, report)


@dataclass(frozen=True)
class Line:
    """One line of a picture: its name, its points, its colour's number, whether dots stand for it, or an average."""

    name: str
    points: Points
    colour: int = 0
    dots: bool = False
    smooth: bool = False


def draw(title: str, lines: Sequence[Line], steps: str = "step", nothing: str = "") -> str:
    """A picture as SVG, with a title that is read aloud; `nothing` stands where there is no point."""
    shown = [replace(line, points=thinned(line.points)) for line in lines if line.points]
    if not shown:
        body = f'<text class="none" x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">{_(nothing)}</text>'
        return _svg(title, f"{title}: {nothing}", body)
    scale = Scale.around([point for line in shown for point in line.points])
    body = "".join([scale.grid(steps), *(_line(line, scale) for line in shown)])
    told = "; ".join(f"{line.name} {number(line.points[-1][1])}" for line in shown)
    return _svg(title, f"{title}: {told}", body)


def _svg(title: str, told: str, body: str) -> str:
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_(told)}">'
    return f"<figure><figcaption>{_(title)}</figcaption>{head}{body}</svg></figure>"


@dataclass(frozen=True)
class Scale:
    """From steps and values to places in the picture."""

    first: int
    last: int
    low: float
    high: float

    @classmethod
    def around(cls, points: Points) -> Scale:
        """One that shows all these."""
        steps, values = [step for step, _ in points], [value for _, value in points]
        low, high = min(values), max(values)
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        return cls(min(*steps, min(steps)), max(max(steps), min(steps) + 1), max(low - room, min(low, 0)), high + room)

    def x(self, step: float) -> float:
        """Where a step is."""
        return LEFT + (step - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Where a value is."""
        return HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def grid(self, steps: str) -> str:
        """The lines behind, and what they stand for."""
        found = []
        for value in ticks(self.low, self.high, 4):
            y = round(self.y(value), 1)
            found.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
            found.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5}" text-anchor="end">{number(value)}</text>')
        for step in ticks(self.first, self.last, 5):
            if step == int(step):
                x, y = round(self.x(step), 1), HEIGHT - BOTTOM + 15
                found.append(f'<text class="tick" x="{x}" y="{y}" text-anchor="middle">{int(step):,}</text>')
        found.append(f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">{_(steps)}</text>')
        return "".join(found)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`: about so many, at least two, 1, 2 or 5 times a power of ten apart."""
    width = (high - low) / about
    power = 10.0 ** math.floor(math.log10(width))
    apart = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= width * 0.999)
    first = math.ceil(low / apart - 1e-9)
    found = [round(k * apart, 12) for k in range(first, math.floor(high / apart + 1e-9) + 1)]
    return found if len(found) > 1 else ticks(low, high, about + 1)


def thinned(points: Points, most: int = MOST_POINTS) -> Points:
    """At most about so many points, with the least and the greatest of every stretch, the first and the last."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most // 2 - 1))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        stretch = range(start, min(start + size, len(points)))
        kept |= {min(stretch, key=lambda k: points[k][1]), max(stretch, key=lambda k: points[k][1])}
    return [points[k] for k in sorted(kept)]


def smoothed(points: Points) -> Points:
    """A moving average, in which a point counts for less the further back it is; not pulled to where it begins.

    Paper: Adam, arXiv:1412.6980, section 3, for the correction.
    """
    kept, weight, found = 0.0, 0.0, []
    for step, value in points:
        kept, weight = MEMORY * kept + (1 - MEMORY) * value, MEMORY * weight + 1 - MEMORY
        found.append((step, kept / weight))
    return found


def _line(line: Line, scale: Scale) -> str:
    if len(line.points) < ENOUGH_TO_SMOOTH or line.dots or not line.smooth:
        return _stroke(line, scale)
    faint = _stroke(line, scale, "curve faint")
    return faint + _stroke(replace(line, points=smoothed(line.points)), scale, touch=False)


def _stroke(line: Line, scale: Scale, seen_as: str = "curve", *, touch: bool = True) -> str:
    places = [(round(scale.x(step), 1), round(scale.y(value), 1)) for step, value in line.points]
    style = f'style="--line: var(--line-{line.colour % COLOURS})"'
    told = [f"<title>{_(line.name)} · {step:,}: {number(value)}</title>" for step, value in line.points]
    seen = "dot" if line.dots or len(places) == 1 else "touch"
    circles = "".join(
        f'<circle class="{seen}" cx="{x}" cy="{y}" r="3">{text}</circle>'
        for (x, y), text in zip(places, told, strict=True)
        if touch
    )
    path = " ".join(f"{x},{y}" for x, y in places)
    kind = "curve dashed" if line.dots else seen_as
    return f'<g {style}><polyline class="{kind}" points="{path}"/>{circles}</g>'


def number(value: float) -> str:
    """A value as it is read at a glance."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:.4g}" if abs(value) >= 0.001 else f"{value:.1e}".replace("e-0", "e-")


def _(text: str) -> str:
    return html.escape(text, quote=True)
