"""The rows of one data set as conversations, wherever they lie: files, a hub, this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from swift import hub, storage
from swift.datasets import DatasetRecord
from swift.datasets.convert import (
    PASSED_ON,
    Conversation,
    Format,
    convert_row,
    describe,
    detect,
    renamed_format,
    unused_columns,
)
from swift.datasets.read import read_file
from swift.datasets.rows import Entry, Row
from swift.datasets.spec import DatasetSpec
from swift.errors import DataError, UsageError
from swift.log import get_logger

logger = get_logger()
HERE = Path(__file__).parent
HIDDEN = "-"
ENCODED = "encoded rows"
"""What the manifest of a directory calls itself that `swift data prepare` wrote."""
HEAD = 1000
"""Rows from which the format is read."""


@dataclass(frozen=True)
class Reading:
    """How rows are read.

    Attributes:
        columns: to rename.
        identity: name and author of the model by language, None when no data set asks.
        answers: whether every row needs one.
        text_unit: what one row of a txt file is.
        endless: whether rows of any length are taken.
        formats: those that rows may have; all that conversations come in where it is empty.
        met: those columns to rename that were there.
    """

    columns: Mapping[str, str]
    identity: Mapping[str, tuple[str, str]] | None
    answers: bool
    text_unit: str = "line"
    endless: bool = False
    formats: tuple[Format, ...] = ()
    met: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Table:
    """A file, or one split of a hub's data set: its name, and what opens it after some of its rows."""

    name: str
    open: Callable[[int], Iterator[Entry]]


Outcome = Conversation | DataError | str
"""What a row is: a conversation, bad, or left out for a reason."""
LEFT_OUT = "left out by the data set's own rule"
MOST_CHARACTERS = 1 << 24
ENDLESS = f"longer than {MOST_CHARACTERS:,} characters"
"""Tokenising such a row takes gigabytes, and there is no model that reads it."""


class Source:
    """One data set as typed.

    Attributes:
        spec: what was typed.
        tables: what it is made of, in order.
        excused: whether its bad rows do not count against `max_bad_rows`.
        formats: of each table that was begun.
    """

    def __init__(self, spec: DatasetSpec, reading: Reading, *, streaming: bool = False) -> None:
        self.spec, self.reading = spec, reading
        self.tables = list(_tables(spec, reading.text_unit, streaming))
        self.excused = spec.record is not None and spec.record.drop_bad_rows
        self.formats: dict[int, Format] = {}

    def rows(self, table: int = 0, skip: int = 0) -> Iterator[tuple[str, Outcome]]:
        """File and line of every row of one table, after the first `skip`, and what became of it.

        Raises:
            DataError: the columns are of no known format (DATA-04), or the rest cannot be read (DATA-01).
        """
        entries = self.tables[table].open(skip)
        if table not in self.formats:
            head = self._head(self.tables[table].open(0) if skip else entries)
            found = self._detect(table, [row for _, row in head if isinstance(row, dict)])
            if not found:
                yield from ((where, row if isinstance(row, DataError) else LEFT_OUT) for where, row in head[skip:])
                return
            if not skip:
                yield from (self._convert(table, where, row) for where, row in head)
        for where, entry in entries:
            yield self._convert(table, where, self._prepare(entry, where))

    def _head(self, entries: Iterator[Entry]) -> list[tuple[str, Row | DataError | None]]:
        head: list[tuple[str, Row | DataError | None]] = []
        usable = 0
        for where, entry in entries:
            head.append((where, self._prepare(entry, where)))
            usable += isinstance(head[-1][1], dict)
            if usable == HEAD:
                break
        return head

    def _detect(self, table: int, rows: Sequence[Row]) -> bool:
        """Learn the format of a table, and say what it is; False when there is no row to learn it from."""
        record = self.spec.record
        if not rows:
            return False
        if record is not None and record.conversations:
            known = renamed_format(record.conversations)
        else:
            known = detect(self.spec.text, rows, answers=self.reading.answers, formats=self.reading.formats)
        fresh = known.name not in [other.name for other in self.formats.values()]
        self.formats[table] = known
        if fresh:
            self._announce(table, known, rows)
        return True

    def _announce(self, table: int, known: Format, rows: Sequence[Row]) -> None:
        name = "" if len(self.tables) == 1 else f", from {self.tables[table].name} on"
        logger.info(f"{self.spec.text}: rows of format {known.name}{name}")
        for row in rows:
            try:
                first = convert_row(known, row, "", answers=self.reading.answers)
            except DataError:
                continue
            logger.info(f"  first: {describe(first)}")
            break
        passed = [key for key in PASSED_ON if any(row.get(key) is not None for row in rows)]
        if passed:
            logger.info(f"  columns passed on: {', '.join(passed)}")
        unused = unused_columns(known, rows)
        if unused:
            more = f" and {len(unused) - 10} more" if len(unused) > 10 else ""
            logger.info(f"  columns not used: {', '.join(unused[:10])}{more}")

    def _convert(self, table: int, where: str, row: Row | DataError | None) -> tuple[str, Outcome]:
        if not isinstance(row, dict):
            return where, row or LEFT_OUT
        try:
            converted = convert_row(self.formats[table], row, where, answers=self.reading.answers)
        except DataError as error:
            return where, error
        characters = sum(len(message["content"]) for message in converted["messages"])
        if characters > MOST_CHARACTERS and not self.reading.endless:
            return where, ENDLESS
        converted["dataset"] = self.spec.text
        return where, converted

    def _prepare(self, entry: Row | DataError, where: str) -> Row | DataError | None:
        """A row with its columns renamed and the record's own rule applied; None leaves it out."""
        record, reading = self.spec.record, self.reading
        if isinstance(entry, DataError):
            return entry
        try:
            row = _rename(entry, record.columns) if record else entry
            changed = _by_rule(row, record) if record else row
            if changed is not None and reading.identity and record and record.name == "self-cognition":
                changed = _introduce(changed, reading.identity)
            if changed is None or not reading.columns:
                return changed
            reading.met.update(reading.columns.keys() & changed.keys())
            return _rename(changed, reading.columns)
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            what = error.what if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            return DataError("DATA-03", f"{where}: {what}")


def _by_rule(row: Row, record: DatasetRecord) -> Row | None:
    """What the record makes of a row, by its function, labels and patterns."""
    changed = record.convert(row) if record.convert else row
    if changed is None or not (record.labels or record.fill):
        return changed
    named = {**changed}
    for column, names in record.labels.items():
        if named[column] is None or int(named[column]) < 0:  # how data sets mark a row that has no label
            return None
        named[column] = names[int(named[column])]
    filled = {column: pattern.format_map(_NotNull(named)) for column, pattern in record.fill.items()}
    return {**named, **filled}


class _NotNull(dict[str, Any]):
    """Columns for a pattern, none of which may be null."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if value is None:
            raise DataError("DATA-03", f'"{key}" is null')
        return value


def _rename(row: Row, columns: Mapping[str, str]) -> Row:
    moved = {theirs: ours for theirs, ours in columns.items() if theirs in row}
    if not moved:
        return row
    kept = {key: value for key, value in row.items() if key not in moved}
    for theirs, ours in moved.items():
        if ours == HIDDEN:
            continue
        if kept.get(ours) is not None:
            raise DataError("DATA-03", f'"{theirs}" cannot become "{ours}", which is there too')
        kept[ours] = row[theirs]
    return kept


def _introduce(row: Row, identity: Mapping[str, tuple[str, str]]) -> Row:
    name, author = identity[row["tag"]]
    fill = {key: row[key].replace("{{NAME}}", name).replace("{{AUTHOR}}", author) for key in ("query", "response")}
    return {**row, **fill}


def is_encoded(directory: Path) -> bool:
    """Whether `swift data prepare` wrote it."""
    try:
        return storage.read_manifest(directory).get("kind") == ENCODED
    except ValueError:
        return False


def _tables(spec: DatasetSpec, unit: str, streaming: bool) -> Iterator[Table]:
    record = spec.record
    for directory in {file.parent for file in spec.files}:
        if is_encoded(directory):
            fix = "name what it was made of; `swift sft --dataset` trains from it, alone"
            raise UsageError("USAGE-02", f"--dataset {spec.text} holds encoded rows, not conversations", fix=fix)
    if record is not None and record.path is not None:
        path = HERE / record.path if not Path(record.path).is_absolute() else Path(record.path)
        inside = path.is_relative_to(HERE.parent)
        yield _file(path, path.name if inside else str(path), unit)
        return
    yield from (_file(file, str(file), unit) for file in spec.files)
    if record is None and spec.hub_id is None:
        return
    hub_id, use_hf = hub_address(spec)
    for subset in spec.subsets or (record.subsets if record else ()) or (None,):
        for split in record.split if record else ("train",):
            name = "/".join(part for part in (hub_id, subset, split) if part)
            yield Table(name, _opener(name, hub_id, subset, split, use_hf, streaming))


def _file(path: Path, name: str, unit: str) -> Table:
    def rows(skip: int) -> Iterator[Entry]:
        return ((f"{name}{where.removeprefix(str(path))}", row) for where, row in read_file(path, skip, unit))

    return Table(name, (lambda skip: read_file(path, skip, unit)) if name == str(path) else rows)


def _opener(
    name: str, hub_id: str, subset: str | None, split: str, use_hf: bool, streaming: bool
) -> Callable[[int], Iterator[Entry]]:
    def rows(skip: int) -> Iterator[Entry]:
        options: dict[str, Any] = {"streaming": True} if streaming else {}
        for number, row in enumerate(hub.fetch_dataset(hub_id, subset, split, use_hf, **options), 1):
            if number > skip:
                yield f"{name}:{number}", dict(row)

    return rows


def hub_address(spec: DatasetSpec) -> tuple[str, bool]:
    """The id to fetch, and from Hugging Face or not."""
    use_hf = hub.use_hf() if spec.use_hf is None else spec.use_hf
    if spec.record is None:
        assert spec.hub_id is not None
        return spec.hub_id, use_hf
    hub_id = spec.record.hf if use_hf else spec.record.ms
    if hub_id is None:
        here, other = ("Hugging Face", "MS") if use_hf else ("ModelScope", "HF")
        bare = spec.text if spec.use_hf is None else spec.text[4:]
        raise UsageError("USAGE-02", f"{spec.record.name} is not on {here}", fix=f"--dataset {other}::{bare}")
    return hub_id, use_hf


def every_row(source: Source) -> Iterator[tuple[str, Outcome]]:
    """The rows of all tables of a data set."""
    return chain.from_iterable(source.rows(table) for table in range(len(source.tables)))
