"""What single tokens stand for: their bytes, of which several tokens may make one character."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece writes a byte that it has no piece for
BLANK = "\u2581"  # how it writes a blank
OF_LETTER = {letter: byte for byte, letter in bytes_to_unicode().items()}  # how byte-level BPE writes bytes


class Tokens:
    """The bytes of each token of a tokenizer; those of a text's tokens in a row are the text's.

    Args:
        tokenizer: whose tokens they are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.known = tokenizer, dict[int, bytes]()
        self.marks = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
        self.byte_level = isinstance(tokenizer, PreTrainedTokenizerFast) and _is_byte_level(tokenizer)

    def bytes_of(self, token: int) -> bytes:
        """The bytes of one; none of an id that is no token."""
        if token not in self.known:
            self.known[token] = self._find(token)
        return self.known[token]

    def text_of(self, token: int) -> str:
        """Its text; what is no whole character is shown as U+FFFD."""
        return self.bytes_of(token).decode("utf-8", "replace")

    def _find(self, token: int) -> bytes:
        if token in self.marks:
            return self.marks[token].encode()
        piece: Any = self.tokenizer.convert_ids_to_tokens(token)
        if piece is None or isinstance(piece, bytes):
            return piece or b""
        if self.byte_level and all(letter in OF_LETTER for letter in piece):
            return bytes(OF_LETTER[letter] for letter in piece)
        if match := BYTE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        return piece.replace(BLANK, " ").encode()


@lru_cache(maxsize=8)
def tokens_of(tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The same `Tokens` for the same tokenizer."""
    return Tokens(tokenizer)


def _is_byte_level(tokenizer: PreTrainedTokenizerFast) -> bool:
    found = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"] or {}
    return any(step["type"] == "ByteLevel" for step in [found, *found.get("decoders", ())])
