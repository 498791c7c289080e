"""What a model remembers of the rows that are being answered: rows come and go while others stay.

Every row ends at the same column, so it has padding on its left. Letters in names: B rows, H heads, T columns, D size
of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

COLUMNS_MORE = 64
Kept = list[tuple[Tensor, Tensor]]  # keys and values (H, T, D) of one row, layer by layer


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (B, H, T, D), in room for more columns than are used."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for what is first written."""
        self.keys, self.values = self._room(key_states), self._room(value_states)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write (B, H, n, D) behind the columns so far; give all that are used now."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._arrays()
        end = self.length + key_states.shape[2]
        if end > keys.shape[2]:
            keys, values = self._room(keys[:, :, : self.length], end), self._room(values[:, :, : self.length], end)
            self.keys, self.values = keys, values
        keys[:, :, self.length : end] = key_states
        values[:, :, self.length : end] = value_states
        self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self) -> int:
        """Columns that are used."""
        return self.length

    def get_max_length(self) -> int:
        """-1: there is always room."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a query of so many tokens sees, and the first of them."""
        return self.length + query_length, 0

    def used(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the used columns, (B, H, T, D)."""
        keys, values = self._arrays()
        return keys[:, :, : self.length], values[:, :, : self.length]

    def set(self, keys_BHTD: Tensor, values_BHTD: Tensor) -> None:
        """Remember this instead."""
        self.length = keys_BHTD.shape[2]
        self.keys, self.values = self._room(keys_BHTD, self.length), self._room(values_BHTD, self.length)
        self.is_initialized = True

    def keep(self, rows: Sequence[int], first: int) -> None:
        """Forget all but `rows`, in this order, and the columns before `first`."""
        kept = [array.new_empty((len(rows), *_with_room(array, self.length - first))) for array in self._arrays()]
        for room, array in zip(kept, self._arrays(), strict=True):
            if array.is_cpu:  # one by one there is no copy between
                for place, row in enumerate(rows):
                    room[place, :, : self.length - first] = array[row, :, first : self.length]
            else:  # needs-cuda
                room[:, :, : self.length - first] = array[list(rows), :, first : self.length]
        self.keys, self.values = kept
        self.length -= first

    def put(self, places: Sequence[int], other: SlotLayer) -> None:
        """Write the rows of `other`, which has no more columns, into some places; new ones come behind the last."""
        arrays = self._arrays()
        rows, first = arrays[0].shape[0], self.length - other.length
        more = max(0, max(places) + 1 - rows)
        if more:
            wider = [array.new_empty((rows + more, *array.shape[1:])) for array in arrays]
            for room, array in zip(wider, arrays, strict=True):
                room[:rows, :, : self.length] = array[:, :, : self.length]
            self.keys, self.values = wider
        for room, new in zip(self._arrays(), other.used(), strict=True):
            room[list(places), :, :first] = 0  # nobody looks there, but what is multiplied by 0 must be a number
            room[list(places), :, first : self.length] = new

    def _arrays(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _room(self, like: Tensor, columns: int = 0) -> Tensor:
        """What is in `like`, and room for more than `columns`: that is written before it counts."""
        room = like.new_empty((like.shape[0], *_with_room(like, max(columns, like.shape[2]))))
        room[:, :, : like.shape[2]] = like
        return room


def _with_room(like: Tensor, columns: int) -> tuple[int, int, int]:
    """The shape (H, T, D) of rows as those of `like` with room for more than so many columns."""
    return like.shape[1], columns + max(COLUMNS_MORE, columns // 4), like.shape[3]


class SlotCache(Cache):
    """A cache whose rows can be dropped, replaced and joined. It keeps whole rows also where a window slides."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=SlotLayer)

    @property
    def slots(self) -> list[SlotLayer]:
        """The layers that are used."""
        return [layer for layer in self.layers if isinstance(layer, SlotLayer) and layer.is_initialized]

    @property
    def length(self) -> int:
        """Columns that are used."""
        return self.get_seq_length() if self.layers else 0

    @property
    def bytes_per_token(self) -> int:
        """How much memory a column of one row takes."""
        arrays = [array for layer in self.slots for array in layer.used()]
        return sum(array.shape[1] * array.shape[3] * array.element_size() for array in arrays)

    def keep(self, rows: Sequence[int], first: int = 0) -> None:
        """Forget all but `rows`, in this order, and the columns before `first`."""
        for layer in self.slots:
            layer.keep(rows, first)

    def cut(self, columns: int) -> None:
        """Forget so many of the last columns."""
        for layer in self.slots:
            layer.length -= columns

    def shift(self, row: int, first: int, columns: int) -> None:
        """Forget so many last columns of one row, whose columns from `first` on move to the right in their place."""
        for layer in self.slots:
            for array in layer.used():
                array[row, :, first + columns :] = array[row, :, first : layer.length - columns].clone()

    def splice(self, gone: Sequence[int], other: SlotCache) -> list[int]:
        """Take the rows of `other` in: into the places of rows that are `gone`, then behind the last one.

        Returns:
            the place of each row of `other`; columns have become as many as the longer of both has.
        """
        if not self.layers:
            self.layers = other.layers
            return list(range(other.rows))
        wider = other.length - self.length
        if wider > 0:
            self._widen(wider)
        places = [*gone, *range(self.rows, self.rows + other.rows)][: other.rows]
        for mine, theirs in zip(self.slots, other.slots, strict=True):
            mine.put(places, theirs)
        return places

    @property
    def rows(self) -> int:
        """How many rows there are, gone ones included."""
        return self.slots[0].used()[0].shape[0] if self.slots else 0

    def row(self, row: int, first: int, last: int) -> Kept:
        """A copy of what columns `first` to before `last` of one row hold."""
        return [
            (keys[row, :, first:last].clone(), values[row, :, first:last].clone())
            for keys, values in (layer.used() for layer in self.slots)
        ]

    @classmethod
    def of(cls, kept: Sequence[Kept | None], width: int) -> SlotCache:
        """A cache of `width` columns with these rows at their right ends; None is an empty row."""
        cache = cls()
        example = next(row for row in kept if row is not None)
        for number, (keys, values) in enumerate(example):
            layer = SlotLayer()
            arrays = [part.new_zeros((len(kept), part.shape[0], width, part.shape[2])) for part in (keys, values)]
            for k, row in enumerate(kept):
                if row is not None:
                    for array, part in zip(arrays, row[number], strict=True):
                        array[k, :, width - part.shape[1] :] = part
            layer.set(*arrays)
            cache.layers.append(layer)
        return cache

    def _widen(self, columns: int) -> None:
        for layer in self.slots:
            keys, values = layer.used()
            layer.set(*(torch.nn.functional.pad(array, (0, 0, columns, 0)) for array in (keys, values)))
