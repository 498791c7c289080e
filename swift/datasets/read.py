"""Rows of a data file with their file and line, by the name's ending; gz, zst, bz2 and xz are unpacked on the way.

Every reader yields `(where, row)` for each row there is; where one cannot be parsed, `row` is the error that says why.
Only what makes the rest of a file unreadable is raised. No reader holds more of a file than its largest row asks for.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow

from swift.datasets import tables
from swift.datasets.rows import COMPRESSED, COMPRESSIBLE, ENDINGS, Entry, Row, checked, kind_of, split_ending
from swift.errors import DataError, MissingPackageError, NotFoundError

__all__ = ["READERS", "Entry", "Row", "kind_of", "read_file"]

SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
BOM = "\ufeff"
CHUNK = 1 << 20
BLANK = re.compile(r"[ \t\r\n]*")


def read_file(path: Path, skip: int = 0, text_unit: str = "line") -> Iterator[Entry]:
    """Rows of one data file.

    Args:
        path: of the file.
        skip: how many rows at its start are left out; jsonl, txt, parquet and arrow pass over them unparsed.
        text_unit: what one row of a txt file is: a "line", a "paragraph" (up to a blank line), or the "file".

    Raises:
        NotFoundError: there is no such file.
        DataError: its ending is not known, or it cannot be read to its end (DATA-01).
        MissingPackageError: it is packed in a way that this installation cannot unpack.
    """
    if not path.is_file():
        raise NotFoundError("FOUND-01", f"{path} does not exist")
    reader = READERS.get(split_ending(path.name)[0])
    if reader is None:
        packed = f"; of these, {', '.join(COMPRESSIBLE)} also as {', '.join(COMPRESSED)}"
        raise DataError(
            "DATA-01", f"{path}: files of this kind are not read", fix=f"use one of {', '.join(ENDINGS)}{packed}"
        )
    try:
        yield from reader(path, skip) if reader is not _read_txt else UNITS[text_unit](path, skip)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError("DATA-01", f"{path}: {getattr(error, 'strerror', None) or error}") from error


def open_bytes(path: Path) -> BinaryIO:
    """A data file opened for reading, unpacked when its name says that it is packed."""
    packed = split_ending(path.name)[1]
    if packed == ".zst":
        try:
            stream = pyarrow.input_stream(str(path), compression="zstd")
        except pyarrow.ArrowNotImplementedError:
            raise MissingPackageError("PACKAGE-01", f"{path}: this pyarrow cannot read zstd", fix="unpack it") from None
        return cast(BinaryIO, io.BufferedReader(cast(Any, stream), CHUNK))
    opened = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[packed]
    return cast(BinaryIO, opened(path, "rb"))


def _lines(file: BinaryIO, skip: int) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank with their numbers, after the first `skip` of them."""
    return islice(((number, line) for number, line in enumerate(file, 1) if line.strip()), skip, None)


def _read_jsonl(path: Path, skip: int) -> Iterator[Entry]:
    with open_bytes(path) as file:
        for number, line in _lines(file, skip):
            yield f"{path}:{number}", _parse_line(f"{path}:{number}", line, number == 1)


def _read_txt(path: Path, skip: int) -> Iterator[Entry]:
    """Every line that is not blank is a text of its own."""
    with open_bytes(path) as file:
        for number, line in _lines(file, skip):
            where = f"{path}:{number}"
            try:
                yield where, {"text": line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")}
            except UnicodeDecodeError as error:
                yield where, DataError("DATA-02", f"{where}: byte {error.start + 1} is not UTF-8")


def _read_paragraphs(path: Path, skip: int) -> Iterator[Entry]:
    """Lines up to a blank one are a text of their own."""
    with open_bytes(path) as file:
        groups = groupby(enumerate(file, 1), lambda numbered: bool(numbered[1].strip()))
        for _, lines in islice(((filled, group) for filled, group in groups if filled), skip, None):
            numbers, texts = zip(*lines, strict=True)
            yield _one_text(path, numbers[0], b"".join(texts))


def _read_whole(path: Path, skip: int) -> Iterator[Entry]:
    """All of it is one text."""
    with open_bytes(path) as file:
        text = b"" if skip else file.read()
    if text.strip():
        yield _one_text(path, 1, text)


def _one_text(path: Path, line: int, text: bytes) -> Entry:
    where = f"{path}:{line}"
    try:
        return where, {"text": text.decode("utf-8-sig" if line == 1 else "utf-8").rstrip("\r\n")}
    except UnicodeDecodeError as error:
        at = line + text.count(b"\n", 0, error.start)
        return where, DataError("DATA-02", f"{path}:{at}: byte {error.start + 1} of the text is not UTF-8")


UNITS = {"line": _read_txt, "paragraph": _read_paragraphs, "file": _read_whole}


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
    if fix and isinstance(row, list):
        return DataError("DATA-02", f"{where}: the row is a list, not an object", fix=fix)
    return checked(where, row, bool(SURROGATE_ESCAPE.search(text)))


def _reason(error: json.JSONDecodeError, text: str) -> str:
    if not text.rstrip().endswith(("}", "]")):
        return f"the line is cut off ({error.msg})"
    at = text.lstrip()[error.pos : error.pos + 1]
    if at and ord(at) < 32:
        return f"a raw control character (U+{ord(at):04X}) inside a string"
    return error.msg


def _refusal(error: ValueError | RecursionError) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'the key "{next(n for n in names if names.count(n) > 1)}" is there twice')
    return row


DECODER = json.JSONDecoder(object_pairs_hook=_unique)


class _Buffer:
    """A window on the text of a JSON file: read on demand, forgotten when decoded.

    Attributes:
        text: what is read and not yet forgotten.
        at: where in it decoding stands.
        line: the number of the line there.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.text, self.at, self.line = "", 0, 1
        self._cut = self._bytes = 0  # characters of the first line that are forgotten; bytes read
        self._at_end = False
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()

    def fill(self) -> bool:
        """Read on, as much again as there is; False at the end of the file."""
        if self._at_end:
            return False
        gone, self.text, self.at = self.text[: self.at], self.text[self.at :], 0
        self._cut = len(gone) - gone.rfind("\n") - 1 + (self._cut if "\n" not in gone else 0)
        chunk = self.file.read(max(CHUNK, len(self.text)))
        waiting = len(self._decoder.getstate()[0])
        try:
            self.text += self._decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            number = self._bytes - waiting + error.start + 1
            raise DataError("DATA-01", f"{self.path}: byte {number} is not UTF-8") from None
        self._bytes += len(chunk)
        self._at_end = not chunk
        return True

    def go(self, to: int) -> None:
        """Move on in `text`."""
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def next_sign(self) -> str:
        """The next character that is no blank, where decoding stands then; "" at the end."""
        while True:
            start = BLANK.match(self.text, self.at)
            self.go(start.end() if start else self.at)
            if self.at < len(self.text) or not self.fill():
                return self.text[self.at : self.at + 1]

    def decode(self, where: str) -> tuple[object, str]:
        """The value that starts here, and the text it was.

        Raises:
            DataError: it is no JSON (DATA-01).
        """
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.fill():
                    continue
                line = self.line + self.text.count("\n", self.at, error.pos)
                column = error.colno + (self._cut if error.lineno == 1 else 0)
                raise DataError("DATA-01", f"{self.path}:{line}: column {column}: {error.msg}") from None
            except (ValueError, RecursionError) as error:
                raise DataError("DATA-01", f"{where}: {_refusal(error)}") from None
            if end < len(self.text) or not self.fill():
                text = self.text[self.at : end]
                self.go(end)
                return value, text


def _read_json(path: Path, skip: int) -> Iterator[Entry]:
    """A list of objects; or one object per line, which many files of this name hold."""
    with open_bytes(path) as file:
        buffer = _Buffer(path, file)
        sign = buffer.next_sign()
        if sign == "[":
            yield from islice(_read_list(buffer), skip, None)
            return
        if sign != "{" or _takes_lines(buffer):
            if sign:
                raise DataError(
                    "DATA-01", f"{path}: not a list of objects", fix="write [{...}, {...}] or one object per line"
                )
            return
    yield from _read_jsonl(path, skip)


def _takes_lines(buffer: _Buffer) -> bool:
    """Whether the object that starts here takes several lines."""
    try:
        _, text = buffer.decode("")
    except DataError:
        return False
    return "\n" in text


def _read_list(buffer: _Buffer) -> Iterator[Entry]:
    buffer.go(buffer.at + 1)
    last_line = number = 0
    done = buffer.next_sign() == "]"
    while not done:
        number += 1
        where = f"{buffer.path}:{buffer.line}" + (f" (row {number})" if buffer.line == last_line else "")
        last_line = buffer.line
        row, text = buffer.decode(where)
        yield where, checked(where, row, bool(SURROGATE_ESCAPE.search(text)))
        sign = buffer.next_sign()
        line = buffer.line
        buffer.go(buffer.at + 1)
        after = buffer.next_sign()
        done = sign == "]" and not after
        if not done and sign != ",":
            raise DataError(
                "DATA-01", f"{buffer.path}:{line}: a comma or the end of the list is missing after row {number}"
            )


def _read_csv(path: Path, skip: int) -> Iterator[Entry]:
    with io.TextIOWrapper(open_bytes(path), "utf-8-sig", "surrogateescape", newline="") as file:
        tabs = split_ending(path.name)[0] == ".tsv"
        yield from islice(tables.read_csv(path, file, "\t" if tabs else ","), skip, None)


READERS: dict[str, Callable[[Path, int], Iterator[Entry]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": tables.read_parquet,
    ".arrow": tables.read_arrow,
    ".txt": _read_txt,
}
