"""Rows that are encoded when training draws them: it begins at once, and what is never drawn is never encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from swift.datasets.compact import opened
from swift.datasets.convert import Conversation, at
from swift.datasets.encode import DATASET_NUMBER, different_rows, nothing_left
from swift.datasets.judge import IGNORED, Encoder, Inputs, problem
from swift.datasets.ledger import BAD, Ledger
from swift.errors import DataError

LEARNT, MASKED, TRUNCATED, DRAWN, UNUSABLE = range(5)


class LazyDataset(Dataset[dict[str, Any]]):
    """Rows as `encode` would give them; one that cannot be used gives its place to the next that can.

    Args:
        rows: as `load_datasets` gives them.
        template: the chat template.
        ledger: the account that `load_datasets` opened; `settle` enters what was drawn.

    Attributes:
        dataset_names: the data sets as typed.
    """

    def __init__(self, rows: Sequence[Conversation], template: Encoder, ledger: Ledger) -> None:
        self.template, self.ledger = template, ledger
        self.rows, self.order, copies = different_rows(rows)
        self.copies: list[int] = copies.tolist()
        self.found = torch.zeros(len(self.rows), 5, dtype=torch.int32).share_memory_()  # a loader's processes write too
        self._entered = np.zeros(len(self.rows), bool)
        self.dataset_names = list(ledger.accounts)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for step in range(len(self.order)):
            k = int(self.order[(index + step) % len(self.order)])
            if not self.found[k, UNUSABLE]:
                inputs, reason, _ = self._encode(k)
                if reason is None:
                    self._note(k, inputs)
                    return self._example(k, inputs)
                self.found[k, UNUSABLE] = 1
        self.settle()
        raise nothing_left("train", self.ledger)

    def _example(self, k: int, inputs: Inputs) -> dict[str, Any]:
        example = {name: value for name, value in inputs.items() if name != "truncated"}
        dataset = self.rows[k].get("dataset")
        if len(self.dataset_names) > 1 and dataset is not None:
            example[DATASET_NUMBER] = self.dataset_names.index(dataset)
        return example

    def _encode(self, k: int) -> tuple[Inputs, str | None, DataError | None]:
        """A row encoded, or why it cannot be used."""
        errors: list[tuple[int, DataError]] = []
        inputs = self.template.encode_batch([opened(self.rows[k])], errors)[0]
        error = at(self.rows[k]["where"], errors[0][1]) if errors else None
        return inputs, BAD if error else problem(inputs, self.template), error

    def _note(self, k: int, inputs: Inputs) -> None:
        length = len(inputs["labels"])
        learnt = length - inputs["labels"].count(IGNORED)
        self.found[k] = torch.tensor([learnt, length - learnt, inputs.get("truncated", 0), 1, 0])

    def settle(self) -> None:
        """Enter in the ledger what became of the rows drawn since the last call.

        Raises:
            DataError: there are more bad rows than may be.
        """
        found = self.found.numpy()
        for k in np.flatnonzero((found[:, DRAWN] | found[:, UNUSABLE]).astype(bool) & ~self._entered).tolist():
            self._entered[k] = True
            row = self.rows[k]
            if found[k, UNUSABLE]:
                _, reason, error = self._encode(k)
                self.ledger.withdraw("train", str(reason), row["where"], self.copies[k], error, row.get("dataset"))
                continue
            learnt, masked, truncated = found[k, : TRUNCATED + 1].tolist()
            self.ledger.count("train", row.get("dataset"), learnt, masked, truncated, self.copies[k])
            if truncated:
                self.ledger.cut.append(row["where"])
        self.ledger.check_bad_rows()
