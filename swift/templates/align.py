"""Which tokens of a text belong to which of its stretches, with the text tokenised as a whole.

A boundary lies between two tokens when the text from the last structural token up to it, tokenised alone, gives the
same ids; nothing reaches across such a token. A boundary that does not is made one by tokenising both sides apart,
which is what inference does at the end of a prompt.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from swift.templates.tokens import any_of, split

Tokenise = Callable[[Sequence[str]], list[list[int]]]


@dataclass(slots=True)
class Marked:
    """A text, its ascending `boundaries`, and where the tokenizer must not look across.

    A token may reach across a boundary that is `soft`, and then stands behind it.
    """

    text: str
    boundaries: list[int]
    cuts: set[int] = field(default_factory=set)
    soft: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Aligned:
    """The ids of a text, and for each boundary how many of them stand before it."""

    ids: list[int]
    positions: list[int]


class Frame:
    """The structural tokens of a chat template: text and id of each.

    Args:
        tokens: texts that the tokenizer reads as one token wherever they stand, with their ids.
    """

    def __init__(self, tokens: dict[str, int]) -> None:
        self.tokens, self._ids = tokens, frozenset(tokens.values())
        self._find = any_of(tokens) or re.compile(r"(?!)")

    def in_text(self, text: str) -> list[tuple[int, int, int]]:
        """Start, end and id of every structural token in a text."""
        return [(m.start(), m.end(), self.tokens[m[0]]) for m in self._find.finditer(text)]

    def in_ids(self, ids: list[int]) -> list[int]:
        """Where the structural tokens are among ids."""
        return [k for k, i in enumerate(ids) if i in self._ids]


def align(texts: Sequence[Marked], frame: Frame, tokenise: Tokenise) -> list[Aligned]:
    """Ids and boundary positions of many texts, in one tokenizer call unless a boundary has to be made."""
    done: dict[int, Aligned] = {}
    todo = list(range(len(texts)))
    while todo:
        rows = [_Row(texts[k], frame) for k in todo]
        asked = [text for row in rows for text in (*row.segments, *row.windows())]
        ids = dict(zip(asked, tokenise(asked), strict=True))
        again = []
        for k, row in zip(todo, rows, strict=True):
            aligned, across = row.align(ids)
            if across:
                texts[k].cuts.update(across)
                again.append(k)
            else:
                done[k] = aligned
        todo = again
    return [done[k] for k in range(len(texts))]


class _Row:
    """One text, split at its cuts."""

    def __init__(self, marked: Marked, frame: Frame) -> None:
        self.boundaries, self.soft, self.frame = marked.boundaries, marked.soft, frame
        self.starts = [0, *sorted(cut for cut in marked.cuts if 0 < cut < len(marked.text))]
        self.segments = split(marked.text, self.starts[1:])
        self.marks = [frame.in_text(segment) for segment in self.segments]

    def windows(self) -> list[str]:
        """What has to be tokenised besides the segments."""
        return [w for w in map(self._window, self.boundaries) if w]

    def align(self, ids: dict[str, list[int]]) -> tuple[Aligned, list[int]]:
        """Ids and positions; and the boundaries that a token reaches across."""
        joined: list[int] = []
        offsets: list[int] = []
        for segment in self.segments:
            offsets.append(len(joined))
            joined += ids[segment]
        places = [self._places(n, ids[segment]) for n, segment in enumerate(self.segments)]
        found = [self._position(boundary, ids, places) for boundary in self.boundaries]
        across = [b for b, at in zip(self.boundaries, found, strict=True) if at is None]
        positions = [
            offsets[self._segment(b)] + at for b, at in zip(self.boundaries, found, strict=True) if at is not None
        ]
        return Aligned(joined, positions), across

    def _segment(self, boundary: int) -> int:
        return bisect_right(self.starts, boundary) - 1

    def _window(self, boundary: int) -> str:
        """The text from the last structural token up to a boundary; "" where that needs no look."""
        n = self._segment(boundary)
        local, marks = boundary - self.starts[n], self.marks[n]
        if local in (0, len(self.segments[n])) or any(local in mark[:2] for mark in marks):
            return ""
        return self.segments[n][max((start for start, end, _ in marks if end < local), default=0) : local]

    def _places(self, n: int, own: list[int]) -> list[int] | None:
        """Where the structural tokens are among the ids of segment `n`; None when they are not those of its text."""
        places, marks = self.frame.in_ids(own), self.marks[n]
        return places if [own[k] for k in places] == [mark[2] for mark in marks] else None

    def _position(self, boundary: int, ids: dict[str, list[int]], all_places: list[list[int] | None]) -> int | None:
        """How many ids of its segment stand before a boundary; None when a token reaches across."""
        n = self._segment(boundary)
        segment, marks = self.segments[n], self.marks[n]
        local, own = boundary - self.starts[n], ids[segment]
        if local == 0:
            return 0
        if local == len(segment):
            return len(own)
        places = all_places[n]
        if places is None:
            return None
        for (start, end, _), place in zip(marks, places, strict=True):
            if local in (start, end):
                return place + (local == end)
        last = sum(end < local for _, end, _ in marks)
        first, window = places[last - 1] if last else 0, ids[self._window(boundary)]
        if boundary in self.soft:
            return first + shared(own[first:], window)
        return first + len(window) if own[first : first + len(window)] == window else None


def shared(one: Sequence[object], other: Sequence[object]) -> int:
    """How many first items two sequences share."""
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
