"""Conversations as the texts and numbers of a head, encoded; what cannot be used is entered in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from swift.datasets.compact import opened
from swift.datasets.convert import Conversation, at
from swift.datasets.encode import different_rows, nothing_left
from swift.datasets.groups import Group, Groups
from swift.datasets.ledger import BAD, Ledger, Part
from swift.errors import DataError
from swift.heads.kinds import Kind, Talk
from swift.templates.template import Template


def encode_texts(texts: Sequence[Talk | str], template: Template) -> list[np.ndarray | DataError | None]:
    """The ids of conversations, and of plain texts as the tokenizer itself has them; None for one that is too long."""
    errors: list[tuple[int, DataError]] = []
    talks = [text for text in texts if not isinstance(text, str)]
    encoded = iter(template.encode_batch(talks, errors)) if talks else iter(())
    refused = {id(talks[k]): error for k, error in errors}
    found: list[np.ndarray | DataError | None] = []
    for text in texts:
        if isinstance(text, str):
            ids = template.tokenizer(text)["input_ids"]
            found.append(_fit(ids, template))
            continue
        inputs = next(encoded)
        ids = inputs.get("input_ids")
        found.append(refused.get(id(text)) or (None if ids is None else np.asarray(ids, np.int32)))
    return found


def _fit(ids: Any, template: Template) -> np.ndarray | None:
    """The ids of a plain text; their end where the template keeps that of longer ones, else None."""
    most = template.max_length
    if most is not None and len(ids) > most:
        return None if template.truncation_strategy == "delete" else np.asarray(ids[-most:], np.int32)
    return np.asarray(ids, np.int32)


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
        for row, group in zip(batch, _judged(batch, template, kind), strict=True):
            count, dataset = int(copies[len(found)]), row.get("dataset")
            if isinstance(group, Group):
                tokens = sum(map(len, group.texts))
                ledger.count(part, dataset, 0, tokens, examples=count)
                found.append(group)
                continue
            reason = BAD if group else f"longer than {template.max_length} tokens"
            ledger.withdraw(part, reason, row["where"], count, group, dataset)
            found.append(None)
    ledger.check_bad_rows()
    places = np.cumsum([group is not None for group in found]) - 1
    order = [int(places[k]) for k in which.tolist() if found[k] is not None]
    if not order:
        raise nothing_left(part, ledger)
    return Groups([group for group in found if group is not None], order)


def _judged(rows: Sequence[Conversation], template: Template, kind: Kind) -> Iterable[Group | DataError | None]:
    """Each row encoded, or what is wrong with it, or None where a text of it is too long."""
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
        elif any(not isinstance(item, np.ndarray) or not len(item) for item in encoded):
            yield None
        else:
            yield Group(tuple(encoded), np.asarray(one[1], np.float32))  # type: ignore[arg-type]
