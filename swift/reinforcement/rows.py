"""Conversations as prompts: their last answer, where they have one, is none of it but the solution."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from swift.datasets.compact import opened
from swift.datasets.convert import Conversation, at
from swift.datasets.encode import different_rows, nothing_left
from swift.datasets.ledger import BAD, Ledger, Part
from swift.datasets.prompts import Prompt, Prompts
from swift.datasets.turns import field_error
from swift.errors import DataError
from swift.templates.template import Template

SOLUTION = "solution"
SOLUTIONS = (SOLUTION, "answer")
"""Columns that say what is right, the first before the second, and both before the row's own last answer."""


def prompt_length(max_length: int | None, max_new_tokens: int) -> int | None:
    """How many tokens a prompt may have; None without a limit."""
    return None if max_length is None else max_length - max_new_tokens


def encode_prompts(
    rows: Sequence[Conversation],
    template: Template,
    longest: int | None,
    ledger: Ledger,
    part: Part,
    batch_size: int = 1000,
) -> Prompts:
    """The rows as prompts; too long ones are dropped or cut, as the template says, and counted.

    Args:
        rows: as `load_datasets` gives them, of `PROMPT_FORMATS`.
        template: the chat template.
        longest: tokens that a prompt may have.
        ledger: the account that `load_datasets` opened.
        part: which part of it these rows are.
        batch_size: rows per call of the tokenizer.

    Raises:
        DataError: rows that ask nothing, beyond the ledger's `max_bad_rows`, or no row is left.
    """
    limited = copy.copy(template)
    limited.max_length = longest
    different, which, copies = different_rows(rows)
    found: list[Prompt | None] = []
    for start in range(0, len(different), batch_size):
        batch = [opened(row) for row in different[start : start + batch_size]]
        for row, judged in zip(batch, _judged(batch, limited), strict=True):
            count, dataset = int(copies[len(found)]), row.get("dataset")
            if isinstance(judged, tuple):
                prompt, cut = judged
                ledger.count(part, dataset, 0, len(prompt.ids), cut, count)
                if cut:
                    ledger.cut.append(row["where"])
                found.append(prompt)
                continue
            reason = BAD if judged else f"longer than {longest} tokens"
            ledger.withdraw(part, reason, row["where"], count, judged, dataset)
            found.append(None)
    ledger.check_bad_rows()
    places = np.cumsum([prompt is not None for prompt in found]) - 1
    order = [int(places[k]) for k in which.tolist() if found[k] is not None]
    if not order:
        raise nothing_left(part, ledger)
    return Prompts([prompt for prompt in found if prompt is not None], order)


def _judged(batch: Sequence[Conversation], template: Template) -> Iterator[tuple[Prompt, int] | DataError | None]:
    """Each row as a prompt, with how many tokens were cut off, or what is wrong with it; None where it is too long."""
    asked = [_without_answer(row) for row in batch]
    errors: list[tuple[int, DataError]] = []
    encoded = iter(template.encode_batch([row for row in asked if row["messages"]], errors))
    wrong = dict(errors)
    number = 0
    for row in asked:
        if not row["messages"]:
            yield at(row["where"], field_error("messages", "ask nothing: no user says anything"))
            continue
        inputs, error = next(encoded), wrong.get(number)
        number += 1
        if error is not None or not inputs:
            yield None if error is None else at(row["where"], error)
            continue
        ids = np.asarray(inputs["input_ids"], np.int32)
        yield Prompt(ids, row["messages"], row["columns"], row["where"]), inputs.get("truncated", 0)


def _without_answer(row: Conversation) -> dict[str, Any]:
    """The row without its last answer, which its `columns` have as the solution where they say no other."""
    messages: list[Any] = list(row["messages"])
    said = messages.pop()["content"] if messages and messages[-1]["role"] == "assistant" else None
    if not any(message["role"] == "user" and message["content"].strip() for message in messages):
        messages = []
    columns = dict(row.get("columns") or {})
    named = next((columns[name] for name in SOLUTIONS if columns.get(name) is not None), said)
    if named is not None:
        columns[SOLUTION] = named
    kept = {name: value for name, value in row.items() if name not in ("messages", "columns", "label")}
    return {**kept, "messages": messages, "columns": columns}
