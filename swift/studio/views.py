"""What the pages show of runs, jobs and estimates, as HTML in which all that was read from elsewhere is escaped."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swift.studio.curves import CHARTS, SMOOTH, Line, draw, number
from swift.studio.jobs import Job
from swift.studio.runs import Run, differences
from swift.studio.words import Words

MOST_CHECKPOINTS = 12
GIB, MIB = 1 << 30, 1 << 20


def escaped(text: object) -> str:
    """A text that is shown as it is, whatever it holds."""
    return html.escape(str(text), quote=True)


def pill(state: str, words: Words) -> str:
    """A state as a word with its colour."""
    return f'<span class="pill {escaped(state)}">{escaped(words.states[state])}</span>'


def notice(text: str, kind: str = "note") -> str:
    """A line or several on a coloured ground: a `note`, `good` or `bad`; nothing for no text."""
    if not text:
        return ""
    role = "alert" if kind == "bad" else "status"
    return f'<div class="notice {kind}" role="{role}">{escaped(text)}</div>'


def label(run: Run, words: Words) -> str:
    """A run as one line of a list."""
    loss = run.log.last("loss")
    facts = [run.path.removeprefix("output/"), words.states[run.state]]
    return " · ".join([*facts, *([f"{words.loss} {number(loss)}"] if loss is not None else [])])


def detail(run: Run, words: Words) -> str:
    """A run's name, state, how far it is, and what it trains."""
    said, log = run.said, run.log
    tuner = ", ".join(said.get("tuner") or []) or said.get("sft_type", "")
    share = f" / {run.steps:,}" if run.steps else ""
    facts = {
        words.started_at: time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started)),
        words.model: run.model,
        words.data: ", ".join(run.data),
        words.tuner: tuner,
        words.step: f"{log.step:,}{share}" if log.step else "",
        words.loss: number(value) if (value := log.last("loss")) is not None else "",
    }
    cells = "".join(f"<div><dt>{escaped(k)}</dt><dd>{escaped(v)}</dd></div>" for k, v in facts.items() if v)
    return f'<div class="run"><h2>{escaped(run.path)} {pill(run.state, words)}</h2><dl class="facts">{cells}</dl></div>'


def checkpoints(places: Sequence[str], words: Words) -> str:
    """Where a run has saved."""
    shown = "".join(f"<li><code>{escaped(place)}</code></li>" for place in places[:MOST_CHECKPOINTS])
    listed = f"<ul>{shown}</ul>" if shown else f"<p>{escaped(words.no_checkpoints)}</p>"
    return f'<div class="saved"><h3>{escaped(words.checkpoints)}</h3>{listed}</div>'


def charts(run: Run, words: Words) -> str:
    """A run's curves."""
    curves = run.log.curves
    drawn = [
        draw(
            words.charts[name],
            [
                Line(kind, curves.get(kind, []), k, kind.startswith("eval_"), kind in SMOOTH)
                for k, kind in enumerate(kinds)
            ],
            words.step,
            words.nothing_yet,
        )
        for name, kinds in CHARTS.items()
    ]
    return f'<div class="charts">{"".join(drawn)}</div>'


def comparison(runs: Sequence[Run], words: Words) -> str:
    """The curves of several runs in the same pictures, and the options in which they differ."""
    if len(runs) < 2:
        return ""
    keys = "".join(
        f'<li><span class="key" style="--line: var(--line-{k % 6})"></span>{escaped(run.path)}</li>'
        for k, run in enumerate(runs)
    )
    drawn = []
    for name, kinds in CHARTS.items():
        lines = [
            Line(f"{run.path} {kind}", run.log.curves.get(kind, []), k, kind.startswith("eval_"), kind in SMOOTH)
            for k, run in enumerate(runs)
            for kind in kinds
        ]
        drawn.append(draw(words.charts[name], lines, words.step, words.nothing_yet))
    return f'<ul class="keys">{keys}</ul><div class="charts">{"".join(drawn)}</div>{_differences(runs, words)}'


def _differences(runs: Sequence[Run], words: Words) -> str:
    found = differences(runs)
    if not found:
        return f"<p>{escaped(words.same_options)}</p>"
    head = table_row("th", [words.differences, *(run.path for run in runs)])
    body = "".join(table_row("td", [f"--{name}", *values]) for name, values in found.items())
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def table_row(tag: str, cells: Iterable[object]) -> str:
    """One row of a table."""
    return f"<tr>{''.join(f'<{tag}>{escaped(cell)}</{tag}>' for cell in cells)}</tr>"


def log(text: str, words: Words) -> str:
    """The end of a log, which stays at its end while it grows."""
    if not text:
        return ""
    area = f'<pre tabindex="0" aria-label="{escaped(words.log)}">{escaped(text)}</pre>'
    return f'<div class="log"><h3>{escaped(words.log)}</h3><div class="end">{area}</div></div>'


def task(job: Job | None, typed: str, words: Words) -> str:
    """A job with its command and the end of its log."""
    if job is None:
        return f'<p class="quiet">{escaped(words.no_tasks)}</p>'
    head = f"<h2>swift {escaped(job.command)} {pill(job.state(), words)}</h2>"
    return f'<div class="run">{head}<pre class="typed">{escaped(typed)}</pre>{log(job.log(), words)}</div>'


def estimate(found: Mapping[str, Any], words: Words) -> str:
    """What a run takes: a bar of its memory, its size and its time."""
    parts = [f"<div><dt>{escaped(words.parameters)}</dt><dd>{found['parameters']:,}</dd></div>"]
    share = 100 * found["trainable"] / max(found["parameters"], 1)
    parts.append(f"<div><dt>{escaped(words.trained)}</dt><dd>{found['trainable']:,} ({share:.3g} %)</dd></div>")
    if found["seconds_per_step"] is not None:
        seconds = found["seconds_per_step"]
        parts.append(f"<div><dt>{escaped(words.step_time)}</dt><dd>{duration(seconds)}</dd></div>")
        if plan := found["schedule"]:
            name = words.run_time.format(steps=f"{plan['steps']:,}")
            parts.append(f"<div><dt>{escaped(name)}</dt><dd>{duration(seconds * plan['steps'])}</dd></div>")
    return f'{_memory(found, words)}<dl class="facts">{"".join(parts)}</dl>'


def _memory(found: Mapping[str, Any], words: Words) -> str:
    memory, free = found["memory"], found["free"]
    if not memory:
        return f"<p>{escaped(words.estimate_not.format(why=found['not_estimated']))}</p>"
    total = memory["total"]
    parts = {name: count for name, count in memory.items() if name != "total" and count}
    whole = max(total, free or 0, 1)
    pieces = "".join(
        f'<span style="width:{100 * count / whole:.2f}%; --line: var(--line-{k % 6})"'
        f' title="{escaped(name)}: {size(count)}"></span>'
        for k, (name, count) in enumerate(parts.items())
    )
    keys = "".join(
        f'<li><span class="key" style="--line: var(--line-{k % 6})"></span>{escaped(name)} {size(count)}</li>'
        for k, (name, count) in enumerate(parts.items())
    )
    told = [words.memory_needed.format(needed=size(total))]
    told += [words.memory_free.format(free=size(free))] if free else []
    over = bool(free) and total > free
    told += [words.too_much] if over else []
    style = "memory over" if over else "memory"
    bar = f'<div class="bar" role="img" aria-label="{escaped(", ".join(told))}">{pieces}</div>'
    return f'<div class="{style}"><p>{escaped(" · ".join(told))}</p>{bar}<ul class="keys">{keys}</ul></div>'


def size(count: float) -> str:
    """A number of bytes, as people say it."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / MIB:.1f} MiB"


def duration(seconds: float) -> str:
    """A time, as people say it."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def page(document: str, title: str) -> str:
    """A whole document in a frame that runs no script and reaches nothing."""
    return f'<iframe class="preview" sandbox="" title="{escaped(title)}" srcdoc="{escaped(document)}"></iframe>'
