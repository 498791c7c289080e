"""Rows of a data file with their file and line: jsonl, json, csv and parquet, by the name's ending.

Every reader yields `(where, row)` for each row there is; where one cannot be parsed, `row` is the error that says why.
Only what makes the rest of a file unreadable is raised.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from swift.errors import DataError, NotFoundError

Row = dict[str, Any]
Entry = tuple[str, "Row | DataError"]
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
BOM = "\ufeff"
LONGEST_CELL = 2**31 - 1
KINDS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


def read_file(path: Path) -> Iterator[Entry]:
    """Rows of one data file.

    Raises:
        NotFoundError: there is no such file.
        DataError: its ending is not known, or it cannot be read to its end (DATA-01).
    """
    if not path.is_file():
        raise NotFoundError("FOUND-01", f"{path} does not exist")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError("DATA-01", f"{path}: files of this kind are not read", fix=f"use one of {', '.join(READERS)}")
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError("DATA-01", f"{path}: {error.strerror or error}") from error


def kind_of(value: object) -> str:
    """What a value is, in the words of JSON."""
    return KINDS.get(type(value), "a number")


def _read_jsonl(path: Path) -> Iterator[Entry]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{path}:{number}", _parse_line(f"{path}:{number}", line, number == 1)


def _parse_line(where: str, line: bytes, first: bool) -> Row | DataError:
    try:
        text = line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        return DataError("DATA-02", f"{where}: byte {error.start + 1} is not UTF-8")
    if text.startswith(BOM):
        return DataError("DATA-02", f"{where}: the line starts with a byte order mark", fix="remove it")
    fix = "a file that is one JSON list is to be named .json" if first and text.lstrip().startswith("[") else None
    try:
        row = DECODER.decode(text.strip())
    except json.JSONDecodeError as error:
        return DataError("DATA-02", f"{where}: column {error.colno}: {_reason(error, text)}", fix=fix)
    except (ValueError, RecursionError) as error:
        return DataError("DATA-02", f"{where}: {_refusal(error)}")
    return _checked(where, row, bool(SURROGATE_ESCAPE.search(text)))


def _reason(error: json.JSONDecodeError, text: str) -> str:
    if not text.rstrip().endswith(("}", "]")):
        return f"the line is cut off ({error.msg})"
    at = text.lstrip()[error.pos : error.pos + 1]
    if at and ord(at) < 32:
        return f"a raw control character (U+{ord(at):04X}) inside a string"
    return error.msg


def _refusal(error: ValueError | RecursionError) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _checked(where: str, row: object, may_be_broken: bool) -> Row | DataError:
    """The row, or an error when it is no object or holds text that cannot be written as UTF-8."""
    if not isinstance(row, dict):
        return DataError("DATA-02", f"{where}: the row is {kind_of(row)}, not an object")
    if may_be_broken and (key := _broken_text(row)):
        return DataError("DATA-02", f'{where}: "{key}" holds half of a surrogate pair, which is no character')
    return row


def _broken_text(row: Row) -> str | None:
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


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'the key "{next(n for n in names if names.count(n) > 1)}" is there twice')
    return row


DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _read_json(path: Path) -> Iterator[Entry]:
    """A list of objects; or one object per line, which many files of this name hold."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("DATA-01", f"{path}: byte {error.start + 1} is not UTF-8") from None
    at = _skip(text, 0)
    if text[at : at + 1] == "[":
        yield from _read_list(path, text, at + 1)
    elif text[at : at + 1] == "{" and not _is_one_object(text, at):
        yield from _read_jsonl(path)
    elif at < len(text):
        raise DataError("DATA-01", f"{path}: not a list of objects", fix="write [{...}, {...}] or one object per line")


def _is_one_object(text: str, at: int) -> bool:
    """Whether an object that takes several lines starts here."""
    try:
        _, end = DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return False
    return "\n" in text[at:end]


def _read_list(path: Path, text: str, at: int) -> Iterator[Entry]:
    at = _skip(text, at)
    line, last_line, number, done = 1 + text.count("\n", 0, at), 0, 0, text[at : at + 1] == "]"
    while not done:
        number += 1
        where = f"{path}:{line}" + (f" (row {number})" if line == last_line else "")
        start, last_line = at, line
        row, at = _decode(path, where, text, at)
        yield where, _checked(where, row, bool(SURROGATE_ESCAPE.search(text, start, at)))
        mark_at = _skip(text, at)
        at = _skip(text, mark_at + 1)
        line += text.count("\n", start, at)
        done = text[mark_at : mark_at + 1] == "]" and at >= len(text)
        if not done and text[mark_at : mark_at + 1] != ",":
            raise DataError("DATA-01", f"{path}:{line}: a comma or the end of the list is missing after row {number}")


def _decode(path: Path, where: str, text: str, at: int) -> tuple[object, int]:
    try:
        return DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise DataError("DATA-01", f"{path}:{error.lineno}: column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise DataError("DATA-01", f"{where}: {_refusal(error)}") from None


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _read_csv(path: Path) -> Iterator[Entry]:
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        records = csv.reader(file, strict=True)
        header = _read_header(path, records)
        while True:
            where = f"{path}:{records.line_num + 1}"
            try:
                cells = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                yield where, _csv_error(where, error, records.line_num)
                continue
            if cells:
                yield where, _csv_row(where, header, cells)


def _read_header(path: Path, records: Iterator[list[str]]) -> list[str]:
    try:
        header = next(records, [])
    except csv.Error as error:
        raise DataError("DATA-01", f"{path}:1: {error}") from None
    twice = [name for i, name in enumerate(header) if name in header[:i]]
    if twice:
        raise DataError("DATA-01", f'{path}:1: the column "{twice[0]}" is there twice', fix="rename or remove one")
    return header


def _csv_error(where: str, error: csv.Error, line: int) -> DataError:
    if "end of data" in str(error):
        raise DataError("DATA-01", f"{where}: a quote that opens here is never closed", fix='write " inside as ""')
    return DataError("DATA-02", f"{where}: {error} (up to line {line})")


def _csv_row(where: str, header: list[str], cells: list[str]) -> Row | DataError:
    if len(cells) != len(header):
        return DataError("DATA-02", f"{where}: {len(cells)} cells for {len(header)} columns")
    row = dict(zip(header, cells, strict=True))
    if key := _broken_text(row):
        return DataError("DATA-02", f'{where}: "{key}" is not UTF-8')
    return row


def _read_parquet(path: Path) -> Iterator[Entry]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError("DATA-01", f"{path}: not readable as parquet after row {number}: {error}") from None


READERS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
