"""Log-probabilities as the API has them: the entry of every token once, also where an answer is told in pieces."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from swift.inference.engine import Generation, TokenLogprobs
from swift.inference.tokens import tokens_of


class Logprobs:
    """What is told of the tokens of one answer.

    Args:
        generation: the answer, which may still grow.
    """

    def __init__(self, generation: Generation) -> None:
        self.generation, self.told, self.offset = generation, 0, 0
        self.tokens = tokens_of(generation.request.reader.tokenizer)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def chat(self, count: int) -> dict[str, Any] | None:
        """Of the tokens up to `count` those that were not told of yet, as chat completions have them.

        None when there are none, or when nobody asked for them.
        """
        found = self._new(count)
        if not found:
            return None
        return {
            "content": [
                {**self._entry(each.id, each.logprob), "top_logprobs": [self._entry(*pair) for pair in each.likeliest]}
                for each in found
            ]
        }

    def text(self, count: int) -> dict[str, Any] | None:
        """The same as completions have them; `text_offset` counts characters from the answer's first."""
        found = self._new(count)
        if not found:
            return None
        offsets = []
        for each in found:
            offsets.append(self.offset)
            self.offset += len(self.decoder.decode(self.tokens.bytes_of(each.id)))
        return {
            "tokens": [self.tokens.text_of(each.id) for each in found],
            "token_logprobs": [each.logprob for each in found],
            "top_logprobs": [{self.tokens.text_of(i): value for i, value in each.likeliest} for each in found],
            "text_offset": offsets,
        }

    def _new(self, count: int) -> Sequence[TokenLogprobs]:
        begun, self.told = self.told, max(self.told, count)
        return self.generation.logprobs[begun : self.told]

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self.tokens.text_of(token), "logprob": logprob, "bytes": list(self.tokens.bytes_of(token))}
