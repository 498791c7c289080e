"""Tokens that a run adds to a model: which, in the tokenizer, and what a checkpoint remembers of them.

They are ordinary added tokens: one id each wherever they stand in the data, and shown in answers. `room` makes rows for
them in the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from swift import storage
from swift.errors import DataError, UsageError
from swift.models.files import read_json

FILE = "new_tokens.json"


@dataclass(frozen=True)
class NewTokens:
    """Added tokens with their ids, in the order in which they were added, and the rows that the embedding has."""

    ids: dict[str, int]
    rows: int


def spelt_tokens(said: Sequence[str]) -> list[str]:
    """The tokens that `--new_special_tokens` names: words, or files with one token a line.

    Raises:
        UsageError: one is empty, has spaces around it, or is named twice.
    """
    words: list[str] = []
    for word in said:
        path = Path(word).expanduser()
        words += path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else [word]
    words = [word for word in words if word]
    for word in words:
        if word != word.strip() or not word.isprintable():
            raise UsageError("USAGE-02", f"--new_special_tokens {word!r} has spaces around it or cannot be shown")
    twice = next((word for word in words if words.count(word) > 1), None)
    if twice is not None:
        raise UsageError("USAGE-02", f"--new_special_tokens names {twice!r} twice")
    if said and not words:
        raise UsageError("USAGE-02", f"--new_special_tokens {said[0]} has no token")
    return words


def add_tokens(tokenizer: Any, words: Sequence[str]) -> dict[str, int]:
    """Add `words` to a tokenizer; return their ids.

    Raises:
        UsageError: the tokenizer has one of them already.
    """
    known = tokenizer.get_vocab()
    there = next((word for word in words if word in known), None)
    if there is not None:
        what = f"--new_special_tokens {there}: the tokenizer has it already, as id {known[there]}"
        raise UsageError("USAGE-02", what, fix="leave it out: it needs no new row")
    tokenizer.add_tokens([_verbatim(word) for word in words])
    return {word: int(tokenizer.convert_tokens_to_ids(word)) for word in words}


def write(directory: Path, new: NewTokens) -> None:
    """Note in a checkpoint which tokens it was trained with."""
    storage.write_json(directory / FILE, asdict(new))


def read(directory: Path | str | None) -> NewTokens | None:
    """The tokens that a checkpoint was trained with; None when there are none, or no checkpoint.

    Raises:
        DataError: the file that says so is damaged.
    """
    path = Path(directory or "") / FILE
    if directory is None or not path.is_file():
        return None
    found = read_json(path)
    ids, rows = found.get("ids"), found.get("rows")
    if not isinstance(ids, dict) or not isinstance(rows, int) or not all(isinstance(i, int) for i in ids.values()):
        raise DataError("CKPT-01", f"{path} does not say which tokens have which ids", fix="take another checkpoint")
    if not all(0 <= i < rows for i in ids.values()):
        raise DataError("CKPT-01", f"{path} names a token beyond its {rows} rows", fix="take another checkpoint")
    return NewTokens(ids, rows)


def restore(tokenizer: Any, new: NewTokens, what: Path | str) -> None:
    """Give a tokenizer the tokens of the checkpoint `what`, and see that they get the ids that were trained.

    Raises:
        DataError: they get others: it is not the tokenizer that the checkpoint was trained with.
    """
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([_verbatim(word) for word in new.ids if word not in known])
    for word, index in new.ids.items():
        found = tokenizer.convert_tokens_to_ids(word)
        if found != index:
            raise DataError(
                "CKPT-02",
                f"{what} was trained with {word!r} as id {index}, and this tokenizer gives it id {found}",
                why="the tokenizer is not the one that the checkpoint was trained with",
                fix="name the model that it was trained on",
            )


def check_same(then: NewTokens | None, words: Sequence[str], what: Path | str) -> None:
    """See that a run goes on from the checkpoint `what` with the tokens that it was trained with.

    Raises:
        UsageError: it adds others.
    """
    before = list(then.ids) if then is not None else []
    if before != list(words):
        trained = f"--new_special_tokens {' '.join(before)}" if before else "no --new_special_tokens"
        raise UsageError("USAGE-02", f"{what} was trained with {trained}", fix="say the same, in the same order")


def _verbatim(word: str) -> AddedToken:
    """A token that is found as it is written, whatever stands around it."""
    return AddedToken(word, normalized=False, special=False)
