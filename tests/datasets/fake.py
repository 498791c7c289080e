"""A template small enough to be checked by eye: one id per character, assistant text supervised with its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.errors import DataError

END = 1


@dataclass
class FakeTemplate:
    max_length: int | None = None
    truncation_strategy: str = "delete"
    refuses: str = "\0"
    silent: str = "\0"
    calls: int = 0

    def encode_batch(self, rows: Sequence[Any], errors: list[tuple[int, DataError]]) -> list[dict[str, Any]]:
        self.calls += 1
        return [self._encode(i, row, errors) for i, row in enumerate(rows)]

    def _encode(self, i: int, row: Mapping[str, Any], errors: list[tuple[int, DataError]]) -> dict[str, Any]:
        ids: list[int] = []
        labels: list[int] = []
        for k, message in enumerate(row["messages"]):
            if self.refuses in message["content"]:
                errors.append((i, DataError("DATA-06", f'"messages[{k}]" does not fit')))
                return {}
            said = [ord(c) for c in message["content"]] + [END]
            learn = message["role"] == "assistant" and self.silent not in message["content"]
            ids += said
            labels += said if learn else [-100] * len(said)
        if self.max_length is not None and len(ids) > self.max_length:
            if self.truncation_strategy == "delete":
                return {}
            more = len(ids) - self.max_length
            return {"input_ids": ids[more:], "labels": labels[more:], "truncated": more}
        return {"input_ids": ids, "labels": labels}
