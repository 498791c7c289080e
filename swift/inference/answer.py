"""From generated ids to the text a user reads: where it ends, and what of it may be shown while it grows."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

from swift.inference.metrics import CJK

BROKEN = "\ufffd"
BREAK = re.compile(rf"[\s{CJK}\u3000-\u303f\uff00-\uffef]")


class Reader:
    """Turns the ids of an answer into its text, without the end of the turn and without stop words.

    Args:
        tokenizer: decodes.
        stop_ids: ids that end an answer.
        stop_words: texts that end an answer.
        tokenizer_kwargs: what `template.encode` says to decode with.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        stop_words: Sequence[str] = (),
        tokenizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(stop_ids)
        self.stop_words = tuple(dict.fromkeys(word for word in stop_words if word))
        self.tokenizer_kwargs = {"clean_up_tokenization_spaces": False, **(tokenizer_kwargs or {})}

    def whole(self, ids: Sequence[int]) -> str:
        """The text of a finished answer."""
        text = self._decode(ids)
        return text[: self._first_stop_word(text)]

    def so_far(self, ids: Sequence[int]) -> str:
        """The beginning of `whole` that no further id can change: whole characters and words, no half stop word."""
        text = self._decode(ids)
        if (end := self._first_stop_word(text)) is not None:
            return text[:end]
        text = text[: len(text) - self._half_stop_word(text)].rstrip(BROKEN)
        breaks = [match.end() for match in BREAK.finditer(text)]
        return text[: breaks[-1]] if breaks else ""

    def cut(self, ids: Sequence[int]) -> list[int]:
        """The ids before the first one that ends an answer."""
        return list(ids[: next((k for k, i in enumerate(ids) if i in self.stop_ids), len(ids))])

    def meets_stop_word(self, ids: Sequence[int]) -> bool:
        """Whether the text of these ids has a stop word."""
        return bool(self.stop_words) and self._first_stop_word(self._decode(ids)) is not None

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(self.cut(ids), **self.tokenizer_kwargs))

    def _first_stop_word(self, text: str) -> int | None:
        """Where the first stop word of `text` begins; None when it has none."""
        return min((at for at in (text.find(word) for word in self.stop_words) if at >= 0), default=None)

    def _half_stop_word(self, text: str) -> int:
        """How many last characters of `text` could be the beginning of a stop word."""
        longest = max(map(len, self.stop_words), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((n for n in sizes if any(word.startswith(text[-n:]) for word in self.stop_words)), 0)


class StopAtWords(StoppingCriteria):
    """Ends each row of a batch at a stop word of its own answer."""

    def __init__(self, reader: Reader, num_prompt_tokens: int) -> None:
        self.reader, self.num_prompt_tokens = reader, num_prompt_tokens
        self.window = max((len(word.encode()) for word in reader.stop_words), default=0) + 8

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        """Which rows are done, (B,)."""
        tails = input_ids[:, self.num_prompt_tokens :][:, -self.window :].tolist()
        done = [any(word in self.reader.tokenizer.decode(tail) for word in self.reader.stop_words) for tail in tails]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]


class StopWhen(StoppingCriteria):
    """Ends every row once `event` is set: whoever reads the answer went away."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        """Which rows are done, (B,)."""
        shape = (input_ids.shape[0],)
        return torch.full(shape, self.event.is_set(), dtype=torch.bool, device=input_ids.device)  # type: ignore[return-value]
