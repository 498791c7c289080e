"""The rows of a run: read, split and encoded, or taken as an earlier run kept them."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
import transformers

import swift
from swift import dist, hub, storage
from swift._version import __version__
from swift.arguments.fields import options_of
from swift.arguments.sft import SftArguments
from swift.arguments.values import spelt
from swift.commands.streams import open_stream
from swift.commands.texts import count, how_texts_are_read, in_pieces, joined, joins
from swift.datasets import cache
from swift.datasets.ahead import Ahead
from swift.datasets.blocks import InMemory, Keep
from swift.datasets.compact import Compactor
from swift.datasets.encode import EncodedDataset, encode, settle, uncollected
from swift.datasets.judge import Encoder, processes_for
from swift.datasets.lazy import LazyDataset
from swift.datasets.ledger import Ledger, Part
from swift.datasets.load import Hold, Loaded, load_datasets, parse_specs
from swift.datasets.mix import choose_mix
from swift.datasets.pack import PackedDataset, best_fit, first_row
from swift.datasets.pieces import Joined
from swift.datasets.source import hub_address
from swift.datasets.stream import Stream
from swift.errors import DataError, DiskError, OutputError, UsageError
from swift.log import get_logger
from swift.templates.template import RecordTemplate, Template

logger = get_logger()
TOKENIZER_FILES = ("*token*", "vocab*", "merges*", "*.model", "chat_template*", "config.json", "*.py")
ROWS = "rows"
NOT_SHAPING = {"dataset", "val_dataset", "data_cache", "packing", "lazy_tokenize", "preprocess_num_proc"}


@dataclass(frozen=True)
class Data:
    """Encoded rows and the account of every row read; `val` is None without evaluation."""

    train: EncodedDataset | PackedDataset | Joined | LazyDataset | Stream
    val: EncodedDataset | None
    ledger: Ledger

    @property
    def example(self) -> Mapping[str, Any]:
        """The first row that trains, encoded."""
        if isinstance(self.train, Stream):
            return first_row(self.train.first())
        return self.train.rows[0] if isinstance(self.train, PackedDataset) else self.train[0]


def load_rows(args: SftArguments, hold: Hold | None = None) -> Loaded:
    """Read and split the data sets; what is held of each row is the row, in little memory, unless said."""
    with uncollected():
        return load_datasets(
            args.dataset,
            val_specs=args.val_dataset,
            test_ratio=args.dataset_test_ratio if args.evaluation_strategy != "no" else 0.0,
            seed=args.dataset_seed,
            columns=args.columns,
            model_name=args.model_name,
            model_author=args.model_author,
            max_bad_rows=args.max_bad_rows,
            interleave=args.interleave,
            interleave_prob=args.interleave_prob,
            stopping_strategy=args.stopping_strategy,
            mix_specs=args.train_dataset_mix_ds,
            mix_ratio=args.train_dataset_mix_ratio,
            hold=hold or Compactor(),
            **how_texts_are_read(args),
        )


def read_data(args: SftArguments, template: Template, encoder: Encoder | None = None) -> Data:
    """Read, split and encode the data sets, or take what was kept of exactly these.

    Args:
        args: the decided options.
        template: bound to its tokenizer.
        encoder: what makes tokens of rows, with a `repr` that tells it from others; None is the template.

    Raises:
        DataError: no row is left, a row is bad, or a prepared directory does not fit this run.
    """
    encodes: Encoder = encoder or template
    if args.streaming:
        return Data(*open_stream(args, encodes, load_rows(replace(args, dataset=[])) if args.val_dataset else None))
    prepared = [Path(text).expanduser() for text in args.dataset if cache.is_kept(Path(text).expanduser())]
    if prepared:
        return _prepared(args, template, prepared[0], encoder)
    if args.lazy_tokenize and not args.dry_run:
        return _late(args, encodes)
    if dist.speaks() and dist.local_rank() > 0:
        found = dist.hear(ROWS)
        return _of(cache.read(Path(found), args.max_bad_rows), args) if found else encode_rows(args, encodes)
    made = made_of(args, template, encoder) if args.data_cache and not args.dry_run else None
    found = None if made is None else cache.find(made)
    if made is not None and found is None and dist.local_rank() == 0:
        found = _keep(args, encodes, made)
    if found is not None:
        logger.info(f"encoded rows: {found}")
    elif dist.speaks():
        found = _for_the_others(args, encodes)
    if dist.speaks():
        dist.tell(ROWS, str(found or ""))
    return _of(cache.read(found, args.max_bad_rows), args) if found else encode_rows(args, encodes)


def _for_the_others(args: SftArguments, encoder: Encoder) -> Path | None:
    """Encode where the other processes of this machine can read it while they run; None where there is no room."""
    place = dist.place(ROWS)
    try:
        with storage.staged_directory(place, cache.facts({})) as stage:
            encode_rows(args, encoder, stage)
    except DiskError as error:
        logger.warning(f"each process encodes its rows itself: {error.what}")
        return None
    return place


def encode_rows(args: SftArguments, encoder: Encoder, stage: Path | None = None) -> Data:
    """Read, split and encode; into files of the directory `stage`, where one is said."""
    parts, ledger = (_while_reading if _takes_every_row(args) else _after_reading)(args, encoder, stage)
    packs = args.packing and not joins(args)
    pack_of = best_fit(in_pieces(parts["train"], args).lengths, args.max_length) if packs else None
    kept = cache.Kept(parts, ledger, pack_of)
    if stage is not None:
        cache.finish(stage, kept)
    return _of(kept, args)


Parts = dict[Part, EncodedDataset]


def _takes_every_row(args: SftArguments) -> bool:
    """Whether every good row will be used, and may be encoded before it is known what for."""
    specs = parse_specs(args.dataset)
    mix = choose_mix(specs, args.interleave, args.interleave_prob, args.stopping_strategy)
    drawn = any(spec.sample or spec.share for spec in [*specs, *parse_specs(args.val_dataset)])
    return not (drawn or mix.shares or args.train_dataset_mix_ratio)


def _while_reading(args: SftArguments, encoder: Encoder, stage: Path | None) -> tuple[Parts, Ledger]:
    with uncollected(), Ahead(encoder, _keep_in(stage, "train"), processes_for(args.preprocess_num_proc)) as ahead:
        loaded = load_rows(args, ahead.take)
    parts: Parts = {part: settle(rows, ahead.judged, loaded.ledger, part) for part, rows in loaded.parts()}
    return parts, loaded.ledger


def _after_reading(args: SftArguments, encoder: Encoder, stage: Path | None) -> tuple[Parts, Ledger]:
    loaded = load_rows(args)
    parts: Parts = {
        part: encode(
            rows,
            encoder,
            loaded.ledger,
            split=part,
            keep=_keep_in(stage, part),
            processes=processes_for(args.preprocess_num_proc),
        )
        for part, rows in loaded.parts()
    }
    return parts, loaded.ledger


def _keep_in(stage: Path | None, part: Part) -> Keep:
    return cache.Writer(cache.blocks_file(stage, part)) if stage else InMemory()


def _late(args: SftArguments, encoder: Encoder) -> Data:
    """Rows of which those that train are encoded when they are drawn."""
    loaded = load_rows(args)
    held = encode(loaded.val, encoder, loaded.ledger, split="validation") if loaded.val else None
    return Data(LazyDataset(loaded.train, encoder, loaded.ledger), held, loaded.ledger)


def _of(kept: cache.Kept, args: SftArguments) -> Data:
    pieces = {part: in_pieces(rows, args) for part, rows in kept.parts.items()}
    train: EncodedDataset | PackedDataset | Joined = pieces["train"]
    if joins(args):
        train = joined(kept.parts["train"], args)
    elif args.packing:
        train = PackedDataset(pieces["train"], args.max_length, kept.pack_of)
    for part in kept.parts:
        rows = pieces[part]
        count(kept.ledger, part, train if part == "train" and isinstance(train, Joined) else rows)
    return Data(train, pieces.get("validation"), kept.ledger)


def _keep(args: SftArguments, encoder: Encoder, made: dict[str, Any]) -> Path | None:
    """Encode into the cache; None where nothing can be written there, which stops nobody."""
    place = cache.place_of(made)
    try:
        storage.make_directory(place.parent)
        with storage.staged_directory(place, cache.facts(made)) as stage:
            encode_rows(args, encoder, stage)
        cache.tidy()
    except (DiskError, OutputError) as error:
        logger.warning(f"encoded rows are not kept for the next run: {error.what}")
        return None
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EROFS):
            raise
        return cache.find(made)  # another run was faster
    return place


def _prepared(args: SftArguments, template: Template, directory: Path, encoder: Encoder | None = None) -> Data:
    """The rows of a directory that `swift data prepare` wrote.

    Raises:
        UsageError: other data sets stand beside it.
        DataError: it is damaged, made for something else, or its files have changed since.
    """
    if len(args.dataset) > 1 or args.val_dataset:
        raise UsageError("USAGE-02", f"--dataset {directory} is prepared, and nothing can be added", fix="say it alone")
    then, now = cache.made_of(directory), made_of(args, template, encoder, of_files=False)
    assert now is not None
    options = {**now["options"], "packing": args.packing}
    for name, value in then["options"].items():
        if options.get(name) != value:
            what = (
                f"{directory} was prepared with {_said(name, value)}, and this run has {_said(name, options.get(name))}"
            )
            same = f"leave --{name} out" if value in (None, []) else f"say {_said(name, value)} here"
            raise DataError("DATA-07", what, fix=f"{same}, or prepare it anew")
    if then.get("rows") != now.get("rows"):
        fix = "name the data sets themselves"
        raise DataError("DATA-07", f"{directory} was prepared for another kind of training", fix=fix)
    for name in ("template", "tokenizer"):
        if then[name] != now[name]:
            raise DataError("DATA-07", f"{directory} was prepared for another {name}", fix="prepare it for this model")
    for file, known in then["files"].items():
        if Path(file).is_file() and cache.digest_of([Path(file)]) != known:
            raise DataError("DATA-07", f"{directory}: {file} has changed since", fix="prepare it anew")
    logger.info(f"prepared rows: {directory}")
    data = _of(cache.read(directory, args.max_bad_rows), args)
    return data if args.evaluation_strategy != "no" else Data(data.train, None, data.ledger)


def made_of(
    args: SftArguments, template: Template, encoder: Encoder | None = None, *, of_files: bool = True
) -> dict[str, Any] | None:
    """All that decides what encoded rows are; None where that cannot be known without reading them.

    Args:
        args: the decided options.
        template: bound to its tokenizer.
        encoder: what makes tokens of rows, None for the template.
        of_files: whether the data is looked at too.
    """
    names = [name for name, info in options_of(type(args)).items() if info.group == "Data"]
    options = {name: getattr(args, name) for name in names if name not in NOT_SHAPING}
    options["new_special_tokens"] = args.new_special_tokens
    said = [str(item) for value in options.values() for item in (value if isinstance(value, list) else [value])]
    files = {text: cache.digest_of([Path(text)]) for text in [*said, *args.custom_register_path] if _is_file(text)}
    made: dict[str, Any] = {"options": options, "template": _template(template), "tokenizer": _tokenizer(template)}
    made |= {"rows": repr(encoder)} if encoder is not None else {}
    if not of_files:
        return made
    further = args.train_dataset_mix_ds if args.train_dataset_mix_ratio else []
    hubs: dict[str, str] = {}
    for spec in parse_specs([*args.dataset, *args.val_dataset, *further]):
        bundled = spec.record is not None and spec.record.path is not None
        files |= {str(path): cache.digest_of([path]) for path in spec.files}
        if not spec.files and not bundled:
            hub_id, use_hf = hub_address(spec)
            state = hub.dataset_state(hub_id, use_hf)
            if state is None:
                return None
            hubs[spec.text] = state
    splits = args.evaluation_strategy != "no"
    sets = {"dataset": args.dataset, "val_dataset": args.val_dataset, "splits": splits}
    return {**made, **sets, "files": files, "hubs": hubs, "code": _code()}


def _said(name: str, value: Any) -> str:
    return f"no --{name}" if value in (None, []) else shlex.join(spelt(name, value))


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a text that is too long for a name
        return False


def _template(template: Template) -> str:
    record = repr(template.record) if isinstance(template, RecordTemplate) else template.tokenizer.chat_template
    known = (
        template.name,
        record,
        template.end_ids,
        template.default_system,
        repr(template.loss_scale),
        template.tools_name,
    )
    return cache.digest([*known, template.max_length, template.truncation_strategy])


def _tokenizer(template: Template) -> str:
    """What the tokenizer is made of: its files, and what was added to it since."""
    tokenizer = template.tokenizer
    directory = Path(tokenizer.name_or_path)
    names = {path for pattern in TOKENIZER_FILES for path in directory.glob(pattern) if path.is_file()}
    added = sorted((k, str(token)) for k, token in tokenizer.added_tokens_decoder.items())
    return cache.digest([type(tokenizer).__name__, len(tokenizer), added, cache.digest_of(sorted(names))])


def _code() -> dict[str, str]:
    """The versions of what makes tokens of text, and our own lines that do."""
    versions = {"swift": __version__, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    return {**versions, "lines": cache.digest_of(sorted(_lines()))}


def _lines() -> Iterator[Path]:
    for room in ("templates", "datasets"):
        yield from (Path(swift.__file__).parent / room).rglob("*.py")
