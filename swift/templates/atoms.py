"""The pieces of a registry row, bound to a tokenizer: text, ids, and the places where a row's own texts go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from swift.errors import ConfigError
from swift.templates import Piece
from swift.templates.tokens import token_id, tokenise

PLACE = re.compile(r"\{\{(SYSTEM|QUERY|ROUND0|ROUND1)\}\}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text of the row goes: "SYSTEM", "QUERY", "ROUND0" or "ROUND1"."""

    name: str


SYSTEM = Place("SYSTEM")
Atom = str | Place | list[int]


def bind(pieces: Iterable[Piece], tokenizer: PreTrainedTokenizerBase, template: str) -> list[Atom]:
    """The pieces as texts, places and ids of this tokenizer.

    Raises:
        ConfigError: the tokenizer has no such token.
    """
    atoms: list[Atom] = []
    for piece in pieces:
        if isinstance(piece, str):
            atoms += _texts_and_places(piece)
        else:
            atoms += [_token(name, tokenizer, template) for name in piece]
    return atoms


def _texts_and_places(text: str) -> Iterator[str | Place]:
    for k, part in enumerate(PLACE.split(text)):
        if k % 2:
            yield Place(part)
        elif part:
            yield part


def _token(name: int | str, tokenizer: PreTrainedTokenizerBase, template: str) -> Atom:
    """The id of a token; a token text that the tokenizer lacks stays text."""
    if isinstance(name, int):
        found = name if name < len(tokenizer) else None
    elif name in ("bos_token_id", "eos_token_id"):
        text = tokenizer.bos_token if name == "bos_token_id" else tokenizer.eos_token
        found = None if text is None else token_id(tokenizer, str(text))
    else:
        found = token_id(tokenizer, name)
        return name if found is None else [found]
    if found is None:
        raise ConfigError(
            "CONFIG-02",
            f"template {template!r} needs the token {name}, which this tokenizer does not have",
            fix="--template_type auto, or the template that belongs to the model",
        )
    return [found]


def without_place(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces with nothing where the system text goes."""
    return [piece.replace("{{SYSTEM}}", "") if isinstance(piece, str) else piece for piece in pieces]


def without_piece(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces but those that hold the system text."""
    return [piece for piece in pieces if not (isinstance(piece, str) and "{{SYSTEM}}" in piece)]


def text_of(atom: Atom, tokenizer: PreTrainedTokenizerBase) -> str:
    """What an atom shows; nothing for a place."""
    if isinstance(atom, Place):
        return ""
    return atom if isinstance(atom, str) else str(tokenizer.decode(atom))


def ids_of(atom: Atom, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of an atom without a place."""
    if isinstance(atom, list):
        return atom
    return tokenise(tokenizer, [text_of(atom, tokenizer)])[0]
