"""Text pictures for a terminal: a row with its loss mask, a histogram, a table; without colour where none is wanted."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizerBase

from swift.arguments.help import width
from swift.datasets.show import printable
from swift.templates.tokens import told_text

GREEN, GREY, END = "\x1b[1;32m", "\x1b[90m", "\x1b[0m"
OPEN, CLOSE = "⟦", "⟧"
LONGEST_TEXT, MOST_TOKENS, BEFORE = 4000, 240, 60
BINS, BAR = 8, 40


def wants_colour() -> bool:
    """Whether stdout is a terminal that shows colour and nobody asked for none (`NO_COLOR`)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def row_text(inputs: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, colour: bool) -> str:
    """An encoded row as text, what is supervised in green; without colour between ⟦ and ⟧; `2×` is a weight.

    Where the label is not the token shown, the label is shown: it is what the model learns to say there.
    """
    pieces = []
    for weight, text in segments(inputs, tokenizer):
        text = printable(text) if weight in (0, 1) else f"{weight:g}× {printable(text)}"
        if colour:
            pieces.append(f"{GREEN}{text}{END}" if weight else f"{GREY}{text}{END}")
        else:
            pieces.append(f"{OPEN}{text}{CLOSE}" if weight else _shortened(text))
    return textwrap.indent("".join(pieces), "  ", lambda line: True)


def segments(inputs: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[float, str]]:
    """The stretches of an encoded row: how much they weigh, and their text, or what is learnt in its place."""
    weights = inputs.get("loss_scale") or [1.0] * len(inputs["labels"])
    weights = [weight if label >= 0 else 0.0 for weight, label in zip(weights, inputs["labels"], strict=True)]
    tokens = zip(inputs["input_ids"], inputs["labels"], weights, strict=True)
    for weight, group in groupby(tokens, lambda found: found[2]):
        yield weight, told_text(tokenizer, [label if weight else token for token, label, _ in group])


def row_tokens(inputs: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, colour: bool) -> str:
    """The tokens of an encoded row, as `id'text'`: supervised ones in green, or with a `*` before them.

    A long row is shown from shortly before its first supervised token.
    """
    ids, labels = inputs["input_ids"], inputs["labels"]
    first = next((k for k, label in enumerate(labels) if label >= 0), 0)
    start = max(min(first - BEFORE, len(ids) - MOST_TOKENS), 0)
    end = min(start + MOST_TOKENS, len(ids))
    words = [(f"{'*' if labels[k] >= 0 else ''}{_token(ids[k], labels[k], tokenizer)}") for k in range(start, end)]
    lines = list(_wrapped(words, width() - 2))
    if colour:
        lines = [" ".join(_green(word) for word in line) for line in lines]
    else:
        lines = [" ".join(line) for line in lines]
    if end - start < len(ids):
        lines.append(f"(tokens {start + 1:,} to {end:,} of {len(ids):,})")
    return "\n".join(f"  {line}" for line in lines)


def _shortened(text: str) -> str:
    """A masked text, its middle left out where it is very long."""
    half = LONGEST_TEXT // 2
    return text if len(text) <= LONGEST_TEXT else f"{text[:half]} […] {text[-half:]}"


def _token(token: int, label: int, tokenizer: PreTrainedTokenizerBase) -> str:
    shown = f"{token}{_piece(token, tokenizer)}"
    return shown if label in (token, -100) else f"{shown}→{label}{_piece(label, tokenizer)}"


def _piece(token: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of one token; its name in the vocabulary where it is a part of a character."""
    text = str(tokenizer.decode([token]))
    return repr(str(tokenizer.convert_ids_to_tokens(token)) if "�" in text else text)


def _green(word: str) -> str:
    return f"{GREEN}{word[1:]}{END}" if word.startswith("*") else f"{GREY}{word}{END}"


def _wrapped(words: Sequence[str], columns: int) -> Iterator[list[str]]:
    line: list[str] = []
    used = 0
    for word in words:
        if line and used + len(word) + 1 > columns:
            yield line
            line, used = [], 0
        line.append(word)
        used += len(word) + 1
    if line:
        yield line


def histogram(lengths: Sequence[int]) -> list[str]:
    """Lines that show how many rows have which length: at most 8 bars of equal width."""
    least, most = min(lengths), max(lengths)
    step = (most - least) // BINS + 1
    counts = [0] * ((most - least) // step + 1)
    for length in lengths:
        counts[(length - least) // step] += 1
    ranges = [
        f"{least + k * step:,}" + (f"-{least + (k + 1) * step - 1:,}" if step > 1 else "") for k in range(len(counts))
    ]
    left, right = max(map(len, ranges)), max(len(f"{count:,}") for count in counts)
    return [
        f"  {name:>{left}}  {count:>{right},}  {'#' * round(BAR * count / max(counts))}".rstrip()
        for name, count in zip(ranges, counts, strict=True)
    ]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the cells of each row in columns."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))] if rows else []
    return ["  " + "  ".join(f"{cell:<{widths[k]}}" for k, cell in enumerate(row)).rstrip() for row in rows]


def size(count: int) -> str:
    """A number of bytes, as people say it."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.1f} {unit}"
    return f"{count} bytes"
