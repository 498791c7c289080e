"""What a merge will write: for every tensor of the base, in which file, and what is done to it on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import torch

from swift.errors import DataError
from swift.merging import adapters, parts, tensors
from swift.merging.adapters import Adapter
from swift.merging.parts import NeedsModel
from swift.merging.tensors import Stored
from swift.merging.updates import Rows, Update, Whole
from swift.merging.weights import HEADS, Base
from swift.models.new_tokens import NewTokens

SHOWN = 5


@dataclass
class Item:
    """One tensor of the merged model.

    Args:
        source: the base's tensor; None for one that is new.
        dtype: in which it is written.
        shape: as it is written.
        changes: by adapter: its weight, and what makes its updates, in their order.
        replaced: by adapter: its weight, and the tensor that is in the place of the base's.
        new_rows: which rows of a table are to be made, for tokens that were added.
    """

    source: Stored
    dtype: torch.dtype
    shape: tuple[int, ...]
    changes: list[tuple[float, list[Callable[[], Update]]]] = field(default_factory=list)
    replaced: list[tuple[float, Stored]] = field(default_factory=list)
    new_rows: tuple[int, ...] = ()

    @property
    def same(self) -> bool:
        """Whether it is written as it was read."""
        changed = self.changes or self.replaced or self.new_rows
        return not changed and self.dtype is self.source.dtype and self.shape == self.source.shape


@dataclass
class Plan:
    """A merge before it is done.

    Args:
        items: by the name of the file that is written, and by the tensor's name, in their order.
        headers: of files that keep theirs, byte by byte.
        untied: whether embedding and head, which were one tensor, become two.
        vocabulary: how many rows the embedding has if that changes, else None.
    """

    items: dict[str, dict[str, Item]]
    headers: dict[str, bytes] = field(default_factory=dict)
    untied: bool = False
    vocabulary: int | None = None

    @property
    def bytes(self) -> int:
        """How many bytes of tensors are written."""
        return sum(tensors.size_bytes(item.shape, item.dtype) for item in self.all())

    def all(self) -> Iterator[Item]:
        """Every tensor."""
        for items in self.items.values():
            yield from items.values()

    def find(self, name: str) -> Item | None:
        """The tensor of this name in the files."""
        return next((items[name] for items in self.items.values() if name in items), None)


def make(
    base: Base, several: Sequence[Adapter], dtype: torch.dtype | None = None, new: NewTokens | None = None
) -> Plan:
    """What merging adapters into a base will write.

    Args:
        base: the model's weights.
        several: the adapters; of more than one, what each changes is to be combined.
        dtype: in which floating-point tensors are written; None is as they are.
        new: tokens that were added for the training.

    Raises:
        DataError: an adapter has tensors that fit nothing in the base, or lacks some for what its config targets.
        NeedsModel: a method or a layer has to be merged by PEFT itself.
    """
    plan = Plan({}, {})
    for name, found in base.files.items():
        target = name if name.endswith(".safetensors") else _renamed(name)
        wanted = {key: stored for key, stored in found.items() if not (base.is_head(key) and target != name)}
        plan.items[target] = {key: Item(one, _cast(one, dtype), one.shape) for key, one in wanted.items()}
        if name.endswith(".safetensors"):
            plan.headers[name] = tensors.spans(base.directory / name)[1]
    if new is not None:
        _add_rows(plan, base, new)
    for adapter in several:
        _plan_one(plan, base, adapter)
        _check_complete(base, adapter)
        _check_tables(plan, base, adapter)
    if base.tied and base.head is not None and not plan.untied:
        _drop_stale(plan, base.embedding, base.head)
    return plan


def _check_tables(plan: Plan, base: Base, adapter: Adapter) -> None:
    """Raise DataError where an adapter brings a resized embedding and not the head that was resized with it."""
    head = base.head or next((name for name in HEADS if plan.find(name) is not None), None)
    if plan.vocabulary is None or head is None or (base.tied and not plan.untied):
        return
    rows = plan_shape(plan, str(base.embedding))[0], plan_shape(plan, head)[0]
    if rows[0] != rows[1]:
        what = f"it has a resized vocabulary for one of two tables: {base.embedding} has {rows[0]} rows, "
        raise misfit(adapter, [f"{what}and {head} {rows[1]}"])


def _drop_stale(plan: Plan, embedding: str | None, head: str) -> None:
    """Leave out a head that is stored beside the embedding it is tied to, when that one changes: one is enough."""
    table = plan.find(str(embedding))
    if table is None or not (table.changes or table.replaced or table.new_rows or table.shape != table.source.shape):
        return
    file = next(file for file, items in plan.items.items() if head in items)
    del plan.items[file][head]
    plan.headers.pop(file, None)
    if not plan.items[file]:
        del plan.items[file]


def _renamed(name: str) -> str:
    """The name of the safetensors file in the place of a `.bin` file."""
    return name.replace("pytorch_model", "model").removesuffix(".bin") + ".safetensors"


def _cast(stored: Stored, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype and stored.dtype.is_floating_point else stored.dtype


def _add_rows(plan: Plan, base: Base, new: NewTokens) -> None:
    """Give the embedding and the head rows for new tokens, as training gave them."""
    for name in (base.embedding, None if base.tied else base.head):
        item = plan.find(name) if name else None
        if item is None:
            continue
        old = item.shape[0]
        if new.rows < old:
            raise DataError("CKPT-02", f"the model has {old} rows, and the checkpoint was trained with {new.rows}")
        item.shape = (new.rows, *item.shape[1:])
        item.new_rows = tuple(sorted({*new.ids.values(), *range(old, new.rows)}))
        plan.vocabulary = new.rows if new.rows != old else None


def _check_complete(base: Base, adapter: Adapter) -> None:
    """Raise DataError where a module that the config targets was not adapted, as in a base with more layers."""
    known = {name: adapters.is_target(adapter.config, name.removesuffix(".weight")) for name in base.names}
    narrowed = any(adapter.config.get(key) for key in ("layers_to_transform", "layers_pattern", "exclude_modules"))
    found = {base.find(f"{path}.weight") for path in adapter.modules}
    lacking = [
        name
        for name, wanted in known.items()
        if wanted and not narrowed and name.endswith(".weight") and len(base.names[name].shape) == 2
        if name not in found and base.find(name) == name and ".experts." not in name
    ]
    if lacking and adapter.modules and adapter.kind != "TRAINABLE_TOKENS":
        raise misfit(adapter, [f"{len(lacking)} modules are targets and have no weights: {_shown(lacking)}"])


def misfit(adapter: Adapter, faults: Sequence[str]) -> DataError:
    """The error for an adapter that was made for another model."""
    on = adapter.config.get("base_model_name_or_path")
    what = f"{adapter.folder} does not fit the model; {'; '.join(faults)}"
    why, fix = f"it was trained on {on}" if on else None, "merge it into the model that it was trained on"
    return DataError("CKPT-02", what, why=why, fix=fix)


def _plan_one(plan: Plan, base: Base, adapter: Adapter) -> None:
    """Put the changes of one adapter where they belong."""
    unknown: list[str] = []
    changes: dict[str, list[Callable[[], Update]]] = {}
    replaced: dict[str, Stored] = {}
    for path in adapter.modules:
        _place(plan, base, adapter, f"{path}.weight")  # embedding and head part before whole tables take their places
    for name, stored in adapter.whole.items():
        place = _place(plan, base, adapter, name, replacing=True)
        if place is None:
            unknown.append(name)
        else:
            _fit(plan, base, adapter, place, stored)
            replaced[place] = stored
    table = replaced.get(str(base.embedding))
    if plan.untied and table is not None and not _is_trained(adapter, str(base.embedding)):
        head = str(_tied_place(plan, base, HEADS[0]))
        if head not in replaced:  # it was one with the embedding when the vocabulary was resized
            _fit(plan, base, adapter, head, table)
            replaced[head] = table
    for path, found in adapter.modules.items():
        for number, (name, make_update) in enumerate(parts.updates(adapter, base, path)):
            place = _place(plan, base, adapter, name)
            if place is None:
                unknown += [f"{path}.{part}" for part in found]
                break
            shape = plan_shape(plan, place)
            make_update(shape)  # so that what does not fit is known before anything is written
            changes.setdefault(place, []).append(partial(_again, adapter, base, path, number, shape))
    for path, stored in adapter.tokens.items():
        if base.is_head(f"{path}.weight") and not adapter.names_rows(path):
            continue  # the embedding's, saved twice
        place = _tied_place(plan, base, f"{path}.weight")
        if place is None:
            unknown.append(path)
        else:
            rows = _rows_of(plan, adapter, path, place, stored)
            changes.setdefault(place, []).append(partial(lambda update: update, rows))
    if unknown:
        raise misfit(adapter, [f"{len(unknown)} of its tensors are not in the model: {_shown(unknown)}"])
    for place, stored in replaced.items():
        item = plan.find(place)
        assert item is not None
        if place in changes:
            changes[place].insert(0, partial(Whole, stored))
        else:
            item.replaced.append((adapter.weight, stored))
    for place, makers in changes.items():
        item = plan.find(place)
        assert item is not None
        item.changes.append((adapter.weight, makers))


def _again(adapter: Adapter, base: Base, path: str, number: int, shape: tuple[int, ...]) -> Update:
    """The change of that number of those of the module at `path`, made when it is needed."""
    return next(islice(parts.updates(adapter, base, path), number, None))[1](shape)


def plan_shape(plan: Plan, name: str) -> tuple[int, ...]:
    """The shape of a tensor that is written."""
    item = plan.find(name)
    assert item is not None
    return item.shape


def _rows_of(plan: Plan, adapter: Adapter, path: str, place: str, stored: Stored) -> Rows:
    rows, shape = adapter.token_rows(path), plan_shape(plan, place)
    if rows and max(rows) >= shape[0]:
        raise misfit(adapter, [f"it has rows for tokens up to {max(rows)}, and {place} has {shape[0]}"])
    if stored.shape[1:] != shape[1:]:
        raise misfit(adapter, [f"its rows of {place} are {stored.shape[1:]}, not {shape[1:]}"])
    return Rows(rows, tensors.whole(stored))


def _place(plan: Plan, base: Base, adapter: Adapter, name: str, replacing: bool = False) -> str | None:
    """The tensor that the model calls `name`, among those that are written.

    Where embedding and head are one tensor and only one of them was trained, they become two.
    """
    found = base.find(name)
    kept = adapter.config.get("ensure_weight_tying") or (replacing and not _is_trained(adapter, name))
    touched = (found is not None and found == base.embedding) or base.is_head(name)
    if not base.tied or not touched or kept:
        return _tied_place(plan, base, name)
    return _untie(plan, base, name)


def _is_trained(adapter: Adapter, name: str) -> bool:
    """Whether the whole tensor that the model calls `name` was trained, and not only saved beside what was."""
    trained = adapter.config.get("modules_to_save") or ()
    return any(name == f"{one}.weight" or name.endswith(f".{one}.weight") for one in trained)


def _tied_place(plan: Plan, base: Base, name: str) -> str | None:
    """The tensor that the model calls `name`: of a head that is tied, and is still, the embedding."""
    if not base.is_head(name):
        return base.find(name)
    return (base.head or name) if plan.untied else base.embedding


def _untie(plan: Plan, base: Base, name: str) -> str:
    """Make the head a tensor of its own, if it is not yet; which of the two `name` is."""
    assert base.embedding is not None
    head = base.head or next((one for one in HEADS if one == name), HEADS[0])
    if not plan.untied:
        place = base.embedding if plan.find(head) is None else head
        file = next(file for file, items in plan.items.items() if place in items)
        table, source = plan.find(base.embedding), plan.items[file][place].source
        assert table is not None
        if table.changes or table.replaced:
            raise NeedsModel("embedding and head, one tensor before, part where another adapter changed it already")
        plan.items[file][head] = Item(source, table.dtype, table.shape, new_rows=table.new_rows)
        plan.untied = True
    return head if name in HEADS else base.embedding


def _fit(plan: Plan, base: Base, adapter: Adapter, place: str, stored: Stored) -> None:
    """Give a tensor the shape of what takes its place; only tables of tokens may have another number of rows."""
    item = plan.find(place)
    assert item is not None
    table = place in (base.embedding, *HEADS)
    if stored.shape != item.shape and not (table and stored.shape[1:] == item.shape[1:]):
        raise misfit(adapter, [f"{place} is {stored.shape}, not {item.shape}"])
    if stored.shape != item.shape and (item.replaced or item.changes):
        raise misfit(adapter, [f"{place} has {stored.shape[0]} rows, and {item.shape[0]} in another adapter"])
    if stored.shape != item.shape:
        plan.vocabulary, item.shape = stored.shape[0], stored.shape


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
