"""Rows for heads: labels beside a text, a query with documents that answer it or do not, two answers with a margin."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from swift.datasets.convert import FORMATS, Format
from swift.datasets.rows import Row, kind_of
from swift.datasets.turns import Message, field_error, first_of, said, text_of

QUERIES = ("query", "anchor", "sentence1", "question", "sentence")
POSITIVES = ("positive", "positives", "pos", "sentence2", "document", "positive_passages", "positive_messages")
NEGATIVES = ("negative", "negatives", "neg", "negative_passages", "negative_messages")
NUMBERS = ("label", "score", "labels", "margin")


def _query(row: Row) -> list[Message]:
    key = first_of(row, QUERIES)
    if key is None:
        raise field_error(QUERIES[0], "is missing")
    return [said("user", text_of(row, key))]


RETRIEVAL = Format(
    "query/positive",
    ("|".join(QUERIES), "|".join(POSITIVES)),
    ("|".join(QUERIES), "|".join(POSITIVES)),
    (*QUERIES, *POSITIVES, *NEGATIVES),
    _query,
    passes=(*POSITIVES, *NEGATIVES, *NUMBERS),
)
WITH_NUMBERS = tuple(replace(known, passes=(*POSITIVES, *NEGATIVES, *NUMBERS)) for known in FORMATS)
HEAD_FORMATS = (RETRIEVAL, *WITH_NUMBERS)
"""In the order in which they are tried."""


def documents(row: Any, names: tuple[str, ...]) -> list[str]:
    """The texts in the first of these columns that is there: one, or a list of texts or of conversations.

    Raises:
        DataError: something else is there.
    """
    key = first_of(row, names)
    if key is None:
        return []
    items = row[key] if isinstance(row[key], list | tuple) else [row[key]]
    return [_text(item, f"{key}[{i}]" if items is row[key] else key) for i, item in enumerate(items)]


def _text(item: Any, name: str) -> str:
    if isinstance(item, list | tuple) and item and isinstance(item[-1], dict):
        item = item[-1].get("content")
    if isinstance(item, dict):
        item = item.get("text")
    if not isinstance(item, str):
        raise field_error(name, f"is {kind_of(item)}, not a string")
    if not item.strip():
        raise field_error(name, "is empty")
    return item


def number(value: Any, name: str) -> float:
    """A number as a row may have it.

    Raises:
        DataError: it is none, or not a finite one.
    """
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise field_error(name, f"is {value!r:.40}, not a number")
    return found
