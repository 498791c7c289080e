"""Rows with preferences as one batch: all answers go through the model in one call.

Letters in names: B rows of the batch, T positions, A answers (the chosen ones first), N tokens that are predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swift.preference.encode import answers_of
from swift.trainers.loss import IGNORED

Batch = dict[str, Any]
INPUTS = ("input_ids", "attention_mask", "position_ids")
"""What of a batch the model is given."""


@dataclass(frozen=True)
class Collator:
    """Makes batches of encoded rows.

    A batch has what the model takes, and the flat list of what it is to predict: `at` (which of all positions),
    `targets`, `answer` (which answer each token is of), with `labels_BT` for tuners that ask; `weight` of every row,
    1 unless it only fills up the last batch; `real`, the tokens that are not padding; of single answers `good` and,
    where rows have a partner, another batch `kl`; `reference` where it is known already.

    Args:
        pad: the id that fills up.
        padding_free: whether answers stand one after another in one row.
        shared: whether a prompt stands once before both of its answers, which do not see each other.
    """

    pad: int
    padding_free: bool = False
    shared: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch of these rows."""
        split = [[_arrays(answer) for answer in answers_of(row)] for row in rows]
        batch = self._laid([sequence for answers in _turned(split) for sequence in answers], len(split[0]))
        batch["weight"] = torch.ones(len(rows))
        if len(split[0]) == 1:
            batch["good"] = torch.tensor([not row["rejected"][0] for row in rows])
        if "partner" in rows[0]:
            batch["kl"] = self._laid([_arrays(row["partner"]) for row in rows], 1)
        if "reference" in rows[0]:
            values = np.asarray([row["reference"] for row in rows], np.float32)
            batch["reference"] = torch.from_numpy(np.ascontiguousarray(values.T)).reshape(-1)
        return batch

    def _laid(self, answers: list[_Answer], per_row: int) -> Batch:
        """The model's inputs of these answers and what it is to predict."""
        if self.shared and per_row == 2:
            half = len(answers) // 2
            rows = [_joined(answers[k], answers[half + k]) for k in range(half)]
            places = [(k, which) for which in range(2) for k in range(half)]
        else:
            rows = [_alone(answer) for answer in answers]
            places = [(k, 0) for k in range(len(answers))]
        width = sum(len(row.ids) for row in rows) if self.padding_free else max(len(row.ids) for row in rows)
        starts = np.cumsum([0, *(len(row.ids) for row in rows[:-1])]) if self.padding_free else None
        begins = starts if starts is not None else np.arange(len(rows)) * width
        at = [begins[k] + rows[k].at[which] for k, which in places]
        batch: Batch = {
            **self._inputs(rows, width),
            "at": torch.from_numpy(np.concatenate(at)),
            "targets": torch.from_numpy(np.concatenate([rows[k].targets[which] for k, which in places])),
            "answer": torch.from_numpy(np.repeat(np.arange(len(places)), [len(each) for each in at])),
            "answers": len(places),
            "real": torch.tensor(sum(len(row.ids) for row in rows)),
        }
        return batch

    def _inputs(self, rows: list[_Row], width: int) -> Batch:
        height = 1 if self.padding_free else len(rows)
        shape = (height, width)
        columns = {
            "input_ids": (np.full(shape, self.pad, np.int64), [row.ids for row in rows]),
            "labels": (np.full(shape, IGNORED, np.int64), [row.labels for row in rows]),
            "position_ids": (np.zeros(shape, np.int64), [row.positions for row in rows]),
            "segment": (np.full(shape, -1, np.int64), [row.segments for row in rows]),
            "row": (np.full(shape, -1, np.int64), [np.full(len(row.ids), k) for k, row in enumerate(rows)]),
        }
        for room, values in columns.values():
            if self.padding_free:
                room[0] = np.concatenate(values)
            else:
                for k, value in enumerate(values):
                    room[k, : len(value)] = value
        made = {name: torch.from_numpy(room) for name, (room, _) in columns.items()}
        inputs = {"input_ids": made["input_ids"], "labels": made["labels"]}
        if any(row.segments.any() for row in rows):
            return {
                **inputs,
                "position_ids": made["position_ids"],
                "attention_mask": _seen(made["row"], made["segment"]),
            }
        if self.padding_free:
            return {**inputs, "position_ids": made["position_ids"]}
        return {**inputs, "attention_mask": (made["row"] >= 0).long()}


@dataclass(frozen=True)
class _Answer:
    ids: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class _Row:
    """A row of a batch; `at` and `targets` are of each of its answers; segment 0 is seen by all that come after."""

    ids: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    at: list[np.ndarray]
    targets: list[np.ndarray]


def _arrays(answer: Mapping[str, Any]) -> _Answer:
    return _Answer(np.asarray(answer["input_ids"], np.int64), np.asarray(answer["labels"], np.int64))


def _turned(split: list[list[_Answer]]) -> list[list[_Answer]]:
    """All first answers, then all second ones."""
    return [list(answers) for answers in zip(*split, strict=True)]


def _learnt(labels: np.ndarray) -> np.ndarray:
    """The positions of the tokens that are to be predicted, which is never the first."""
    found = np.flatnonzero(labels != IGNORED)
    return found[found > 0]


def _alone(answer: _Answer) -> _Row:
    size = len(answer.ids)
    learnt = _learnt(answer.labels)
    zeros = np.zeros(size, np.int64)
    return _Row(answer.ids, answer.labels, np.arange(size), zeros, [learnt - 1], [answer.labels[learnt]])


def _joined(chosen: _Answer, rejected: _Answer) -> _Row:
    """A pair whose prompt, as far as both begin alike and nothing of it is learnt, stands there once."""
    learnt = [_learnt(answer.labels) for answer in (chosen, rejected)]
    limit = min(*(int(found[0]) if len(found) else 0 for found in learnt))
    alike = chosen.ids[:limit] == rejected.ids[:limit]
    prompt = limit if alike.all() else int(alike.argmin())
    tails = [len(chosen.ids) - prompt, len(rejected.ids) - prompt]
    moved = [0, tails[0]]
    at = []
    for found, shift in zip(learnt, moved, strict=True):
        before = found - 1
        at.append(np.where(before >= prompt, before + shift, before))
    return _Row(
        np.concatenate([chosen.ids, rejected.ids[prompt:]]),
        np.concatenate([chosen.labels, rejected.labels[prompt:]]),
        np.concatenate([np.arange(len(chosen.ids)), np.arange(prompt, len(rejected.ids))]),
        np.repeat([0, 1, 2], [prompt, *tails]),
        at,
        [answer.labels[found] for answer, found in zip((chosen, rejected), learnt, strict=True)],
    )


def _seen(row_BT: Tensor, segment_BT: Tensor) -> Tensor:
    """Which position each sees: those before it of its row's prompt and of its own answer; shape B, 1, T, T."""
    width = row_BT.shape[1]
    same = row_BT[:, :, None] == row_BT[:, None, :]
    of_prompt, own = segment_BT[:, None, :] == 0, segment_BT[:, :, None] == segment_BT[:, None, :]
    before = torch.ones(width, width, dtype=torch.bool).tril()
    itself = torch.eye(width, dtype=torch.bool)  # padding sees itself, so that every row of the mask has something
    return ((same & (of_prompt | own) & before) | itself)[:, None]
