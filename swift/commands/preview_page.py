"""The page of `swift data preview`: one file that loads nothing from elsewhere and reads no data as markup."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from transformers import PreTrainedTokenizerBase

from swift.commands.pictures import segments
from swift.datasets.ledger import HEADS, Ledger, cells
from swift.datasets.show import Elements, printable

STYLE = Path(__file__).with_name("preview.css")
BINS, BAR, LINE = 40, "#2f9e55", "#8b8d98"
KEY = '<mark>learnt</mark> <mark class="weighed">learnt with a weight</mark> only read'
MOST_LINES = 100
Sample = tuple[str, str, Mapping[str, Any]]
"""File and line of a row, what is told of it, and it encoded; empty where it was dropped."""


def to_html(
    elements: Elements,
    samples: Sequence[Sample],
    tokenizer: PreTrainedTokenizerBase,
    lengths: str,
    picture: bytes,
    ledger: Ledger,
    end: str,
) -> str:
    """The page.

    Args:
        elements: some rows as a table.
        samples: the same rows encoded.
        tokenizer: which encoded them.
        lengths: a line about the tokens of all rows.
        picture: a PNG of them.
        ledger: the account of all rows.
        end: the line that says what ends a turn.
    """
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>Data preview</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>",
            "<body>",
            "<h1>Data preview</h1>",
            *_facts(ledger),
            f"<h2>{len(elements.rows)} rows drawn at random</h2>",
            f'<div class="wide">{elements.to_html()}</div>',
            "<h2>As the model meets them</h2>",
            f'<p class="key">{KEY}; {_(end)}</p>',
            *(line for sample in samples for line in _sample(*sample, tokenizer)),
            f"<h2>Tokens per row</h2><p class='key'>{_(lengths)}</p>",
            f'<figure><img alt="Tokens per row" src="{_address(picture)}"></figure>',
            "<h2>Account</h2>",
            *_account(ledger),
            "</body>",
            "</html>",
            "",
        ]
    )


def _(text: str) -> str:
    return html.escape(printable(text))


def _address(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def _facts(ledger: Ledger) -> Iterator[str]:
    train = ledger.parts["train"]
    tokens = train.supervised + train.masked
    facts = {
        "rows read": f"{ledger.rows_read:,}",
        "rows used": f"{sum(share.rows for share in ledger.parts.values()):,}",
        "rows dropped": f"{sum(map(len, ledger.dropped.values())):,}",
        "tokens": f"{tokens:,}",
        "of them learnt": f"{100 * train.supervised / max(tokens, 1):.1f} %",
        "cut off": f"{train.truncated:,}",
    }
    yield '<div class="facts">'
    yield from (f"<div><b>{number}</b><span>{name}</span></div>" for name, number in facts.items())
    yield "</div>"


def _sample(where: str, told: str, inputs: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    yield f'<div class="sample"><p class="told"><b>{_(where)}</b> {_(told)}</p>'
    if inputs:
        yield f"<pre>{''.join(_span(weight, text) for weight, text in segments(inputs, tokenizer))}</pre>"
    yield "</div>"


def _span(weight: float, text: str) -> str:
    if not weight:
        return _(text)
    weighed = "" if weight == 1 else f' class="weighed" title="weight {weight:g}"'
    return f"<mark{weighed}>{_(text)}</mark>"


def _account(ledger: Ledger) -> Iterator[str]:
    """Every data set, and the lines of each reason for which rows were dropped."""
    yield '<div class="wide"><table class="numbers">'
    yield _row("th", HEADS)
    yield from (_row("td", cells(account)) for account in ledger.accounts.values())
    yield "</table></div>"
    reasons = {**ledger.dropped, **({"cut to the maximal length": ledger.cut} if len(ledger.cut) else {})}
    if not reasons:
        return
    yield '<h2>Why, and which lines</h2><div class="wide"><table>'
    yield _row("th", ("reason", "rows", "file", "lines"))
    for reason, places in reasons.items():
        for file, lines in places.by_file().items():
            more = f" and {len(lines) - MOST_LINES:,} more" if len(lines) > MOST_LINES else ""
            yield _row("td", (reason, f"{len(lines):,}", file, ", ".join(map(str, lines[:MOST_LINES])) + more))
    yield "</table></div>"
    errors = [*ledger.bad_rows, *ledger.excused][:MOST_LINES]
    if errors:
        yield '<h2>Bad rows</h2><div class="wide"><table>'
        yield from (_row("td", [error.what]) for error in errors)
        yield "</table></div>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_(cell)}</{tag}>' for cell in cells)}</tr>"


def draw_lengths(lengths: Sequence[int], limit: int | None) -> bytes:
    """A PNG that shows how many rows have which length, and where `limit` is, if it is near."""
    figure = Figure(figsize=(9, 3.6), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.hist(lengths, bins=min(BINS, max(lengths) - min(lengths) + 1), color=BAR, edgecolor="white", linewidth=0.6)
    if limit is not None and limit <= 2 * max(lengths):
        axes.axvline(limit, color=LINE, linestyle="--", linewidth=1)
        axes.annotate(
            f"--max_length {limit:,}", (limit, 1), xycoords=("data", "axes fraction"), va="bottom", ha="center"
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("tokens")
    axes.set_ylabel("rows")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
