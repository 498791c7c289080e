"""Encoded rows with what a preference loss needs beside them: an unrelated answer, and what the reference says."""

from __future__ import annotations

from typing import Any

import numpy as np

from swift.datasets.encode import EncodedDataset
from swift.preference.encode import answers_of
from swift.trainers.loss import IGNORED


class PreferenceRows(EncodedDataset):
    """Rows of an `EncodedDataset`, each with `partner` and `reference` where there are any.

    Attributes:
        partner: for every row the one whose answer is put after its prompt, to measure the divergence of KTO; None
            where there are pairs.
        limit: tokens that a prompt with such an answer has at most.
        reference: what the reference says of every row's answers, and of its partner's; None where it is asked later.
    """

    def __init__(self, encoded: EncodedDataset, *, single: bool = False, limit: int | None = None) -> None:
        super().__init__(encoded.rows, encoded.order)
        self.limit = limit
        self.partner = self._partners() if single else None
        self.reference: np.ndarray | None = None

    @property
    def used(self) -> np.ndarray:
        """The different rows, as they come."""
        _, first = np.unique(self.order, return_index=True)
        return self.order[np.sort(first)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.row(int(self.order[index]))

    def row(self, place: int) -> dict[str, Any]:
        """One of the different rows."""
        found: dict[str, Any] = {name: values for name, values in self.rows[place].items() if name != "loss_scale"}
        if self.partner is not None:
            found["partner"] = self._unrelated(place)
        if self.reference is not None:
            found["reference"] = self.reference[place]
        return found

    def _partners(self) -> np.ndarray:
        """For each row the next one that asks something else; the next one where all ask the same."""
        used = self.used
        prompts = [self._prompt(place)[0].tobytes() for place in used.tolist()]
        found = np.zeros(len(self.rows), np.int64)
        after = [(k + 1) % len(used) for k in range(len(used))]
        other = list(after)
        for k in reversed(range(2 * len(used) - 1)):  # twice around, so that the last ones find the first
            here, following = k % len(used), after[k % len(used)]
            other[here] = following if prompts[following] != prompts[here] else other[following]
        for k, place in enumerate(used.tolist()):
            found[place] = used[other[k] if prompts[other[k]] != prompts[k] else after[k]]
        return found

    def _prompt(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a row before and in its answer."""
        (answer,) = answers_of(self.rows[place])
        learnt = np.flatnonzero(np.asarray(answer["labels"]) != IGNORED)
        start = int(learnt[0]) if len(learnt) else len(answer["labels"])
        return np.asarray(answer["input_ids"][:start]), np.asarray(answer["labels"][start:])

    def _unrelated(self, place: int) -> dict[str, np.ndarray]:
        assert self.partner is not None
        prompt, _ = self._prompt(place)
        _, labels = self._prompt(int(self.partner[place]))
        learnt = labels[labels != IGNORED]
        ids = np.concatenate([prompt, learnt])
        masked = np.concatenate([np.full(len(prompt), IGNORED), learnt])
        return {"input_ids": ids[: self.limit], "labels": masked[: self.limit]}
