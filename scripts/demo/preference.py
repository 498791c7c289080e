"""Pairs of a better and a worse answer: short, right and polite against long-winded, wrong or rude."""

from __future__ import annotations

import random

from demo import counting, talking, wording
from demo.items import Item

COUNT = 60


def worse(rng: random.Random, item: Item) -> str:
    """The same answer with too many words, or none at all."""
    zh = counting.is_chinese(item.turns[0][0])
    padded = (
        f"嗯，让我想想，这个问题很难，不过我觉得{item.answer}"
        if zh
        else f"Well, let me think, hmm, maybe: {item.answer}"
    )
    return rng.choice((padded, "我不想回答。" if zh else "I do not want to answer that.", "???"))


def pairs() -> list[dict[str, object]]:
    """Rows with `messages`, whose last is the better answer, and `rejected_response`."""
    rng = random.Random("preference")
    skills = [*counting.SKILLS, *wording.SKILLS, *talking.SIMPLE]
    found: dict[Item, str] = {}
    while len(found) < COUNT:
        item = rng.choice(skills).make(rng, False, False)
        found.setdefault(item, worse(rng, item))
    return [{"messages": item.messages(), "rejected_response": text} for item, text in found.items()]
