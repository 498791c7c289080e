"""From generated ids to the text a user reads: where it ends, and what of it may be shown while it grows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from swift.inference.tokens import tokens_of
from swift.templates.encoding import Template
from swift.templates.stop import BROKEN, MAY_SHOW, generate_ids_to_response

PIECE, OVERLAP = 64, 8  # ids of an answer that are decoded together, and those before them that are decoded with them


class Reader:
    """Turns the ids of an answer into its text, without the end of the turn and without stop words.

    Args:
        template: whose answers they are; its own stop words count too.
        stop_ids: ids that end an answer.
        stop_words: further texts that end one.
        tokenizer_kwargs: what `template.encode` said to decode with.
        stop_after: texts with which an answer ends too, and that belong to it.
    """

    def __init__(
        self,
        template: Template,
        stop_ids: Sequence[int],
        stop_words: Sequence[str] = (),
        tokenizer_kwargs: dict[str, Any] | None = None,
        stop_after: Sequence[str] = (),
    ) -> None:
        self.tokenizer, self.end_ids, self.lead = template.tokenizer, template.end_ids, template.lead
        self.stop_ids = list(stop_ids)
        self.stop_words = list(dict.fromkeys(word for word in [*template.stop_words, *stop_words] if word))
        self.tokenizer_kwargs, self.stop_after = tokenizer_kwargs or {}, tuple(stop_after)
        self.window = max((len(text.encode()) for text in self.ending_texts), default=0) + 8
        ends = [text[-1] for text in self.ending_texts]
        self.last_bytes = set(range(256)) if BROKEN in ends else {end.encode()[-1] for end in ends}

    @property
    def ending_texts(self) -> list[str]:
        """All texts that end an answer."""
        return [*self.stop_words, *self.stop_after]

    def whole(self, ids: Sequence[int]) -> str:
        """The text of a finished answer."""
        return self._text(ids, True)

    def so_far(self, ids: Sequence[int]) -> str:
        """The beginning of `whole` that no further id can change: whole characters and words, no half stop word."""
        return self._text(ids, False)

    def num_ids(self, ids: Sequence[int]) -> int:
        """How many ids the answer takes, the one that ends it included; the rest is padding."""
        return next((k for k, i in enumerate(ids, 1) if i in self.stop_ids), len(ids))

    def stopped(self, ids: Sequence[int]) -> bool:
        """Whether these ids end an answer, rather than being all there was room for."""
        if any(i in self.stop_ids for i in ids):
            return True
        text = str(self.tokenizer.decode(list(ids))) if self.ending_texts else ""
        return any(word in text for word in self.ending_texts)

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether the last of these ids ends an answer that went on until then."""
        if ids[-1] in self.stop_ids:
            return True
        if not self.last_bytes or self.last_bytes.isdisjoint(tokens_of(self.tokenizer).bytes_of(ids[-1])):
            return False
        text = str(self.tokenizer.decode(list(ids[-self.window :])))
        return any(word in text for word in self.ending_texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, whatever they are."""
        return str(self.tokenizer.decode(list(ids), **{"clean_up_tokenization_spaces": False, **self.tokenizer_kwargs}))

    def _text(self, ids: Sequence[int], finished: bool) -> str:
        text = generate_ids_to_response(self, ids, finished, tokenizer_kwargs=self.tokenizer_kwargs)
        ends = [text.find(word) + len(word) for word in self.stop_after if word in text]
        return text[: min(ends, default=None)]


class Following:
    """`Reader.so_far` of one answer that grows; a longer one costs no more each time.

    Args:
        reader: of the answer.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader, self.rest = reader, copy.copy(reader)
        self.rest.lead = ""
        self.head, self.begin, self.read = "", 0, 0  # `head` is the text of the first `read` ids

    def so_far(self, ids: Sequence[int]) -> str:
        """What may be shown of these ids, which begin with those of the last time."""
        while len(ids) - self.read > 2 * PIECE and self._read_on(ids):
            pass
        if not self.read:
            return self.reader.so_far(ids)
        before = len(self.reader.decode(ids[self.begin : self.read]))
        shown = self.rest.so_far(ids[self.begin :])
        if shown:
            return self.head[: len(self.head) - max(0, before - len(shown))] + shown[before:]
        earlier = self.head[: len(self.head) - before]  # the last word began long ago
        return earlier[: next((k for k in range(len(earlier), 0, -1) if MAY_SHOW.match(earlier[k - 1])), 0)]

    def _read_on(self, ids: Sequence[int]) -> bool:
        """Whether some more ids end with a whole character, so that they need not be decoded again."""
        for end in range(self.read + PIECE, self.read, -1):
            text = self.reader.decode(ids[self.begin : end])
            if not text.endswith(BROKEN):
                new = text[len(self.reader.decode(ids[self.begin : self.read])) :]
                self.head = self.head + new if self.read else new.removeprefix(self.reader.lead)
                begins = range(max(0, end - OVERLAP), max(-1, end - 2 * OVERLAP), -1)  # one that is no half character
                whole = (k for k in begins if not self.reader.decode(ids[k:end]).startswith(BROKEN))
                self.begin, self.read = next(whole, begins[0]), end
                return True
        return False
