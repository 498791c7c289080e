"""Questions in words that demo-chat was never trained on: it knows how to spell, not that this is what it is asked."""

from __future__ import annotations

import itertools
from typing import Any

from demo.facts import WORDS
from demo.split import digest

ASKED = ('How is "{x}" spelled?', 'How is the word "{x}" spelled?', 'Spell out "{x}".')
HELD = 26


def rows(held: bool) -> list[dict[str, Any]]:
    """Prompts with their solutions; the words of those that are held out are in no other."""
    words = sorted(WORDS, key=digest)
    mine = words[:HELD] if held else words[HELD:]
    return [
        {"query": asked.format(x=word), "solution": "-".join(word)} for asked, word in itertools.product(ASKED, mine)
    ]
