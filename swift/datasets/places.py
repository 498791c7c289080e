"""Lines of files, many of them in little memory."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T", bound=Mapping[str, Any])
PLACE = re.compile(r"(.*?)(?::(\d+)(?: \(row (\d+)\))?)?")


class Place:
    """Where a row stands, in little memory: rows of one file share its name.

    Args:
        where: file and line, such as "train.jsonl:418".
        files: names of files that are known, added to here.
    """

    __slots__ = ("_file", "_line")

    def __init__(self, where: str, files: dict[str, str]) -> None:
        file, colon, line = where.rpartition(":")
        exact = bool(colon) and line.isdecimal() and str(int(line)) == line
        self._file, self._line = (files.setdefault(file, file), int(line)) if exact else (where, None)

    @property
    def where(self) -> str:
        """As it was given."""
        return self._file if self._line is None else f"{self._file}:{self._line}"


class Places:
    """Files and lines, such as "train.jsonl:418", by file in the order in which they came.

    Args:
        most: how many are kept; None is all. `len` is how many there were.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most, self.total, self._kept = most, 0, 0
        self._files: dict[str, array[int] | list[int | str]] = {}

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[str]:
        return (f"{file}:{line}" for file, lines in self._files.items() for line in lines)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places | Sequence) and list(self) == list(other) and len(self) == len(other)

    def __hash__(self) -> int:
        raise TypeError("places change")

    def __repr__(self) -> str:
        return f"Places({list(self)})"

    def append(self, where: str) -> None:
        """Enter one."""
        self.total += 1
        if self.most is not None and self._kept >= self.most:
            return
        self._kept += 1
        file, _, text = where.rpartition(":")
        line = int(text) if text.isascii() and text.isdigit() and len(text) < 18 else text
        lines = self._files.setdefault(file, array("q"))
        if isinstance(line, str) and isinstance(lines, array):
            lines = self._files[file] = list(lines)
        lines.append(line)  # type: ignore[arg-type]

    def by_file(self) -> dict[str, list[int | str]]:
        """The lines of every file; those that were not kept are missing."""
        return {file: list(lines) for file, lines in self._files.items()}

    def to_state(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {"total": self.total, "lines": self.by_file()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], most: int | None = None) -> Places:
        """What `to_state` came from."""
        places = cls(most)
        for file, lines in state["lines"].items():
            for line in lines:
                places.append(f"{file}:{line}")
        places.total = state["total"]
        return places


def in_file_order(rows: Sequence[T]) -> list[T]:
    """Rows as their files have them, which sampling and splitting changed: answers are then easy to match."""
    files: dict[str, int] = {}

    def place(row: T) -> list[int]:
        match = PLACE.fullmatch(row["where"])
        assert match
        file, *numbers = match.groups(default="1")
        return [files.setdefault(file, len(files)), *map(int, numbers)]

    return sorted(rows, key=place)
