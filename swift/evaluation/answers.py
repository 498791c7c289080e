"""Answers and likelihoods that are kept as they come, so that what was asked once is not asked again.

A file holds those of one model; every line is one of them under the hash of all that decided it: the ids of the prompt
and the settings. A line that was cut when a run was killed is taken off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swift import storage
from swift.log import get_logger

logger = get_logger()
OF_WEIGHTS = (".safetensors", ".bin", ".pt", ".json", ".jinja", ".model", ".txt")


def key_of(*parts: Any) -> str:
    """A hash of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def fingerprint(*directories: Path | None) -> list[Any]:
    """What tells a directory's weights from others: its files with their sizes and times."""
    found: list[Any] = []
    for directory in filter(None, directories):
        files = [path for path in directory.rglob("*") if path.suffix in OF_WEIGHTS and path.is_file()]
        sizes = [(str(path.relative_to(directory)), path.stat()) for path in files]
        found.append([str(directory.resolve()), sorted((n, s.st_size, s.st_mtime_ns) for n, s in sizes)])
    return found


class Kept:
    """Values by key, in memory and, with a path, in a file.

    Args:
        path: the jsonl file; what is in it is read. None keeps nothing beyond this run.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.values: dict[str, dict[str, Any]] = {}
        if path is not None and path.is_file():
            self.values = dict(_read(path))
            if self.values:
                logger.info(f"going on with {len(self.values):,} answers in {path}")

    def get(self, key: str) -> dict[str, Any] | None:
        """What is kept under `key`."""
        return self.values.get(key)

    def put(self, key: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """Keep `value`, at once."""
        kept = dict(value)
        if key not in self.values and self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            storage.append_jsonl(self.path, {"key": key, **kept})
        self.values[key] = kept
        return kept


def _read(path: Path) -> list[tuple[str, dict[str, Any]]]:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    rows = [json.loads(line) for line in whole.splitlines()]
    return [(row.pop("key"), row) for row in rows]
