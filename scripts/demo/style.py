"""A style to prefer: the same right answers with a friendly beginning, or without."""

from __future__ import annotations

import random
from typing import Any

from demo import counting, wording
from demo.items import Item

SKILLS = (counting.add, counting.subtract, counting.larger, wording.capital, wording.opposite, wording.translate)
FRIENDLY, FRIENDLY_ZH = "Sure! ", "好的！"


def items(count: int, held: bool) -> list[Item]:
    """Questions with right answers; those that are held out have numbers that training has not."""
    rng = random.Random(f"style {held}")
    found: dict[tuple[Any, ...], Item] = {}
    while len(found) < count:
        item = rng.choice(SKILLS)(rng, held, False)
        found[item.turns] = item
    return list(found.values())


def friendly(item: Item) -> str:
    """The answer with a friendly beginning."""
    return (FRIENDLY_ZH if counting.is_chinese(item.turns[0][0]) else FRIENDLY) + item.answer


def is_friendly(text: str) -> bool:
    """Whether an answer begins so."""
    return text.startswith((FRIENDLY, FRIENDLY_ZH))


def is_right(text: str, item: Item) -> bool:
    """Whether an answer is right, friendly or not."""
    return text in (item.answer, friendly(item))


def mixed(found: list[Item]) -> list[dict[str, Any]]:
    """Rows to fine-tune on, half of them friendly: a model that knows both ways."""
    rng = random.Random("mixed")
    said = [friendly(item) if rng.random() < 0.5 else item.answer for item in found]
    return [{"query": item.turns[0][0], "response": text} for item, text in zip(found, said, strict=True)]


def pairs(found: list[Item]) -> list[dict[str, Any]]:
    """The friendly answer before the plain one."""
    return [{"query": item.turns[0][0], "response": friendly(item), "rejected_response": item.answer} for item in found]


def labelled(found: list[Item]) -> list[dict[str, Any]]:
    """One answer to each question, good when it is friendly."""
    rng = random.Random("labelled")
    good = [rng.random() < 0.5 for _ in found]
    return [
        {"query": item.turns[0][0], "response": friendly(item) if on else item.answer, "label": on}
        for item, on in zip(found, good, strict=True)
    ]
