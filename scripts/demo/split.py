"""What is trained on and what is held out, settled by hashes alone, before anything is trained."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence


def digest(text: str) -> int:
    """A number that depends on nothing but the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def is_held(key: str) -> bool:
    """Whether this item, such as "add 3 58", is kept out of every training text: one in ten is."""
    return digest(key) % 10 == 0


def bare(text: str) -> str:
    """A wording without what a hasty writer leaves out: capitals and the last signs."""
    return text.lower().rstrip(" ?!.=。？！")


class Wordings:
    """Ways to ask the same: a sixth of them, the first by hash and at least one, is never trained on.

    Wordings that are the same to a hasty writer are on the same side.
    """

    def __init__(self, *texts: str) -> None:
        kinds = sorted({bare(text) for text in texts}, key=digest)
        assert len(set(texts)) == len(texts), texts
        assert len(kinds) > 1, texts
        chosen = set(kinds[: max(1, len(kinds) // 6)])
        self.held: Sequence[str] = [text for text in texts if bare(text) in chosen]
        self.train: Sequence[str] = [text for text in texts if bare(text) not in chosen]

    def pick(self, rng: random.Random, held: bool) -> str:
        """One of those held out or of those trained on."""
        return rng.choice(self.held if held else self.train)
