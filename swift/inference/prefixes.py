"""Beginnings of prompts that were read before: a system prompt that many share, a conversation that goes on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from swift.inference.cache import Kept, SlotCache

MOST_KNOWN = 256
LEAST_SHARED = 16  # tokens below which reading again is as cheap


@dataclass
class _Prefix:
    """What one row left behind for its ids."""

    kept: Kept
    bytes: int


class Prefixes:
    """What was computed for earlier prompts, the latest used last to go.

    Args:
        limit_bytes: how much memory they may take together.
    """

    def __init__(self, limit_bytes: int = 256 << 20) -> None:
        self.limit_bytes = limit_bytes
        self.reused_tokens = self._bytes = 0
        self._known: OrderedDict[tuple[str | None, tuple[int, ...]], _Prefix] = OrderedDict()

    def find(self, prompts: Sequence[tuple[str | None, list[int]]]) -> tuple[SlotCache, int]:
        """A cache with the beginnings of these (adapter, ids), and how many last tokens of each are still to read.

        Rows end at the same column, so as many are read of each as of the one that is least known.
        """
        found = [self._longest(adapter, ids) for adapter, ids in prompts]
        width = max(len(ids) for _, ids in prompts)
        tokens = max(len(ids) - shared for (_, ids), (shared, _) in zip(prompts, found, strict=True))
        if tokens >= width:
            return SlotCache(), width
        rows: list[Kept | None] = []
        for (_, ids), (_, kept) in zip(prompts, found, strict=True):
            own = max(0, len(ids) - tokens)
            self.reused_tokens += own
            rows.append([(k[:, :own], v[:, :own]) for k, v in kept] if own and kept is not None else None)
        return SlotCache.of(rows, width - tokens), tokens

    def add(self, adapter: str | None, ids: Sequence[int], cache: SlotCache, row: int, pad: int) -> None:
        """Remember what a row of `cache` holds for its prompt."""
        key = (adapter, tuple(ids))
        if len(ids) < LEAST_SHARED or key in self._known or cache.bytes_per_token * len(ids) > self.limit_bytes:
            return
        kept = cache.row(row, pad, pad + len(ids))
        self._known[key] = _Prefix(kept, sum(part.nbytes for pair in kept for part in pair))
        self._bytes += self._known[key].bytes
        while self._bytes > self.limit_bytes or len(self._known) > MOST_KNOWN:
            self._drop(next(iter(self._known)))

    def forget(self, adapter: str | None) -> None:
        """Forget what an adapter computed."""
        for key in [key for key in self._known if key[0] == adapter]:
            self._drop(key)

    def _drop(self, key: tuple[str | None, tuple[int, ...]]) -> None:
        self._bytes -= self._known.pop(key).bytes

    def _longest(self, adapter: str | None, ids: list[int]) -> tuple[int, Kept | None]:
        """How many first tokens are known, of which the last of `ids` is never one, and what they left."""
        best, chosen = 0, None
        for key in self._known:
            if key[0] == adapter and list(key[1][:LEAST_SHARED]) == ids[:LEAST_SHARED]:
                shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(key[1], ids[:-1], strict=False)))
                if shared > best:
                    best, chosen = shared, key
        if chosen is None or best < LEAST_SHARED:
            return 0, None
        self._known.move_to_end(chosen)
        return best, self._known[chosen].kept
