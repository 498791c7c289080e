"""Conversations as the texts and numbers of a head, encoded; what cannot be used is entered in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from swift.datasets.compact import opened
from swift.datasets.convert import Conversation, at
from swift.datasets.encode import different_rows, nothing_left
from swift.datasets.groups import Group, Groups
from swift.datasets.ledger import BAD, Ledger, Part
from swift.datasets.turns import field_error
from swift.errors import DataError
from swift.heads.kinds import Kind, Talk
from swift.templates.template import Template


class Text(NamedTuple):
    """An encoded text.

    Attributes:
        ids: of its tokens.
        truncated: how many more of them were cut off.
    """

    ids: np.ndarray
    truncated: int = 0


def encode_texts(texts: Sequence[Talk | str], template: Template) -> list[Text | DataError | None]:
    """Conversations, and plain texts as the tokenizer itself has them; None for one that is too long."""
    errors: list[tuple[int, DataError]] = []
    talks = [text for text in texts if not isinstance(text, str)]
    encoded = iter(template.encode_batch(talks, errors)) if talks else iter(())
    refused = {id(talks[k]): error for k, error in errors}
    found: list[Text | DataError | None] = []
    for text in texts:
        if isinstance(text, str):
            found.append(_plain(text, template))
            continue
        inputs = next(encoded)
        fits = "input_ids" in inputs
        whole = Text(np.asarray(inputs["input_ids"], np.int32), inputs.get("truncated", 0)) if fits else None
        found.append(refused.get(id(text)) or whole)
    return [field_error("text", "is empty") if isinstance(one, Text) and not len(one.ids) else one for one in found]


def _plain(text: str, template: Template) -> Text | DataError | None:
    """A plain text; its end where the template keeps that of longer ones, else None."""
    if not text.strip():
        return field_error("text", "is empty")
    ids, most = template.tokenizer(text)["input_ids"], template.max_length
    more = max(len(ids) - most, 0) if most is not None else 0
    return None if more and template.truncation_strategy == "delete" else Text(np.asarray(ids[more:], np.int32), more)


def encode_groups(
    rows: Sequence[Conversation], template: Template, kind: Kind, ledger: Ledger, part: Part, batch_size: int = 1000
) -> Groups:
    """The rows as texts and numbers.

    Raises:
        DataError: a row is not one of this kind, beyond the ledger's `max_bad_rows`, or none is left.
    """
    different, which, copies = different_rows(rows)
    found: list[Group | None] = []
    for start in range(0, len(different), batch_size):
        batch = [opened(row) for row in different[start : start + batch_size]]
        for row, judged in zip(batch, _judged(batch, template, kind), strict=True):
            count, dataset = int(copies[len(found)]), row.get("dataset")
            if isinstance(judged, tuple):
                group, truncated = judged
                ledger.count(part, dataset, 0, sum(map(len, group.texts)), truncated, count)
                if truncated:
                    ledger.cut.append(row["where"])
                found.append(group)
                continue
            reason = BAD if judged else f"longer than {template.max_length} tokens"
            ledger.withdraw(part, reason, row["where"], count, judged, dataset)
            found.append(None)
    ledger.check_bad_rows()
    places = np.cumsum([group is not None for group in found]) - 1
    order = [int(places[k]) for k in which.tolist() if found[k] is not None]
    if not order:
        raise nothing_left(part, ledger)
    return Groups([group for group in found if group is not None], order)


def _judged(
    rows: Sequence[Conversation], template: Template, kind: Kind
) -> Iterable[tuple[Group, int] | DataError | None]:
    """Each row encoded, with how many tokens were cut off, or what is wrong with it; None where a text is too long."""
    read: list[tuple[list[Talk | str], list[float]] | DataError] = []
    for row in rows:
        try:
            read.append(kind.read(row))
        except DataError as error:
            read.append(at(row["where"], error))
    texts = [text for one in read if not isinstance(one, DataError) for text in one[0]]
    ids = iter(encode_texts(texts, template))
    for row, one in zip(rows, read, strict=True):
        if isinstance(one, DataError):
            yield one
            continue
        encoded = [next(ids) for _ in one[0]]
        wrong = next((item for item in encoded if isinstance(item, DataError)), None)
        if wrong is not None:
            yield at(row["where"], wrong)
            continue
        fitting = [item for item in encoded if isinstance(item, Text)]
        if len(fitting) < len(encoded):
            yield None
            continue
        group = Group(tuple(item.ids for item in fitting), np.asarray(one[1], np.float32))
        yield group, sum(item.truncated for item in fitting)
