"""`swift datasets`: the data sets that have a name, found by words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from swift.arguments.verbs import DatasetsArguments
from swift.datasets import DATASETS, DatasetRecord
from swift.datasets.info import register_infos
from swift.registry import no_hit

HEADS = ("name", "ModelScope", "Hugging Face", "subsets", "tags")


def datasets_main(args: DatasetsArguments) -> list[dict[str, Any]]:
    """Print the rows that fit, and return them as plain values.

    Raises:
        UnknownNameError: no data set has all these words; the nearest names are said.
    """
    register_infos(args.custom_dataset_info)
    rows = search(args.search)
    listed = [facts(row) for row in rows]
    sys.stdout.write(json.dumps(listed, ensure_ascii=False) + "\n" if args.json else _table(rows))
    return listed


def search(words: Iterable[str]) -> list[DatasetRecord]:
    """The rows with all `words` in their name, ids, subsets or tags, whatever their capitals; all for none."""
    words = list(words)
    wanted = [word.lower() for word in words]
    found = [row for row in DATASETS.values() if all(word in _text(row) for word in wanted)]
    if not found:
        raise no_hit("dataset", words, map(_text, DATASETS.values()))
    return sorted(found, key=lambda row: row.name)


def _text(row: DatasetRecord) -> str:
    return "\n".join(str(part) for part in (row.name, row.ms, row.hf, *row.subsets, *row.tags, row.help)).lower()


def facts(row: DatasetRecord) -> dict[str, Any]:
    """A row as plain values."""
    return {
        "name": row.name,
        "ms": row.ms,
        "hf": row.hf,
        "path": row.path,
        "subsets": list(row.subsets),
        "split": list(row.split),
        "columns": dict(row.columns),
        "tags": list(row.tags),
        "help": row.help,
    }


def _table(rows: Sequence[DatasetRecord]) -> str:
    cells = [HEADS, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    found = f"{len(rows)} data set{'s' if len(rows) > 1 else ''}; `swift sft --dataset <name>` trains on one"
    return "\n".join([*lines, "", found]) + "\n"


def _cells(row: DatasetRecord) -> tuple[str, ...]:
    subsets = "/".join(row.subsets[:3]) + (f"/… ({len(row.subsets)})" if len(row.subsets) > 3 else "")
    where = row.ms or ("a file" if row.path else "-")
    return row.name, where, row.hf or "-", subsets or "-", " ".join(row.tags) or "-"
