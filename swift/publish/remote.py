"""A hub as publishing needs it; `open_remote` gives the one that is chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from swift import hub

BLOCK = 1 << 20


@dataclass(frozen=True)
class Stored:
    """A file of a repository: its size, and its SHA-256 or, of small ones, the SHA-1 that git gives it."""

    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def fault(self, path: Path) -> str | None:
        """How the file differs from the one at `path`, None where it is the same."""
        if path.stat().st_size != self.size:
            return f"has {self.size} bytes there and {path.stat().st_size} here"
        same = sha256_of(path) == self.sha256 if self.sha256 else self.git_sha1 in (None, git_sha1_of(path))
        return None if same else "has other content there"


class Remote(Protocol):
    """What is asked of a hub. Every method raises a SwiftError for what does not work."""

    def owner(self) -> str:
        """Whose token it is."""
        ...

    def make(self, repo: str, private: bool) -> bool:
        """Make sure that a repository is there; return whether only its owner sees it."""
        ...

    def commit(self, repo: str, revision: str | None) -> str | None:
        """The commit that a branch or tag is now; what was said where the hub does not tell it."""
        ...

    def stored(self, repo: str, revision: str | None = None) -> dict[str, Stored]:
        """The files of a repository."""
        ...

    def send(self, repo: str, stage: Path, names: Sequence[str], folder: str, message: str) -> str:
        """Write files of `stage` below `folder` in one commit; return its name, "" where the hub gives none."""
        ...

    def fetch(self, repo: str, revision: str | None, target: Path) -> None:
        """Write the files of a repository into a directory; those that are there whole are not fetched again."""
        ...

    def address(self, repo: str) -> str:
        """Where people look at a repository."""
        ...


def open_remote(token: str | None) -> Remote:
    """The hub that is chosen, asked with a token; with None as who is logged in, or nobody."""
    if hub.use_hf():
        from swift.publish.huggingface import HuggingFace

        return HuggingFace(token)
    from swift.publish.modelscope import ModelScope

    return ModelScope(token)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_sha1_of(path: Path) -> str:
    """What git calls the content of a file."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
