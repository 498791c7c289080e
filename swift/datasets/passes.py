"""One pass over the rows of several data sets in the order of their mix, which can begin anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from swift.datasets.mix import Mix, take_turns
from swift.datasets.source import Outcome, Source


@dataclass
class Cursor:
    """Where a pass over several sources stands, as plain values.

    Attributes:
        epoch: how many passes were made before.
        block: how many blocks were taken of this one.
        tables: the table of each source that is read.
        rows: the rows that were taken from it.
        taken: the rows that were taken from the source.
        passes: how often each source began again within the epoch.
        credits: what each is behind its share.
    """

    epoch: int
    block: int
    tables: list[int]
    rows: list[int]
    taken: list[int]
    passes: list[int]
    credits: list[float]

    @classmethod
    def start(cls, sources: int) -> Cursor:
        """The beginning of the first epoch."""
        zeros = [0] * sources
        return cls(0, 0, zeros[:], zeros[:], zeros[:], zeros[:], [0.0] * sources)


class Pass:
    """One epoch's rows in the order of the mix, from a cursor on, which moves along."""

    def __init__(self, sources: Sequence[Source], mix: Mix, cursor: Cursor) -> None:
        self.sources, self.mix, self.cursor = sources, mix, cursor
        self._open: dict[int, Iterator[tuple[str, Outcome]]] = {}
        self._rows = self._in_order()

    def take(self, most: int) -> list[tuple[int, bool, str, Outcome]]:
        """The next rows: (source, whether it was read before, where, outcome)."""
        return [(i, self._again(i), *row) for i, row in islice(self._rows, most)]

    def _again(self, i: int) -> bool:
        return self.cursor.epoch > 0 or self.cursor.passes[i] > 0

    def _in_order(self) -> Iterator[tuple[int, tuple[str, Outcome]]]:
        if self.mix.shares is not None:
            yield from take_turns(self.mix, self.cursor.credits, self.cursor.passes, self._next, self._rewind)
            return
        for i in range(len(self.sources)):
            while (row := self._next(i)) is not None:
                yield i, row

    def _next(self, i: int) -> tuple[str, Outcome] | None:
        source, cursor = self.sources[i], self.cursor
        while cursor.tables[i] < len(source.tables):
            if source.spec.sample is not None and cursor.taken[i] >= source.spec.sample:
                return None
            if i not in self._open:
                self._open[i] = source.rows(cursor.tables[i], cursor.rows[i])
            row = next(self._open[i], None)
            if row is not None:
                cursor.rows[i] += 1
                cursor.taken[i] += 1
                return row
            del self._open[i]
            cursor.tables[i] += 1
            cursor.rows[i] = 0
        return None

    def _rewind(self, i: int) -> None:
        self._open.pop(i, None)
        self.cursor.tables[i] = self.cursor.rows[i] = self.cursor.taken[i] = 0
