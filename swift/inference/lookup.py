"""Guessing how an answer goes on from what stands before it: a copy, a correction, a summary repeats its prompt.

A guess costs nothing to make; the model reads all of it in one pass and keeps as much as it would have written itself,
so that an answer is the same, and comes sooner where guesses are right.

See: https://github.com/apoorvumang/prompt-lookup-decoding
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 3  # tokens that must have stood before, to begin with; then fewer


class Lookup:
    """Guesses for one answer.

    Args:
        prompt_ids: of the question.
        most: tokens in a guess.
    """

    def __init__(self, prompt_ids: Sequence[int], most: int) -> None:
        self.ids, self.most = list(prompt_ids), most
        self._num_prompt = len(self.ids)
        self._behind: dict[tuple[int, ...], int] = {}  # some tokens -> the place behind where they first stood
        self._indexed = 0
        self._source: int | None = None  # the place that follows the last token where that was copied from

    def guess(self, answer_ids: Sequence[int], room: int) -> list[int]:
        """What may follow the prompt and these ids, at most `room` tokens; [] when they never stood before."""
        new = answer_ids[len(self.ids) - self._num_prompt :]
        self.ids += new
        self._index()
        if self._source is not None:
            self._source += len(new)
        if not self._goes_on():
            self._source = self._found()
        return [] if self._source is None else self.ids[self._source : self._source + min(self.most, room)]

    def _goes_on(self) -> bool:
        """Whether the last two tokens are those at the place that was copied from."""
        place = self._source
        return place is not None and 2 <= place < len(self.ids) and self.ids[place - 2 : place] == self.ids[-2:]

    def _found(self) -> int | None:
        for count in range(min(LONGEST, len(self.ids) - 1), 0, -1):
            place = self._behind.get(tuple(self.ids[-count:]))
            if place is not None:
                return place
        return None

    def _index(self) -> None:
        for end in range(self._indexed + 1, len(self.ids)):
            for count in range(1, min(LONGEST, end) + 1):
                self._behind.setdefault(tuple(self.ids[end - count : end]), end)
        self._indexed = max(self._indexed, len(self.ids) - 1)
