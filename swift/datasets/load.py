"""Data sets as typed, made into conversations to train and validate on; every row is entered in the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swift import hub
from swift.datasets import DatasetRecord
from swift.datasets.convert import Conversation, Format, convert_row, describe, detect, unused_columns
from swift.datasets.ledger import Ledger
from swift.datasets.read import Entry, Row, read_file
from swift.datasets.sample import split_rows
from swift.datasets.spec import DatasetSpec, parse_spec
from swift.errors import DataError, SwiftError, UsageError, raise_all
from swift.log import get_logger

logger = get_logger()
HERE = Path(__file__).parent
HIDDEN = "-"
Forms = str | Sequence[str | None] | None  # a name in Chinese, then in English; one serves for both


@dataclass(frozen=True)
class Loaded:
    """Conversations to train on and to validate on (None: none), and the account of all rows."""

    train: list[Conversation]
    val: list[Conversation] | None
    ledger: Ledger


@dataclass(frozen=True)
class Reading:
    """How rows are read.

    Attributes:
        columns: to rename.
        identity: name and author of the model by language, None when no data set asks.
        answers: whether every row needs one.
        met: those columns to rename that were there.
    """

    columns: Mapping[str, str]
    identity: Mapping[str, tuple[str, str]] | None
    answers: bool
    met: set[str] = field(default_factory=set)


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
        max_bad_rows: rows that may be dropped, each one named.
        answers: whether every row must end with an answer; inference needs none.

    Raises:
        DataError: bad rows beyond `max_bad_rows`, columns of no known format, or no row at all.
        UsageError: an option or a data set that cannot be meant so.
    """
    if not 0 <= test_ratio <= 1:
        raise UsageError("USAGE-02", f"the validation share {test_ratio} is not between 0 and 1")
    train_specs, held_out = parse_specs(_listed(specs)), parse_specs(_listed(val_specs))
    identity = _identity(train_specs + held_out, model_name, model_author)
    reading = Reading(_renames(columns), identity, answers)
    ledger = Ledger(max_bad_rows)
    train_sets = [_load_one(spec, reading, ledger) for spec in train_specs]
    val_sets = [_load_one(spec, reading, ledger) for spec in held_out]
    _check_columns(reading)
    ledger.check_bad_rows()
    train: list[Conversation] = []
    val: list[Conversation] = []
    ratio = 0.0 if held_out else test_ratio
    for spec, rows in zip(train_specs, train_sets, strict=True):
        trained, validated = split_rows(rows, spec.sample, ratio, seed, ledger)
        train += trained
        val += validated
    for spec, rows in zip(held_out, val_sets, strict=True):
        val += split_rows(rows, spec.sample, 1.0, seed, ledger)[1]
    _check_left(train, val, train_specs, held_out, ratio, ledger)
    return Loaded(train, val or None, ledger)


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


def _entries(spec: DatasetSpec) -> Iterator[Entry]:
    record = spec.record
    if record is not None and record.path is not None:
        yield from ((Path(where).name, row) for where, row in read_file(HERE / record.path))
        return
    for file in spec.files:
        yield from read_file(file)
    if record is None and spec.hub_id is None:
        return
    hub_id, use_hf = _address(spec)
    for subset in spec.subsets or (record.subsets if record else ()) or (None,):
        for split in record.split if record else ("train",):
            name = "/".join(part for part in (hub_id, subset, split) if part)
            for number, row in enumerate(hub.fetch_dataset(hub_id, subset, split, use_hf), 1):
                yield f"{name}:{number}", dict(row)


def _address(spec: DatasetSpec) -> tuple[str, bool]:
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


def _load_one(spec: DatasetSpec, reading: Reading, ledger: Ledger) -> list[Conversation]:
    """The good rows of one data set; the others are entered in the ledger."""
    excused = spec.record is not None and spec.record.drop_bad_rows
    found = 0
    rows: list[tuple[str, Row]] = []
    for where, entry in _entries(spec):
        found += 1
        prepared = entry if isinstance(entry, DataError) else _prepare(entry, where, spec.record, reading)
        if isinstance(prepared, DataError):
            ledger.reject(where, prepared, excused=excused)
        elif prepared is None:
            ledger.drop("left out by the data set's own rule", where)
        else:
            rows.append((where, prepared))
    if not rows:
        ledger.read(spec.text, found)
        logger.warning(f"{spec.text}: {found} rows, and none that can be used")
        return []
    known = detect(spec.text, (row for _, row in rows), answers=reading.answers)
    ledger.read(spec.text, found, known.name)
    good: list[Conversation] = []
    for where, row in rows:
        try:
            good.append(convert_row(known, row, where, answers=reading.answers))
        except DataError as error:
            ledger.reject(where, error, excused=excused)
    _announce(spec.text, found, known, good, unused_columns(known, (row for _, row in rows)))
    return good


def _prepare(row: Row, where: str, record: DatasetRecord | None, reading: Reading) -> Row | DataError | None:
    """A row with its columns renamed and the record's own rule applied; None leaves it out."""
    try:
        row = _rename(row, record.columns if record else {})
        changed = record.convert(row) if record and record.convert else row
        if changed is not None and reading.identity and record and record.name == "self-cognition":
            changed = _introduce(changed, reading.identity)
        if changed is None:
            return None
        reading.met.update(reading.columns.keys() & changed.keys())
        return _rename(changed, reading.columns)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = error.what if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        return DataError("DATA-03", f"{where}: {what}")


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


def _announce(source: str, found: int, known: Format, good: Sequence[Conversation], unused: Sequence[str]) -> None:
    logger.info(f"{source}: {found:,} rows of format {known.name}")
    if good:
        logger.info(f"  first: {describe(good[0])}")
    if unused:
        more = f" and {len(unused) - 10} more" if len(unused) > 10 else ""
        logger.info(f"  columns not used: {', '.join(unused[:10])}{more}")


def _check_columns(reading: Reading) -> None:
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
