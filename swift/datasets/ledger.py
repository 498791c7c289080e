"""The account of every row: rows read = trained + validation + each reason dropped, with file and line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from swift.errors import DataError
from swift.log import get_logger

logger = get_logger()
Part = Literal["train", "validation"]
BAD = "bad row"
NOT_SAMPLED = "not sampled"
SHOWN = 5


@dataclass
class Share:
    """What one part got: different rows, and examples, which are more when rows are drawn again."""

    rows: int = 0
    examples: int = 0


@dataclass
class Ledger:
    """Counts rows from reading to training.

    Attributes:
        max_bad_rows: how many bad rows may be dropped before it is an error.
        sources: for every data set as typed, its format and how many rows were read.
        parts: what training and validation got.
        dropped: the file and line of each row left out, by reason.
        bad_rows: what is wrong with each bad row that counts against `max_bad_rows`.
        excused: what is wrong with those that do not.
        cut: rows that are used and fill the maximal length, to which longer ones are cut.
    """

    max_bad_rows: int = 0
    sources: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[Part, Share] = field(default_factory=lambda: {"train": Share(), "validation": Share()})
    dropped: dict[str, list[str]] = field(default_factory=dict)
    bad_rows: list[DataError] = field(default_factory=list)
    excused: list[DataError] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    _told: int = 0

    @property
    def rows_read(self) -> int:
        """Rows found in all data sets, good or bad."""
        return sum(source["rows"] for source in self.sources)

    @property
    def trained(self) -> int:
        """Different rows that are trained on."""
        return self.parts["train"].rows

    @property
    def balanced(self) -> bool:
        """Whether every row read is trained on, validated on or dropped for a reason."""
        used = sum(share.rows for share in self.parts.values())
        return self.rows_read == used + sum(map(len, self.dropped.values()))

    def read(self, dataset: str, rows: int, row_format: str | None = None) -> None:
        """Enter a data set with the number of rows found in it."""
        self.sources.append({"dataset": dataset, "format": row_format, "rows": rows})

    def drop(self, reason: str, where: str) -> None:
        """Enter a row that is left out."""
        self.dropped.setdefault(reason, []).append(where)

    def reject(self, where: str, error: DataError, *, excused: bool = False) -> None:
        """Enter a row that cannot be used; `excused` ones do not count against `max_bad_rows`."""
        self.drop(BAD, where)
        (self.excused if excused else self.bad_rows).append(error)

    def use(self, part: Part, examples: Sequence[object]) -> None:
        """Enter the examples of one part; one row may be there several times, as the same object."""
        self.parts[part].rows += len({id(row) for row in examples})
        self.parts[part].examples += len(examples)

    def withdraw(self, part: Part, reason: str, where: str, examples: int, error: DataError | None = None) -> None:
        """Move a row, and the `examples` that were made of it, from a part to the dropped; a bad one has an error."""
        self.parts[part].rows -= 1
        self.parts[part].examples -= examples
        if error is None:
            self.drop(reason, where)
        else:
            self.reject(where, error)

    def check_bad_rows(self) -> None:
        """Say which rows are bad, once.

        Raises:
            DataError: there are more than `max_bad_rows`; lists the first five.
        """
        every, count = [*self.bad_rows, *self.excused], len(self.bad_rows)
        if count <= self.max_bad_rows:
            if len(every) > self._told:
                logger.warning(f"dropped {len(every)} bad rows of {self.rows_read}; the first are:\n{_first(every)}")
            self._told = len(every)
            return
        one = self.bad_rows[0]
        if count == 1:
            raise DataError(one.code, one.what, why=one.why, fix=one.fix or "correct it, or drop it: --max_bad_rows 1")
        what = f"{count} of {self.rows_read} rows cannot be used; the first are:\n{_first(self.bad_rows)}"
        raise DataError(one.code, what, fix=f"correct them, or drop them: --max_bad_rows {count}")

    def summary(self) -> str:
        """One line: where every row went."""
        train, validation = self.parts["train"], self.parts["validation"]
        terms = [f"{train.rows:,} trained", f"{validation.rows:,} validation"]
        terms += [
            f"{len(rows):,} {reason}{'s' if reason == BAD and len(rows) > 1 else ''}"
            for reason, rows in self.dropped.items()
        ]
        again = sum(share.examples - share.rows for share in self.parts.values())
        notes = [f"{again:,} drawn again"] if again else []
        notes += [f"{len(self.cut):,} cut to the maximal length"] if self.cut else []
        more = f" ({', '.join(notes)})" if notes else ""
        return f"rows: {self.rows_read:,} read = {' + '.join(terms)}{more}"

    def to_json(self) -> dict[str, Any]:
        """Everything, as `data_report.json` holds it: dropped rows as lines by file."""
        return {
            "rows_read": self.rows_read,
            **{part: {"rows": share.rows, "examples": share.examples} for part, share in self.parts.items()},
            "dropped": {
                reason: {"rows": len(places), "lines": _by_file(places)} for reason, places in self.dropped.items()
            },
            "cut": _by_file(self.cut),
            "bad_rows": [error.what for error in [*self.bad_rows, *self.excused]],
            "datasets": self.sources,
        }


def _first(errors: Sequence[DataError]) -> str:
    return "\n".join(f"  {error.what}" for error in errors[:SHOWN])


def _by_file(places: Sequence[str]) -> dict[str, list[int | str]]:
    lines: dict[str, list[int | str]] = {}
    for place in places:
        file, _, line = place.rpartition(":")
        lines.setdefault(file, []).append(int(line) if line.isdigit() else line)
    return lines
