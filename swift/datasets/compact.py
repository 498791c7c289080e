"""Rows that wait to be encoded, in little more memory than their text takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from swift.datasets.convert import Conversation
from swift.datasets.places import Place

PLAIN_ROW, PLAIN_MESSAGE = {"messages", "where", "dataset"}, {"role", "content"}


class CompactRow(Place, Mapping[str, Any]):
    """A conversation as one stretch of bytes, read when somebody asks for more than where it stands.

    Args:
        where: file and line.
        dataset: the data set as it was typed.
        messages: roles and contents in turn.
        files: names of files that rows share, added to here.
    """

    __slots__ = ("_bytes", "dataset")

    def __init__(self, where: str, dataset: str | None, messages: list[str], files: dict[str, str]) -> None:
        super().__init__(where, files)
        self.dataset = dataset
        self._bytes = json.dumps(messages, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def open(self) -> Conversation:
        """The row as it was."""
        row = {name: self[name] for name in ("messages", "where")}
        return cast(Conversation, row if self.dataset is None else {**row, "dataset": self.dataset})

    def __getitem__(self, key: str) -> Any:
        if key == "messages":
            words = iter(json.loads(self._bytes.decode("utf-8", "surrogatepass")))
            return [{"role": role, "content": content} for role, content in zip(words, words, strict=True)]
        if key == "where":
            return self.where
        if key == "dataset" and self.dataset is not None:
            return self.dataset
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(("messages", "where") if self.dataset is None else ("messages", "where", "dataset"))

    def __len__(self) -> int:
        return 2 if self.dataset is None else 3


class Compactor:
    """Makes rows compact, which share the names of their files."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}

    def __call__(self, row: Conversation) -> Conversation:
        """The row in little memory, which reads as it does; itself where it holds more than plain messages."""
        if row.keys() <= PLAIN_ROW and all(message.keys() == PLAIN_MESSAGE for message in row["messages"]):
            words = [word for message in row["messages"] for word in (message["role"], message["content"])]
            if all(type(word) is str for word in words):
                return cast(Conversation, CompactRow(row["where"], row.get("dataset"), words, self._files))
        return row


def opened(row: Conversation) -> Conversation:
    """The row as it was before `compact`."""
    return row.open() if isinstance(row, CompactRow) else row
