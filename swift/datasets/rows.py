"""What every reader of data files gives: rows with their file and line, or the error that stands in a row's place."""

from __future__ import annotations

from typing import Any

from swift.errors import DataError

Row = dict[str, Any]
Entry = tuple[str, "Row | DataError"]
KINDS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
COMPRESSIBLE = (".jsonl", ".json", ".csv", ".tsv", ".txt")
"""Endings that may be followed by one of `COMPRESSED`."""


def split_ending(name: str) -> tuple[str, str]:
    """The kind of a data file and its compression: `a.jsonl.gz` -> (".jsonl", ".gz"); "" for what is not known."""
    lower = name.lower()
    packed = next((ending for ending in COMPRESSED if lower.endswith(ending)), "")
    kinds = COMPRESSIBLE if packed else (*ENDINGS, ".ndjson")
    kind = next((ending for ending in kinds if lower.removesuffix(packed).endswith(ending)), "")
    return (".jsonl" if kind == ".ndjson" else kind), packed


def kind_of(value: object) -> str:
    """What a value is, in the words of JSON."""
    return KINDS.get(type(value), "a number")


def checked(where: str, row: object, may_be_broken: bool) -> Row | DataError:
    """The row, or an error when it is no object or holds text that cannot be written as UTF-8."""
    if not isinstance(row, dict):
        return DataError("DATA-02", f"{where}: the row is {kind_of(row)}, not an object")
    if may_be_broken and (key := broken_text(row)):
        return DataError("DATA-02", f'{where}: "{key}" holds half of a surrogate pair, which is no character')
    return row


def broken_text(row: Row) -> str | None:
    """The first key whose text holds a lone surrogate, such as `messages[1].content`."""
    left: list[tuple[str, object]] = [("", row)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            if _has_surrogate("".join(value)):
                return f"{key}.(a key)".lstrip(".")
            left += [(f"{key}.{name}".lstrip("."), item) for name, item in reversed(value.items())]
        elif isinstance(value, list):
            left += [(f"{key}[{i}]", value[i]) for i in reversed(range(len(value)))]
        elif isinstance(value, str) and _has_surrogate(value):
            return key
    return None


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
