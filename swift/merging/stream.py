"""A merge done: shard by shard and tensor by tensor, in blocks of rows, into files that are hashed as they grow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from swift.errors import DataError
from swift.merging import combine, tensors
from swift.merging.plan import Item, Plan
from swift.merging.tensors import BLOCK, Span, Writer
from swift.merging.updates import Update
from swift.models import room


@dataclass
class Written:
    """What a merge wrote.

    Args:
        digests: SHA-256 by file.
        copied: how many tensors are byte for byte the base's.
        changed: how many are not.
        where: the file of each tensor.
    """

    digests: dict[str, str]
    copied: int
    changed: int
    where: dict[str, str]


@torch.inference_mode()
def write(plan: Plan, stage: Path, how: combine.Combination) -> Written:
    """Write the files of `plan` into the directory `stage`.

    Args:
        plan: what to write.
        stage: where.
        how: how the changes of several adapters become one.

    Raises:
        DataError: a changed weight would not be finite.
        OSError: the disk is full or failed.
    """
    done = Written({}, 0, 0, {})
    for name, items in plan.items.items():
        kept = plan.headers.get(name) if _as_before(items) else None
        header = kept or tensors.header_of([(key, item.dtype, item.shape) for key, item in items.items()])
        with Writer(stage / name) as writer:
            writer.put(header)
            for key, item in items.items():
                for data in _copy(item) if item.same else _change(key, item, how):
                    writer.put(data)
                done.where[key] = name
                done.copied += item.same
                done.changed += not item.same
        done.digests[name] = writer.sha256
    return done


def _as_before(items: dict[str, Item]) -> bool:
    """Whether the header of the file stays as it is: the same tensors, of the same types and shapes."""
    return all(
        key == item.source.name and item.dtype is item.source.dtype and item.shape == item.source.shape
        for key, item in items.items()
    )


def _copy(item: Item) -> Iterator[bytearray | Tensor]:
    """The bytes of a tensor, in blocks."""
    source = item.source
    if isinstance(source, Span):
        size = source.end - source.begin
        yield from (source.read(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))
    else:
        yield from (source.rows(start, stop) for start, stop in tensors.blocks(source))


def _change(name: str, item: Item, how: combine.Combination) -> Iterator[Tensor]:
    """The tensor as it is after the merge, in blocks."""
    alone = len(item.changes) + len(item.replaced) == 1 and (item.changes or item.replaced)[0][0] == 1.0
    if alone:
        made = _replaced(item) if item.replaced else _updated(item, [make() for make in item.changes[0][1]])
    elif item.changes or item.replaced:
        made = combine.combined(name, item, how, _updated)
    else:
        made = _rows(item)
    for rows in made:
        if rows.is_floating_point() and not rows.sum().isfinite():
            what = f"{name} would hold numbers that are not finite"
            raise DataError("MERGE-01", what, why="the base or the adapter holds such numbers, or far too large ones")
        yield rows.to(item.dtype)


def _replaced(item: Item) -> Iterator[Tensor]:
    stored = item.replaced[0][1]
    yield from (stored.rows(start, stop) for start, stop in tensors.blocks(stored))


def _rows(item: Item) -> Iterator[Tensor]:
    """The blocks of the base's tensor in float32, with rows for new tokens where there are some."""
    if item.shape == item.source.shape and not item.new_rows:
        if not item.shape:
            yield tensors.whole(item.source)
        yield from (item.source.rows(*block).float() for block in tensors.blocks(item.source) if item.shape)
        return
    table = torch.zeros(item.shape, dtype=torch.float32)
    for start, stop in tensors.blocks(item.source):
        stop = min(stop, len(table))  # a vocabulary may have become smaller
        if start < stop:
            table[start:stop] = item.source.rows(start, stop)
    if item.new_rows:
        room.fill(table, min(*item.new_rows, item.source.shape[0]), item.new_rows)
    step = max(1, BLOCK // (4 * max(1, table[:1].numel())))
    yield from (table[start : start + step].clone() for start in range(0, len(table), step))


def _updated(item: Item, updates: list[Update]) -> Iterator[Tensor]:
    """The blocks of the tensor after its updates, one after the other."""
    if any(update.needs_all for update in updates) or sum(update.looks for update in updates) > 1:
        rows = torch.cat(list(_rows(item)))
        for update in updates:
            update.look(rows, 0) if update.looks else None
            rows = update.apply(rows, 0)
        yield rows
        return
    place = next((number for number, update in enumerate(updates) if update.looks), None)
    if place is not None:
        for start, rows in _numbered(item):
            for update in updates[:place]:
                rows = update.apply(rows, start)
            updates[place].look(rows, start)
    for start, rows in _numbered(item):
        for update in updates:
            rows = update.apply(rows, start)
        yield rows


def _numbered(item: Item) -> Iterator[tuple[int, Tensor]]:
    """The blocks, each with the number of its first row."""
    start = 0
    for rows in _rows(item):
        yield start, rows
        start += len(rows) if rows.ndim else 1
