"""Rows encoded while the next ones are read, so that no text of them is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from swift.datasets.blocks import Keep
from swift.datasets.convert import Conversation
from swift.datasets.judge import Encoder, Judged, Line
from swift.datasets.places import Place

BATCH, CHARACTERS = 250, 1 << 18
"""Rows that are encoded at once, and how much text begins another batch before."""


class Placed(Place, Mapping[str, Any]):
    """Where a row stands that is encoded already.

    Attributes:
        index: its number among the rows that were encoded.
        dataset: as it was typed.
    """

    __slots__ = ("dataset", "index")

    def __init__(self, index: int, where: str, dataset: str | None, files: dict[str, str]) -> None:
        super().__init__(where, files)
        self.index, self.dataset = index, dataset

    def __getitem__(self, key: str) -> Any:
        if key == "where":
            return self.where
        if key == "dataset" and self.dataset is not None:
            return self.dataset
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(("where",) if self.dataset is None else ("where", "dataset"))

    def __len__(self) -> int:
        return 1 if self.dataset is None else 2


class Ahead:
    """Encodes what it is given, batch by batch.

    Args:
        template: what encodes.
        keep: where encoded rows go.
        processes: how many encode.

    Attributes:
        judged: the rows so far.

    A context; what is not encoded at its end is encoded then.
    """

    def __init__(self, template: Encoder, keep: Keep, processes: int = 1) -> None:
        self.judged = Judged(keep)
        self._line = Line(template, processes)
        self._batch: list[Conversation] = []
        self._taken = self._characters = 0
        self._files: dict[str, str] = {}

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._line:
            if kind is None:
                self._send()
                for found in self._line.rest():
                    self.judged.add(*found)

    def take(self, row: Conversation) -> Conversation:
        """Encode a row, soon; gives where it stands, which is no dict and has no messages."""
        self._batch.append(row)
        self._characters += sum(len(message["content"]) for message in row["messages"])
        placed = Placed(self._taken, row["where"], row.get("dataset"), self._files)
        self._taken += 1
        if len(self._batch) == BATCH or self._characters >= CHARACTERS:
            self._send()
        return cast(Conversation, placed)

    def _send(self) -> None:
        batch, self._batch, self._characters = self._batch, [], 0
        if batch:
            for found in self._line.send(batch):
                self.judged.add(*found)
