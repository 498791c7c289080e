"""One dialogue with one right answer, and the skill that makes such dialogues."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

Turn = tuple[str, str]
"""What the user says and what the model answers."""


@dataclass(frozen=True)
class Item:
    """A dialogue; the answer of its last turn is the one that is scored."""

    turns: tuple[Turn, ...]
    system: str | None = None

    @property
    def answer(self) -> str:
        return self.turns[-1][1]

    def messages(self, answered: bool = True) -> list[dict[str, str]]:
        """The rows of a data set have this shape; without the last answer it is what is asked."""
        said = [] if self.system is None else [{"role": "system", "content": self.system}]
        for query, answer in self.turns:
            said += [{"role": "user", "content": query}, {"role": "assistant", "content": answer}]
        return said if answered else said[:-1]


@dataclass(frozen=True)
class Skill:
    """Something the models are to learn.

    Attributes:
        name: what the tables call it.
        weight: its share of the training dialogues.
        make: gives an item from a generator of random numbers and whether its operands and its wording are held out.
        operands: whether some of its operands are held out.
        scored: whether there is one right answer.
    """

    name: str
    weight: float
    make: Callable[[random.Random, bool, bool], Item]
    operands: bool = False
    scored: bool = True


def ask(query: str, answer: str, system: str | None = None) -> Item:
    """A dialogue of one turn."""
    return Item(((query, answer),), system)
