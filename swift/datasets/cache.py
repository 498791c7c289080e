"""Encoded rows on disk, with the account of how they came to be: read by memory map, whole or not there at all.

A directory holds `train.arrow`, perhaps `validation.arrow` (without it, rows that validate are in the other, too), the
order of examples, perhaps their packs, and the ledger.
Its manifest says what it was made of, so that nothing is ever taken for what it is not. The cache of `swift sft` and
what `swift data prepare` writes are the same thing in two places.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from swift import storage
from swift.datasets.blocks import COLUMNS, Block, Blocks
from swift.datasets.encode import EncodedDataset
from swift.datasets.ledger import PARTS, Ledger, Part
from swift.datasets.source import ENCODED, is_encoded
from swift.errors import DataError

KIND, FORMAT = ENCODED, 1
LEDGER, PACKS = "ledger.json", "train-packs.npy"
KEPT = 20
TYPES = {np.int32: pa.list_(pa.int32()), np.float32: pa.list_(pa.float32()), np.int8: pa.list_(pa.int8())}
SCHEMA = pa.schema([(name, TYPES[kind]) for name, kind in COLUMNS.items()])
READ = 1 << 20


@dataclass(frozen=True)
class Kept:
    """What a directory holds: the encoded parts, the account of all rows, and perhaps the packs of those that train.

    `pack_of` is the pack of every example that trains, None where they were not packed.
    """

    parts: dict[Part, EncodedDataset]
    ledger: Ledger
    pack_of: np.ndarray | None = None


def cache_directory() -> Path:
    """Where encoded rows are kept: below `HF_HOME`, or else where `XDG_CACHE_HOME` says, or `~/.cache`."""
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "swift" / "rows"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "swift" / "rows"


def digest(value: Any) -> str:
    """A name for plain values, the same wherever they are equal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode("utf-8", "surrogatepass")).hexdigest()


def digest_of(paths: Iterable[Path]) -> str:
    """A name for what is in files, in the order given."""
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


class Writer:
    """Keeps blocks in a file: each is written as it comes, and read back by memory map at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = pa.ipc.new_file(str(path), SCHEMA)

    def add(self, block: Block) -> None:
        """Write one more."""
        self._file.write_batch(_batch(block))

    def blocks(self) -> Sequence[Block]:
        """All of them, as they lie in the file, which is complete then."""
        self._file.close()
        return read_blocks(self._path)


def _batch(block: Block) -> pa.RecordBatch:
    offsets = pa.py_buffer(block.offsets.astype(np.int32))
    lists = [
        pa.ListArray.from_buffers(TYPES[kind], len(block), [None, offsets], children=[_values(block, name)])
        if name in block.columns
        else pa.nulls(len(block), TYPES[kind])
        for name, kind in COLUMNS.items()
    ]
    return pa.record_batch(lists, schema=SCHEMA)


def _values(block: Block, name: str) -> pa.Array:
    values = block.columns[name]  # by their buffer: `pa.array` would import pandas first
    return pa.Array.from_buffers(TYPES[COLUMNS[name]].value_type, len(values), [None, pa.py_buffer(values)])


def read_blocks(path: Path) -> list[Block]:
    """The blocks of a file, as arrays that lie in it."""
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    return [_block(file.get_batch(k)) for k in range(file.num_record_batches)]


def _block(batch: pa.RecordBatch) -> Block:
    there = [name for name in COLUMNS if name in batch.schema.names]  # an earlier version had fewer
    lists = {name: batch.column(name) for name in there if not batch.column(name).null_count}
    return Block(
        _array(lists["input_ids"].offsets, np.int32),
        {name: _array(found.values, COLUMNS[name]) for name, found in lists.items()},
    )


def _array(found: pa.Array, kind: Any) -> np.ndarray:
    """Its values where they lie; `to_numpy` would import pandas first."""
    return np.frombuffer(found.buffers()[1], kind, len(found), found.offset * np.dtype(kind).itemsize)


def finish(stage: Path, kept: Kept) -> None:
    """Write what stands beside the blocks: the order of examples, their packs and the account."""
    for part, rows in kept.parts.items():
        np.save(_order(stage, part), rows.order, allow_pickle=False)
        if rows.numbers is not None:
            np.save(_numbers(stage, part), rows.numbers, allow_pickle=False)
    if kept.pack_of is not None:
        np.save(stage / PACKS, kept.pack_of, allow_pickle=False)
    storage.write_json(stage / LEDGER, kept.ledger.to_state())


def facts(made_of: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest of a directory says."""
    return {"kind": KIND, "format": FORMAT, "made_of": dict(made_of)}


def is_kept(directory: Path) -> bool:
    """Whether a directory was written by `swift data prepare`, or is one of the cache."""
    return is_encoded(directory)


def made_of(directory: Path) -> dict[str, Any]:
    """What the rows in a directory were made of.

    Raises:
        DataError: a later version wrote it.
    """
    manifest = storage.read_manifest(directory)
    if manifest["format"] != FORMAT:
        raise DataError("DATA-07", f"{directory}: written in a format that is not known here", fix="prepare it anew")
    return manifest["made_of"]


def originals(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Data sets to train and to validate on, in place of directories with encoded rows that were made of them.

    Raises:
        DataError: it is not known what one was made of.
    """
    train: list[str] = []
    validation: list[str] = []
    for text in texts:
        directory = Path(text).expanduser()
        made = made_of(directory) if is_kept(directory) else {"dataset": [text], "val_dataset": []}
        if "dataset" not in made:
            what = f"{directory} holds tokens, and does not know the conversations that it was made of"
            raise DataError("DATA-07", what, fix="name the data sets themselves")
        train += made["dataset"]
        validation += made["val_dataset"]
    return train, validation


def read(directory: Path, max_bad_rows: int = 0) -> Kept:
    """The rows of a directory, by memory map.

    Raises:
        DataError: a file is missing or was changed (DATA-07).
    """
    problems = storage.verify(directory)
    if problems:
        raise DataError("DATA-07", f"{directory} is damaged: {problems[0]}", fix="prepare it anew")
    ledger = Ledger(max_bad_rows)
    ledger.from_state(json.loads((directory / LEDGER).read_text(encoding="utf-8")))
    parts: dict[Part, EncodedDataset] = {}
    rows = Blocks([])
    for part in PARTS:
        if blocks_file(directory, part).is_file():
            rows = Blocks(read_blocks(blocks_file(directory, part)))
        if _order(directory, part).is_file():
            parts[part] = EncodedDataset(
                rows, np.load(_order(directory, part), allow_pickle=False), *_sets(directory, part, ledger)
            )
    packs = directory / PACKS
    return Kept(parts, ledger, np.load(packs, allow_pickle=False) if packs.is_file() else None)


def blocks_file(directory: Path, part: Part) -> Path:
    """Where the rows of a part are."""
    return directory / f"{part}.arrow"


def _sets(directory: Path, part: Part, ledger: Ledger) -> tuple[Sequence[str], np.ndarray | None]:
    """The data sets, and which of them every example is of; none where there are several and it was not kept."""
    names, path = list(ledger.accounts), _numbers(directory, part)
    numbers = np.load(path, allow_pickle=False) if path.is_file() else None
    return ([] if len(names) > 1 and numbers is None else names), numbers


def _order(directory: Path, part: Part) -> Path:
    return directory / f"{part}-order.npy"


def _numbers(directory: Path, part: Part) -> Path:
    return directory / f"{part}-datasets.npy"


def find(made: Mapping[str, Any]) -> Path | None:
    """The directory of the cache with rows that were made of exactly this; None where there is none that is whole."""
    directory = place_of(made)
    if not directory.is_dir():
        return None
    if storage.verify(directory) or storage.read_manifest(directory).get("made_of") != json.loads(json.dumps(made)):
        storage.remove(directory)
        return None
    with suppress(OSError):
        os.utime(directory)
    return directory


def place_of(made: Mapping[str, Any]) -> Path:
    """Where the cache keeps rows that were made of this."""
    return cache_directory() / digest(made)[:32]


def tidy(keep: int = KEPT) -> None:
    """Take away what killed runs left in the cache, and all but the `keep` directories that were used last."""
    storage.sweep(cache_directory())
    found = [path for path in cache_directory().iterdir() if path.is_dir() and not path.name.startswith(".")]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[keep:]:
        with suppress(OSError):
            storage.remove(path)
