"""Readers of tables: csv and tsv, parquet, and Arrow files as `datasets` writes them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import pyarrow
import pyarrow.parquet

from swift.datasets.rows import Entry, Row, broken_text
from swift.errors import DataError

LONGEST_CELL = 2**31 - 1
ARROW_FILE = b"ARROW1"  # how a file with random access begins; a stream has no such mark


def read_csv(path: Path, file: TextIO, mark: str) -> Iterator[Entry]:
    """Records of an open csv file whose cells are parted by `mark`; an empty cell is an empty string."""
    csv.field_size_limit(LONGEST_CELL)
    records = csv.reader(file, strict=True, delimiter=mark)
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
    if key := broken_text(row):
        return DataError("DATA-02", f'{where}: "{key}" is not UTF-8')
    return row


def read_parquet(path: Path, skip: int) -> Iterator[Entry]:
    """Rows of a parquet file, numbered from 1."""
    done = [0]
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _rows(path, file.iter_batches(batch_size=1000), skip, done)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError("DATA-01", f"{path}: not readable as parquet after row {done[0]}: {error}") from None


def read_arrow(path: Path, skip: int) -> Iterator[Entry]:
    """Rows of an Arrow stream or file, numbered from 1."""
    done = [0]
    try:
        with pyarrow.memory_map(str(path)) as source:
            if source.read(len(ARROW_FILE)) == ARROW_FILE:
                source.seek(0)
                file = pyarrow.ipc.open_file(source)
                batches: Iterable[pyarrow.RecordBatch] = map(file.get_batch, range(file.num_record_batches))
            else:
                source.seek(0)
                batches = pyarrow.ipc.open_stream(source)
            yield from _rows(path, batches, skip, done)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError("DATA-01", f"{path}: not readable as arrow after row {done[0]}: {error}") from None


def _rows(path: Path, batches: Iterable[pyarrow.RecordBatch], skip: int, done: list[int]) -> Iterator[Entry]:
    """Rows of the batches after the first `skip`; `done[0]` counts how far it got."""
    for batch in batches:
        if done[0] + batch.num_rows <= skip:
            done[0] += batch.num_rows
            continue
        first = max(skip - done[0], 0)
        done[0] += first
        for start in range(first, batch.num_rows, 1000):
            for row in batch.slice(start, 1000).to_pylist():
                done[0] += 1
                yield f"{path}:{done[0]}", row
