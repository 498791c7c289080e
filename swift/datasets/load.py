"""Data sets as typed, made into conversations to train and validate on; every row is entered in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from swift.datasets.convert import Conversation, Format
from swift.datasets.ledger import NOT_MIXED, NOT_SAMPLED, Ledger, Part
from swift.datasets.mix import FIRST, Mix, choose_mix, mix_rows, rows_drawn
from swift.datasets.sample import split_rows
from swift.datasets.source import Outcome, Reading, Source, every_row
from swift.datasets.spec import DatasetSpec, parse_spec
from swift.errors import DataError, SwiftError, UsageError, raise_all
from swift.log import get_logger

logger = get_logger()
Hold = Callable[[Conversation], Conversation]
Forms = str | Sequence[str | None] | None  # a name in Chinese, then in English; one serves for both


@dataclass(frozen=True)
class Loaded:
    """Conversations to train on and to validate on (None: none), and the account of all rows."""

    train: list[Conversation]
    val: list[Conversation] | None
    ledger: Ledger

    def parts(self) -> Iterator[tuple[Part, list[Conversation]]]:
        """What trains and what validates, where there is any."""
        if self.train:
            yield "train", self.train
        if self.val:
            yield "validation", self.val


def load_datasets(
    specs: str | Sequence[str],
    *,
    val_specs: str | Sequence[str] = (),
    test_ratio: float = 0.01,
    seed: int = 42,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    model_name: Forms = None,
    model_author: Forms = None,
    max_bad_rows: int = 0,
    answers: bool = True,
    interleave: bool = False,
    interleave_prob: Sequence[float] | None = None,
    stopping_strategy: str = FIRST,
    mix_specs: str | Sequence[str] = (),
    mix_ratio: float = 0.0,
    hold: Hold | None = None,
    text_unit: str = "line",
    endless: bool = False,
    formats: tuple[Format, ...] = (),
) -> Loaded:
    """Read, convert, sample and split data sets.

    Args:
        specs: what `--dataset` takes; every set is sampled and split on its own, then they are joined.
        val_specs: sets to validate on; nothing is split off from `specs` then.
        test_ratio: share of every set that goes to validation, at least one row when above 0; 1 means all.
        seed: of the order, the sample and the split, the same for every set.
        columns: renames, as a mapping or as "theirs=ours" strings.
        model_name: for `self-cognition`, Chinese then English; one serves for both.
        model_author: likewise.
        max_bad_rows: rows that may be dropped, each one named; -1 is any number.
        answers: whether every row must end with an answer; inference needs none.
        interleave: let the sets take turns; see `swift.datasets.mix`.
        interleave_prob: the share of each set in that.
        stopping_strategy: when that ends.
        mix_specs: sets to draw further rows to train on from.
        mix_ratio: how many, as a share of the rows that train; 0 reads none of them.
        hold: makes of each good row, as it is read, what is held of it; the row itself unless said.
        text_unit: what one row of a txt file is: a "line", a "paragraph" or the "file".
        endless: take rows of any length.
        formats: those that rows may have; all that conversations come in unless said.

    Raises:
        DataError: bad rows beyond `max_bad_rows`, columns of no known format, or no row at all.
        UsageError: an option or a data set that cannot be meant so.
    """
    if not 0 <= test_ratio <= 1:
        raise UsageError("USAGE-02", f"the validation share {test_ratio} is not between 0 and 1")
    train_specs, held_out = parse_specs(_listed(specs)), parse_specs(_listed(val_specs))
    added = parse_specs(_listed(mix_specs)) if mix_ratio else []
    mix = choose_mix(train_specs, interleave, interleave_prob, stopping_strategy)
    specs_of_all = [*train_specs, *held_out, *added]
    more: dict[str, Any] = {"answers": answers, "text_unit": text_unit, "endless": endless, "formats": formats}
    reading = how_to_read(specs_of_all, columns, model_name, model_author, **more)
    ledger = Ledger(max_bad_rows)
    begun = [_begin(Source(spec, reading)) for spec in specs_of_all]
    sets = [_read_on(*each, ledger, hold) for each in begun]
    sets, drawn = sets[: len(sets) - len(added)], sets[len(sets) - len(added) :]
    check_columns(reading)
    ledger.check_bad_rows()
    ratio = 0.0 if held_out else test_ratio
    train, val = _divide(train_specs, sets[: len(train_specs)], ratio, seed, mix, ledger)
    for spec, rows in zip(held_out, sets[len(train_specs) :], strict=True):
        split = split_rows(rows, rows_drawn(spec, len(rows)), 1.0, seed)
        _drop(NOT_SAMPLED, split.unused, ledger)
        val += split.val
    if added:
        train += _further(added, drawn, int(len(train) * mix_ratio), seed, ledger)
    ledger.use("train", train)
    ledger.use("validation", val)
    _check_left(train, val, train_specs, held_out, ratio, ledger)
    return Loaded(train, val or None, ledger)


def _divide(
    specs: Sequence[DatasetSpec],
    sets: Sequence[list[Conversation]],
    ratio: float,
    seed: int,
    mix: Mix,
    ledger: Ledger,
) -> tuple[list[Conversation], list[Conversation]]:
    """What trains of all sets, mixed, and what validates; the ledger is told what does neither."""
    alone = len(specs) == 1
    splits = [
        split_rows(rows, rows_drawn(spec, len(rows), alone), ratio, seed)
        for spec, rows in zip(specs, sets, strict=True)
    ]
    train = mix_rows([split.train for split in splits], mix)
    used = {id(row) for row in train}
    for split in splits:
        _drop(NOT_SAMPLED, split.unused, ledger)
        _drop(NOT_MIXED, list({id(row): row for row in split.train if id(row) not in used}.values()), ledger)
    return train, [row for split in splits for row in split.val]


def _further(
    specs: Sequence[DatasetSpec], sets: Sequence[list[Conversation]], count: int, seed: int, ledger: Ledger
) -> list[Conversation]:
    """That many rows drawn from all sets together; the ledger is told which were not."""
    pool = [
        row
        for spec, rows in zip(specs, sets, strict=True)
        for row in split_rows(rows, rows_drawn(spec, len(rows)), 0.0, seed).train
    ]
    if count and not pool:
        raise DataError(
            "DATA-05", f"no row to add is in {', '.join(spec.text for spec in specs)}", why=ledger.summary()
        )
    drawn = split_rows(pool, count, 0.0, seed).train if count else []
    used = {id(row) for row in drawn}
    _drop(NOT_SAMPLED, [row for rows in sets for row in rows if id(row) not in used], ledger)
    return drawn


def _drop(reason: str, rows: Sequence[Conversation], ledger: Ledger) -> None:
    for row in rows:
        ledger.drop(reason, row["where"], row.get("dataset"))


def parse_specs(texts: Sequence[str]) -> list[DatasetSpec]:
    """Every data set as typed; what is wrong with any of them is raised at once."""
    specs: list[DatasetSpec] = []
    mistakes: list[SwiftError] = []
    for text in texts:
        try:
            specs.append(parse_spec(text))
        except SwiftError as error:
            mistakes.append(error)
    raise_all(mistakes)
    return specs


def get_dataset(
    specs: str | Sequence[str],
    test_ratio: float = 0.0,
    seed: int = 42,
    *,
    columns: Mapping[str, str] | Sequence[str] | None = None,
    model_name: Forms = None,
    model_author: Forms = None,
    max_bad_rows: int = 0,
) -> tuple[list[Conversation] | None, list[Conversation] | None]:
    """The rows of data sets as (train, validation); None for a part that has none. See `load_datasets`."""
    loaded = load_datasets(
        specs,
        test_ratio=test_ratio,
        seed=seed,
        columns=columns,
        model_name=model_name,
        model_author=model_author,
        max_bad_rows=max_bad_rows,
    )
    return loaded.train or None, loaded.val


def _listed(specs: str | Sequence[str]) -> list[str]:
    return [specs] if isinstance(specs, str) else list(specs)


def _renames(columns: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    if columns is None or isinstance(columns, Mapping):
        return dict(columns or {})
    pairs = [pair.partition("=") for pair in columns]
    wrong = ["".join(pair) for pair in pairs if not all(pair)]
    if wrong:
        raise UsageError("USAGE-02", f"--columns {wrong[0]} is not a rename", fix="--columns theirs=ours")
    return {theirs: ours for theirs, _, ours in pairs}


def how_to_read(
    specs: Sequence[DatasetSpec],
    columns: Mapping[str, str] | Sequence[str] | None = None,
    model_name: Forms = None,
    model_author: Forms = None,
    *,
    answers: bool = True,
    text_unit: str = "line",
    endless: bool = False,
    formats: tuple[Format, ...] = (),
) -> Reading:
    """How the rows of these data sets are read; see `load_datasets`."""
    return Reading(_renames(columns), _identity(specs, model_name, model_author), answers, text_unit, endless, formats)


def _identity(specs: Sequence[DatasetSpec], name: Forms, author: Forms) -> dict[str, tuple[str, str]] | None:
    """Who the model says it is, by language: (name, author). None when no data set asks."""
    if not any(spec.record and spec.record.name == "self-cognition" for spec in specs):
        return None
    names, authors = _both(name), _both(author)
    if names is None or authors is None:
        raise UsageError(
            "USAGE-03",
            "the data set self-cognition needs to know who the model is",
            fix="--model_name <name> --model_author <author> (Chinese then English, where they differ)",
        )
    return {"zh": (names[0], authors[0]), "en": (names[1], authors[1])}


def _both(value: Forms) -> tuple[str, str] | None:
    """The Chinese and the English form; a single one serves for both."""
    said = [text for text in ([value] if isinstance(value, str) else value or []) if text]
    if len(said) > 2:
        raise UsageError("USAGE-02", f"{said}: a name has two forms at most, Chinese then English")
    return (said[0], said[-1]) if said else None


Rows = Iterator[tuple[str, Outcome]]


def _begin(source: Source) -> tuple[Source, Rows]:
    """A data set with its rows, of which the first are read: what is wrong with its columns shows now."""
    rows = every_row(source)
    return source, chain([first] if (first := next(rows, None)) else [], rows)


def _read_on(source: Source, rows: Rows, ledger: Ledger, hold: Hold | None) -> list[Conversation]:
    """What is held of the good rows of one data set; the others are entered in the ledger."""
    name = source.spec.text
    good: list[Conversation] = []
    found = 0
    for where, row in rows:
        found += 1
        if isinstance(row, DataError):
            ledger.reject(where, row, excused=source.excused, dataset=name)
        elif isinstance(row, str):
            ledger.drop(row, where, name)
        elif not ledger.too_many(len(ledger.bad_rows)):  # nothing comes of them otherwise
            good.append(hold(row) if hold else row)
    ledger.read(name, found)
    for known in source.formats.values():
        ledger.read(name, 0, known.name)
    if found and not source.formats:
        logger.warning(f"{name}: {found} row{'s' if found > 1 else ''}, and none that can be used")
    return good


def check_columns(reading: Reading) -> None:
    """Refuse a rename of a column that no row had.

    Raises:
        DataError: naming the first (DATA-04).
    """
    missing = [theirs for theirs in reading.columns if theirs not in reading.met]
    if missing:
        raise DataError("DATA-04", f"--columns {missing[0]}={reading.columns[missing[0]]}: no data set has that column")


def _check_left(
    train: Sequence[Conversation],
    val: Sequence[Conversation],
    specs: Sequence[DatasetSpec],
    held_out: Sequence[DatasetSpec],
    ratio: float,
    ledger: Ledger,
) -> None:
    def refuse(part: str, those: Sequence[DatasetSpec]) -> DataError:
        names = ", ".join(spec.text for spec in those)
        return DataError("DATA-05", f"no row is left to {part} in {names}", why=ledger.summary())

    if specs and not (val if ratio == 1 else train):
        raise refuse("validate on" if ratio == 1 else "train on", specs)
    if held_out and not val:
        raise refuse("validate on", held_out)
