"""Data sets: what has a name is a row of the catalog; any file or hub id of a known shape needs none.

`spec` reads what was typed and `source` opens it: `read` yields rows with their file and line (`tables` those of csv,
parquet and Arrow), `convert` makes conversations of them (`turns` their messages). `load` splits (`sample`) and mixes
(`mix`) them; `encode` turns them into tokens (`judge`, into `blocks`), or `ahead` while others are still read, and
`cache` keeps these and `pack` puts them together. `lazy` and `stream` (`passes`) encode while training goes on.
`ledger` (`places`) accounts for every row on the way; `info` knows those of users, `show` draws rows as tables, and
`compact` and `digest` are rows as bytes and as one number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from swift.registry import Names, Registry


@dataclass(frozen=True)
class DatasetRecord:
    """A data set that can be asked for by name.

    Attributes:
        name: what `--dataset` takes.
        ms: its id on ModelScope, None when it is not there.
        hf: its id on Hugging Face, None when it is not there.
        path: a data file, beside this module where it is not absolute, instead of ids.
        subsets: what is read when no subset is typed; () means the hub's default one.
        split: the splits that are read, one after another.
        columns: columns to rename before the format is detected; "-" as the new name hides one.
        conversations: what a list of turns calls its keys and roles, for `convert.renamed_format`.
        labels: names of the numbers in a column; a row with a number below 0 is left out, which is counted.
        fill: columns made of others by a pattern, such as {"response": "{reason} So: {answer}"}.
        convert: makes a row of a known format from a raw one; None from it leaves the row out, which is counted.
        drop_bad_rows: whether broken rows are dropped and counted rather than an error: nobody here can correct them.
        tags: topics and languages.
        help: a sentence about it.
    """

    name: str
    ms: str | None = None
    hf: str | None = None
    path: str | None = None
    subsets: tuple[str, ...] = ()
    split: tuple[str, ...] = ("train",)
    columns: Mapping[str, str] = field(default_factory=dict)
    conversations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fill: Mapping[str, str] = field(default_factory=dict)
    convert: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None
    drop_bad_rows: bool = True
    tags: tuple[str, ...] = ()
    help: str = ""


DATASETS: Registry[DatasetRecord] = Registry("dataset", "swift.datasets.catalog")
DatasetName = Names(DATASETS)


def find_by_hub_id(hub_id: str) -> DatasetRecord | None:
    """The row with this ModelScope or Hugging Face id, whatever its case; the first where several share it."""
    wanted = hub_id.lower()
    return next((row for row in DATASETS.values() if wanted in {i.lower() for i in (row.ms, row.hf) if i}), None)
