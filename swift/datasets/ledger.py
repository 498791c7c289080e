"""The account of every row: rows read = trained + validation + each reason dropped, with file and line.

It is kept for all data sets together and for each as it was typed, with the tokens that rows became.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal

from swift.datasets.places import Places
from swift.errors import DataError
from swift.log import get_logger

logger = get_logger()
Part = Literal["train", "validation"]
PARTS: tuple[Part, ...] = ("train", "validation")
BAD = "bad row"
NOT_SAMPLED, NOT_MIXED = "not sampled", "left out of the mix"
SHOWN = 5


@dataclass
class Share:
    """What one part got: different rows; examples, which are more when rows are drawn again; the tokens of these.

    Attributes:
        rows: how many rows.
        examples: how many times one of them is used, where each goes over the data once.
        supervised: tokens that are learnt.
        masked: tokens that are only read.
        truncated: tokens that were cut off.
    """

    rows: int = 0
    examples: int = 0
    supervised: int = 0
    masked: int = 0
    truncated: int = 0


@dataclass
class Account:
    """What became of one data set, as it was typed.

    Attributes:
        padded: tokens of padding that training computed beside its rows; None before, and where rows went in packs.
    """

    dataset: str
    format: str | None = None
    rows: int = 0
    train: Share = field(default_factory=Share)
    validation: Share = field(default_factory=Share)
    dropped: dict[str, int] = field(default_factory=dict)
    padded: int | None = None

    def part(self, name: Part) -> Share:
        """What training or validation got of it."""
        return self.train if name == "train" else self.validation


@dataclass
class Ledger:
    """Counts rows from reading to training.

    Attributes:
        max_bad_rows: how many bad rows may be dropped before it is an error; -1 is any number.
        most_places: how many lines are kept by name for each reason; None is all. Counts are always exact.
        accounts: of every data set as typed.
        dropped: the file and line of each row left out, by reason.
        bad_rows: what is wrong with each bad row that counts against `max_bad_rows`.
        excused: what is wrong with those that do not.
        cut: rows that are used and fill the maximal length, to which longer ones are cut.
        padded: tokens of padding that training computed besides; None before it ran.
        pieces: how many pieces the rows of each part were cut into, where they were.
    """

    max_bad_rows: int = 0
    most_places: int | None = None
    accounts: dict[str, Account] = field(default_factory=dict)
    dropped: dict[str, Places] = field(default_factory=dict)
    bad_rows: list[DataError] = field(default_factory=list)
    excused: list[DataError] = field(default_factory=list)
    cut: Places = field(default_factory=Places)
    padded: int | None = None
    pieces: dict[Part, int] = field(default_factory=dict)
    _told: int = 0

    @property
    def rows_read(self) -> int:
        """Rows found in all data sets, good or bad."""
        return sum(account.rows for account in self.accounts.values())

    @property
    def parts(self) -> dict[Part, Share]:
        """What training and validation got of all data sets together."""
        shares: dict[Part, Share] = {name: Share() for name in PARTS}
        for account in self.accounts.values():
            for name, total in shares.items():
                for key, count in vars(account.part(name)).items():
                    setattr(total, key, getattr(total, key) + count)
        return shares

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Every data set with its format and how many rows were read."""
        return [{"dataset": a.dataset, "format": a.format, "rows": a.rows} for a in self.accounts.values()]

    @property
    def trained(self) -> int:
        """Different rows that are trained on."""
        return self.parts["train"].rows

    @property
    def balanced(self) -> bool:
        """Whether every row read is trained on, validated on or dropped for a reason; of all, and of each data set."""
        each = [
            account.rows == account.train.rows + account.validation.rows + sum(account.dropped.values())
            for account in self.accounts.values()
        ]
        used = sum(share.rows for share in self.parts.values())
        return all(each) and self.rows_read == used + sum(map(len, self.dropped.values()))

    def account(self, dataset: str | None) -> Account:
        """The account of a data set; of the only one where None is said."""
        if dataset is None:
            dataset = next(iter(self.accounts), "")
        if dataset not in self.accounts:
            self.accounts[dataset] = Account(dataset)
        return self.accounts[dataset]

    def read(self, dataset: str, rows: int, row_format: str | None = None) -> None:
        """Enter a data set, or more of it, with the number of rows found."""
        account = self.account(dataset)
        account.rows += rows
        formats = account.format.split(", ") if account.format else []
        if row_format and row_format not in formats:
            account.format = ", ".join([*formats, row_format])

    def drop(self, reason: str, where: str, dataset: str | None = None) -> None:
        """Enter a row that is left out."""
        self.dropped.setdefault(reason, Places(self.most_places)).append(where)
        dropped = self.account(dataset).dropped
        dropped[reason] = dropped.get(reason, 0) + 1

    def reject(self, where: str, error: DataError, *, excused: bool = False, dataset: str | None = None) -> None:
        """Enter a row that cannot be used; `excused` ones do not count against `max_bad_rows`."""
        self.drop(BAD, where, dataset)
        kept = self.excused if excused else self.bad_rows
        if self.most_places is None or len(kept) < max(self.most_places, self.max_bad_rows + 1):
            kept.append(error)

    def use(self, part: Part, examples: Sequence[Mapping[str, Any]]) -> None:
        """Enter the examples of one part; one row may be there several times, as the same object."""
        seen: set[int] = set()
        for row in examples:
            share = self.account(row.get("dataset")).part(part)
            share.rows += id(row) not in seen
            share.examples += 1
            seen.add(id(row))

    def count(
        self,
        part: Part,
        dataset: str | None,
        supervised: int,
        masked: int,
        truncated: int = 0,
        examples: int = 1,
    ) -> None:
        """Enter the tokens of a row that is used in `examples` of a part.

        Args:
            part: which.
            dataset: of the row.
            supervised: its tokens that are learnt.
            masked: its tokens that are only read.
            truncated: its tokens that were cut off.
            examples: how many times it is used.
        """
        share = self.account(dataset).part(part)
        share.supervised += supervised * examples
        share.masked += masked * examples
        share.truncated += truncated * examples

    def pad(self, tokens: int, of_datasets: Mapping[str, int]) -> None:
        """Enter the padding that training computed, and how much of it stood beside the rows of each data set."""
        self.padded = tokens
        for dataset, count in of_datasets.items():
            self.account(dataset).padded = count

    def withdraw(
        self,
        part: Part,
        reason: str,
        where: str,
        examples: int,
        error: DataError | None = None,
        dataset: str | None = None,
    ) -> None:
        """Move a row, and the `examples` that were made of it, from a part to the dropped; a bad one has an error."""
        share = self.account(dataset).part(part)
        share.rows -= 1
        share.examples -= examples
        if error is None:
            self.drop(reason, where, dataset)
        else:
            self.reject(where, error, dataset=dataset)

    def too_many(self, bad_rows: int) -> bool:
        """Whether these are more bad rows than may be dropped."""
        return 0 <= self.max_bad_rows < bad_rows

    def check_bad_rows(self) -> None:
        """Say which rows are bad, once.

        Raises:
            DataError: there are more than `max_bad_rows`; lists the first five.
        """
        every, count = [*self.bad_rows, *self.excused], len(self.bad_rows)
        if not self.too_many(count):
            if len(every) > self._told:
                rows = "1 bad row" if len(every) == 1 else f"{len(every):,} bad rows"
                logger.warning(f"dropped {rows} of {self.rows_read:,}{_first(every)}")
            self._told = len(every)
            return
        one = self.bad_rows[0]
        if count == 1:
            fix = f"{one.fix or 'correct it'}, or drop it: --max_bad_rows 1"
            raise DataError(one.code, one.what, why=one.why, fix=fix)
        what = f"{count} of {self.rows_read} rows cannot be used{_first(self.bad_rows)}"
        alike = one.fix if all(error.fix == one.fix for error in self.bad_rows) else None
        raise DataError(one.code, what, fix=f"{alike or 'correct them'}, or drop them: --max_bad_rows {count}")

    def summary(self) -> str:
        """One line: where every row went."""
        train, validation = self.parts["train"], self.parts["validation"]
        terms = [f"{train.rows:,} trained", f"{validation.rows:,} validation"]
        terms += [
            f"{len(rows):,} {reason}{'s' if reason == BAD and len(rows) > 1 else ''}"
            for reason, rows in self.dropped.items()
        ]
        again = train.examples + validation.examples - train.rows - validation.rows
        notes = [f"{again:,} drawn again"] if again else []
        notes += [f"{len(self.cut):,} cut to the maximal length"] if len(self.cut) else []
        more = f" ({', '.join(notes)})" if notes else ""
        return f"rows: {self.rows_read:,} read = {' + '.join(terms)}{more}"

    def screen(self) -> str:
        """Some lines: the account of every data set, its tokens, and of all together."""
        lines = [self.summary(), *_table(list(self.accounts.values())), *self._named()]
        train = self.parts["train"]
        tokens = train.supervised + train.masked
        if tokens:
            share = f"{100 * train.supervised / tokens:.1f} %"
            learnt = f"of which {train.supervised:,} are learnt ({share})" if train.supervised else "of prompts alone"
            lines.append(f"training tokens: {tokens:,}, {learnt}")
        lines += (
            [f"pieces: {', '.join(f'{count:,} {part}' for part, count in self.pieces.items())}"] if self.pieces else []
        )
        lines += [self.padding()] if self.padded is not None else []
        return "\n".join(lines)

    def padding(self) -> str:
        """One line: how much padding training computed; beside the rows of which data set, where there are several."""
        each = [f"{account.dataset} {account.padded:,}" for account in self.accounts.values() if account.padded]
        apart = f" ({', '.join(each)})" if len(self.accounts) > 1 and each else ""
        return f"tokens of padding: {self.padded or 0:,}{apart}"

    def _named(self) -> Iterator[str]:
        """The first rows of every reason that nobody asked for."""
        reasons = {reason: rows for reason, rows in self.dropped.items() if reason not in (NOT_SAMPLED, NOT_MIXED)}
        reasons |= {"cut to the maximal length": self.cut} if len(self.cut) else {}
        for reason, rows in reasons.items():
            first = list(islice(rows, SHOWN))
            more = f" and {len(rows) - len(first):,} more" if len(rows) > len(first) else ""
            yield f"{reason}: {', '.join(first)}{more}"

    def to_json(self) -> dict[str, Any]:
        """Everything, as `data_report.json` holds it: dropped rows as lines by file."""
        return {
            "rows_read": self.rows_read,
            **{part: asdict(share) for part, share in self.parts.items()},
            "padded": self.padded,
            **({"pieces": dict(self.pieces)} if self.pieces else {}),
            "dropped": {
                reason: {"rows": len(places), "lines": places.by_file()} for reason, places in self.dropped.items()
            },
            "cut": self.cut.by_file(),
            "bad_rows": [error.what for error in [*self.bad_rows, *self.excused]],
            "datasets": [asdict(account) for account in self.accounts.values()],
        }

    def to_state(self) -> dict[str, Any]:
        """Everything that `from_state` needs to go on counting, as plain values."""
        return {
            "accounts": [asdict(account) for account in self.accounts.values()],
            "dropped": {reason: places.to_state() for reason, places in self.dropped.items()},
            "cut": self.cut.to_state(),
            "bad_rows": [_plain(error) for error in self.bad_rows],
            "excused": [_plain(error) for error in self.excused],
            **({"pieces": dict(self.pieces)} if self.pieces else {}),
        }

    def from_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `to_state` gave."""
        self.accounts = {}
        for saved in state["accounts"]:
            shares = {name: Share(**saved[name]) for name in PARTS}
            self.accounts[saved["dataset"]] = Account(**{**saved, **shares})
        self.dropped = {
            reason: Places.from_state(saved, self.most_places) for reason, saved in state["dropped"].items()
        }
        self.cut = Places.from_state(state["cut"], self.most_places)
        self.bad_rows = [_error(saved) for saved in state["bad_rows"]]
        self.excused = [_error(saved) for saved in state["excused"]]
        self.pieces = dict(state.get("pieces", {}))
        self._told = len(self.bad_rows) + len(self.excused)


def _first(errors: Sequence[DataError]) -> str:
    """The end of a sentence: the first of them."""
    lines = ":" if len(errors) <= SHOWN else "; the first are:"
    return "\n".join([lines, *(f"  {error.what}" for error in errors[:SHOWN])])


def _plain(error: DataError) -> list[str | None]:
    return [error.code, error.what, error.why, error.fix]


def _error(saved: Sequence[Any]) -> DataError:
    return DataError(saved[0], saved[1], why=saved[2], fix=saved[3])


HEADS = ("data set", "read", "train", "validation", "left out", "learnt tokens", "other tokens", "cut off")
PADDING = "padding"


def cells(account: Account) -> tuple[str, ...]:
    """What a table says of a data set, under `HEADS`."""
    name = account.dataset if len(account.dataset) <= 40 else f"…{account.dataset[-39:]}"
    train = account.train
    numbers = (account.rows, train.rows, account.validation.rows, sum(account.dropped.values()))
    return (name, *(f"{number:,}" for number in (*numbers, train.supervised, train.masked, train.truncated)))


def _table(accounts: Sequence[Account]) -> Iterator[str]:
    rows = [HEADS, *map(cells, accounts)]
    if any(account.padded is not None for account in accounts):
        padded = ["–" if account.padded is None else f"{account.padded:,}" for account in accounts]
        rows = [(*row, last) for row, last in zip(rows, [PADDING, *padded], strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        numbers = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  " + "  ".join([row[0].ljust(widths[0]), *numbers]).rstrip()
