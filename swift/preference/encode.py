"""Rows with preferences as tokens: a pair is its two answers one after the other, each after its own prompt.

Only the last answer of a conversation counts; what was said before is its prompt. The column `rejected` says which
tokens are of an answer to turn away from: the second half of a pair, or all of a single bad one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from swift.datasets.judge import Inputs
from swift.errors import DataError
from swift.templates.encoding import MASKED
from swift.templates.template import Template

PAIR_ROW = '{"query": "...", "response": "the better answer", "rejected_response": "the worse one"}'
TRL_PAIR = '{"prompt": "...", "chosen": "...", "rejected": "..."}'
SINGLE_ROW = '{"query": "...", "response": "...", "label": true}'
TRL_SINGLE = '{"prompt": "...", "completion": "...", "label": true}'


@dataclass(frozen=True)
class Answer:
    """A prompt with an answer: its ids, and where the answer begins."""

    ids: list[int]
    labels: list[int]
    start: int

    @classmethod
    def of(cls, inputs: Inputs) -> Answer:
        """Of what a template gives; without anything to learn the answer begins at the end."""
        ids, labels = list(inputs["input_ids"]), list(inputs["labels"])
        if labels:
            labels[0] = MASKED  # nothing predicts it
        return cls(ids, labels, next((k for k, label in enumerate(labels) if label != MASKED), len(ids)))

    def without_beginning(self, kept: int) -> Answer:
        """With the last `kept` tokens of its prompt."""
        cut = max(self.start - kept, 0)
        return Answer(self.ids[cut:], self.labels[cut:], self.start - cut)

    def shortened(self, length: int) -> Answer:
        """Its first `length` tokens."""
        return Answer(self.ids[:length], self.labels[:length], self.start)


class PreferenceEncoder:
    """Encodes rows with preferences through a chat template; what `swift.datasets` needs of one.

    Args:
        template: bound to its tokenizer; its limit of length is for a prompt with one answer.
        max_prompt_length: what is kept of a prompt, at its end, where it is too long with an answer.
        pairs: whether rows are pairs; else each is one answer with its `label`.
    """

    def __init__(self, template: Template, max_prompt_length: int, *, pairs: bool) -> None:
        self.max_length, self.truncation_strategy = template.max_length, template.truncation_strategy
        self._template = copy.copy(template)
        self._template.max_length = None
        self.max_prompt_length, self.pairs = max_prompt_length, pairs

    def __repr__(self) -> str:
        return f"{'pairs' if self.pairs else 'single answers'}, {self.max_prompt_length} tokens of a long prompt"

    def encode_batch(
        self, rows: Sequence[Mapping[str, Any]], errors: list[tuple[int, DataError]] | None = None
    ) -> list[Inputs]:
        """Every row as `input_ids`, `labels` and `rejected` of its answers one after another.

        `truncated` is how many tokens were cut off; {} stands for a row that is too long, or refused.

        Raises:
            DataError: a row does not fit and `errors` is not given.
        """
        refused: list[tuple[int, DataError]] = []
        asked = [self._asked(k, row, refused) for k, row in enumerate(rows)]
        wrong: list[tuple[int, DataError]] = []
        encoded = iter(self._template.encode_batch(list(chain.from_iterable(asked)), wrong))
        owner = [k for k, conversations in enumerate(asked) for _ in conversations]
        refused += [(owner[place], error) for place, error in wrong]
        if refused and errors is None:
            raise refused[0][1]
        answers = [[next(encoded) for _ in conversations] for conversations in asked]
        bad = dict(reversed(refused))
        if errors is not None:
            errors += sorted(bad.items(), key=lambda pair: pair[0])
        return [
            {} if k in bad else self._joined([Answer.of(found) for found in those], row)
            for k, (row, those) in enumerate(zip(rows, answers, strict=True))
        ]

    def _asked(self, k: int, row: Mapping[str, Any], refused: list[tuple[int, DataError]]) -> list[dict[str, Any]]:
        """The conversations that a row is encoded as; none where it lacks something."""
        error = self._lacks(row)
        if error is not None:
            refused.append((k, error))
            return []
        *before, last = row["messages"]
        known = [{**message, "loss": False} if message["role"] == "assistant" else message for message in before]
        kept = {name: value for name, value in row.items() if name not in ("messages", "rejected_response", "label")}
        plain = {name: value for name, value in last.items() if name != "loss"}
        chosen = {**kept, "messages": [*known, plain]}
        if not self.pairs:
            return [chosen]
        worse = {"role": "assistant", "content": row["rejected_response"]}
        return [chosen, {**kept, "messages": [*known, worse]}]

    def _lacks(self, row: Mapping[str, Any]) -> DataError | None:
        if self.pairs:
            if row.get("rejected_response") is not None:
                return None
            what = '"rejected_response" is missing: a pair has a better and a worse answer'
            if row.get("label") is not None:
                what += "; rows with a label are for --rlhf_type kto"
            return DataError("DATA-03", what, fix=f"rows such as {PAIR_ROW} or {TRL_PAIR}")
        label = row.get("label")
        if isinstance(label, bool) or (isinstance(label, int) and label in (0, 1)):
            return None
        what = '"label" is missing' if label is None else f'"label" is {str(label)[:40]!r}, not true or false'
        if row.get("rejected_response") is not None:
            what += "; pairs are for --rlhf_type dpo, orpo, simpo and cpo"
        return DataError("DATA-03", what, fix=f"rows such as {SINGLE_ROW} or {TRL_SINGLE}")

    def _joined(self, answers: list[Answer], row: Mapping[str, Any]) -> Inputs:
        before = sum(len(answer.ids) for answer in answers)
        if any(answer.start == len(answer.ids) for answer in answers):
            answers = [Answer(answer.ids, [MASKED] * len(answer.ids), 0) for answer in answers]
        fitting = self._fitting(answers)
        if fitting is None:
            return {}
        first = 0 if self.pairs or row["label"] else 1
        cut = before - sum(len(answer.ids) for answer in fitting)
        return {
            "input_ids": [token for answer in fitting for token in answer.ids],
            "labels": [label for answer in fitting for label in answer.labels],
            "rejected": [first + k for k, answer in enumerate(fitting) for _ in answer.ids],
            **({"truncated": cut} if cut else {}),
        }

    def _fitting(self, answers: list[Answer]) -> list[Answer] | None:
        """The answers in the length there is: first the prompt gives way, then, if that is wanted, the answers."""
        limit = self.max_length
        if limit is None or all(len(answer.ids) <= limit for answer in answers):
            return answers
        answers = [answer.without_beginning(self.max_prompt_length) for answer in answers]
        if all(len(answer.ids) <= limit for answer in answers):
            return answers
        if self.truncation_strategy == "delete":
            return None
        answers = [answer.shortened(limit) for answer in answers]
        return None if any(answer.start >= limit for answer in answers) else answers


def answers_of(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The answers of an encoded row, each with its prompt: two of a pair, or the one there is."""
    marks = row["rejected"]
    half = next((k for k, mark in enumerate(marks) if mark != marks[0]), len(marks))
    names = ("input_ids", "labels")
    parts = [slice(0, half), *([slice(half, None)] if half < len(marks) else [])]
    return [{name: row[name][part] for name in names} for part in parts]
