"""All skills together, and what is drawn from them: to train on, held out, as files."""

from __future__ import annotations

import random
from collections.abc import Iterator

from demo import counting, talking, wording
from demo.items import Item, Skill

SKILLS: tuple[Skill, ...] = (*counting.SKILLS, *wording.SKILLS, *talking.SKILLS)
HELPFUL_SHARE = 0.1
HASTY_SHARE = 0.15
SLOW = (
    "larger of two numbers",
    "sorting three digits",
    "spelling",
    "letters of a word",
    "reversing digits",
    "reversing words",
    "repeating a word",
    "name of a system prompt",
    "instructions of a system prompt",
    "remembering a name",
)
"""What needs many repetitions: copying signs from one place to another."""
NAMING = ("name of a system prompt", "remembering a name", "several turns", "following up")


def dialogue(rng: random.Random, slow: float = 1) -> Item:
    """A dialogue to train on; some are hastily written, some get the usual system prompt.

    Args:
        rng: where chance comes from.
        slow: how many times more often than usual the skills of `SLOW` come.
    """
    skill = rng.choices(SKILLS, [skill.weight * (slow if skill.name in SLOW else 1) for skill in SKILLS])[0]
    item = skill.make(rng, False, False)
    turns = item.turns
    if skill.name not in NAMING and rng.random() < HASTY_SHARE:
        turns = tuple((hasty(rng, query), answer) for query, answer in turns)
    usual = item.system is None and rng.random() < HELPFUL_SHARE
    return Item(turns, talking.HELPFUL if usual else item.system)


def hasty(rng: random.Random, query: str) -> str:
    """The question without its last sign, or without capitals, or without both."""
    kind = rng.randrange(3)
    query = query if kind == 0 else query.rstrip("?!.。？！")
    return query if kind == 1 else query.lower()


def held_out(skill: Skill, count: int) -> Iterator[tuple[str, Item]]:
    """Distinct items that no training text holds, each with what is new in it.

    Where a skill has operands, half of the items have new operands asked for in known words, and half are new in both.
    """
    for new_words in (False, True) if skill.operands else (True,):
        label = ("numbers and wording" if new_words else "numbers") if skill.operands else "wording"
        rng = random.Random(f"held out {skill.name} {new_words}")
        seen: dict[Item, None] = {}
        for _ in range(count * 20):
            if len(seen) < count:
                seen[skill.make(rng, skill.operands, new_words)] = None
        yield from ((label, item) for item in seen)


def rows(count: int, seed: str) -> list[dict[str, object]]:
    """Dialogues as rows of a data set, none of them about who the model is."""
    rng = random.Random(seed)
    skills = [skill for skill in SKILLS if skill.name not in ("who it is", "several turns", "name of a system prompt")]
    found: dict[Item, None] = {}
    while len(found) < count:
        found[rng.choices(skills, [skill.weight for skill in skills])[0].make(rng, False, False)] = None
    return [{"messages": item.messages()} for item in found]
