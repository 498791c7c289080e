"""What an evaluation leaves: results.json, the answers of each model, a table and a picture."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swift import storage
from swift.errors import OutputError
from swift.evaluation.metrics import Metric
from swift.evaluation.scoring import Scored
from swift.evaluation.statistics import Difference, Interval

COLORS = ("#9AA5B1", "#FF7043", "#3F51B5", "#26A69A", "#AB47BC", "#8D6E63")
DPI, BAR_INCHES = 100, 0.35


@dataclass(frozen=True)
class Row:
    """One metric of one data set: the score of every model, and how far each is above the first."""

    dataset: str
    rows: int
    metric: Metric
    scores: list[Interval]
    differences: list[Difference]


def open_directory(parent: str, name: str | None) -> Path:
    """A directory for results: `name` in `parent`, or a new one named by the time.

    Raises:
        OutputError: it cannot be made.
    """
    stem = name or datetime.now().strftime("%Y%m%d-%H%M%S")
    names = [stem] if name else [f"{stem}{suffix}" for suffix in ("", *(f"-{k}" for k in range(2, 100)))]
    try:
        for each in names:
            directory = Path(parent).expanduser() / each
            if name or not directory.exists():
                directory.mkdir(parents=True, exist_ok=bool(name))
                return directory
    except OSError as error:
        raise OutputError("OUTPUT-01", f"--eval_output_dir {parent} cannot be written: {error.strerror}") from error
    raise OutputError("OUTPUT-01", f"--eval_output_dir {parent} has too many results of this second", fix="--name")


def compared(models: Sequence[Sequence[Scored]], samples: int, seed: int) -> list[Row]:
    """The rows of the table: every metric of every data set, for all models."""
    rows = []
    for of_models in zip(*models, strict=True):
        scores = [scored.intervals(samples, seed) for scored in of_models]
        first, *others = of_models
        above = [other.above(first, samples, seed) for other in others]
        for metric in first.plan.metrics:
            name = metric.name
            found = Row(
                first.plan.dataset,
                len(first.records),
                metric,
                [each[name] for each in scores],
                [each[name] for each in above],
            )
            rows.append(found)
    return rows


def reports(names: Sequence[str], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each model its scores and, but for the first, how it differs from that: plain values."""
    found = []
    for number, name in enumerate(names):
        datasets: dict[str, dict[str, Any]] = {}
        for row in rows:
            entry: dict[str, Any] = {"rows": row.rows, **asdict(row.scores[number])}
            if number:
                entry["against"] = {"model": names[0], **asdict(row.differences[number - 1])}
            datasets.setdefault(row.dataset, {})[row.metric.name] = entry
        found.append({"model": name, "datasets": datasets})
    return found


def write(
    directory: Path, names: Sequence[str], models: Sequence[Sequence[Scored]], rows: Sequence[Row], facts: Mapping
) -> None:
    """Write results.json, a jsonl of every model's rows, and the picture, in the place of earlier ones."""
    for earlier in directory.glob("answers-*.jsonl"):
        earlier.unlink()
    for number, of_model in enumerate(models):
        lines = [json.dumps(record, ensure_ascii=False) for scored in of_model for record in scored.records]
        storage.write_text(directory / answers_file(number, names[number]), "\n".join([*lines, ""]))
    storage.write_json(directory / "results.json", {**facts, "models": reports(names, rows)})
    storage.write_bytes(directory / "plot.png", draw(names, rows))


def answers_file(number: int, name: str) -> str:
    """What the file with a model's answers is called."""
    return f"answers-{number + 1}-{plain_name(name)}.jsonl"


def plain_name(name: str) -> str:
    """A model's name as that of a file."""
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in name).strip("-.")[-60:]


def table(names: Sequence[str], rows: Sequence[Row]) -> str:
    """All scores with their intervals and, of several models, how each differs from the first."""
    cells = [["data set", "metric", "rows", *names]]
    for row in rows:
        scores = [_shown(score, row) for score in row.scores]
        cells.append([_short(row.dataset), row.metric.name, f"{row.rows:,}", *scores])
    lines = _columns(cells)
    if len(names) > 1:
        cells = [["data set", "metric", "", *(f"{name} - {names[0]}" for name in names[1:])]]
        for row in rows:
            cells.append(
                [_short(row.dataset), row.metric.name, "", *(_compared(each, row) for each in row.differences)]
            )
        lines += ["", *_columns(cells)]
    return "\n".join([*lines, *_notes(rows)])


def _columns(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    yield "[ ]: 95 % confidence interval"
    if any(row.metric.percent for row in rows):
        yield "in percent, but for loss, perplexity and metrics of yours"
    if any(row.differences for row in rows):
        yield "p: the chance of such a difference where there is none; * below 0.05"


def _short(text: str, width: int = 36) -> str:
    return text if len(text) <= width else f"…{text[1 - width :]}"


def _shown(found: Interval, row: Row, sign: str = "") -> str:
    factor = 100.0 if row.metric.percent else 1.0
    low, value, high = (f"{factor * number:{sign}.4g}" for number in (found.low, found.value, found.high))
    return f"{value} [{low}, {high}]"


def _compared(found: Difference, row: Row) -> str:
    return f"{_shown(found, row, '+')} p={found.p:.3g}{'*' if found.p < 0.05 else ''}"


def draw(names: Sequence[str], rows: Sequence[Row]) -> bytes:
    """A picture of all scores: a panel for shares, and one for each other metric."""
    panels: list[tuple[str, list[Row]]] = []
    shares = [row for row in rows if row.metric.percent]
    panels += [("percent", shares)] if shares else []
    panels += [(name, [row for row in rows if row.metric.name == name]) for name in _others(rows)]
    inches = [max(2.5, BAR_INCHES * len(names) * (len(own) + 1)) for _, own in panels]
    figure = Figure(figsize=(max(6.0, sum(inches) + 1), 4.5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, own) in zip(
        figure.subplots(1, len(panels), squeeze=False, width_ratios=inches)[0], panels, strict=True
    ):
        _draw_panel(axes, title, own, names)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _others(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.metric.name for row in rows if not row.metric.percent))


def _draw_panel(axes: Any, title: str, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Bars of one scale, with their intervals, side by side for all models."""
    several = len({row.dataset for row in rows}) > 1
    factor = 100.0 if title == "percent" else 1.0
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        found = [row.scores[number] for row in rows]
        values = [factor * score.value for score in found]
        ends = [[factor * max(0.0, score.value - score.low) for score in found]]
        ends += [[factor * max(0.0, score.high - score.value) for score in found]]
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(rows))]
        color = COLORS[number % len(COLORS)]
        axes.bar(places, values, width, yerr=ends, label=name, color=color, ecolor="#37474F", capsize=2)
    labels = [f"{_short(row.dataset, 18)}\n{row.metric.name}" if several else row.metric.name for row in rows]
    axes.set_xticks(range(len(rows)), labels, rotation=30, ha="right", fontsize=8)
    axes.set_title("percent" if title == "percent" else "", fontsize=9, loc="left")
    if title == "percent":
        axes.set_ylim(0, 100)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
