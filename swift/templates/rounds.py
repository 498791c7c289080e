"""A conversation in rounds, and the runs of text and ids that a registry row makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from swift.errors import DataError
from swift.templates.align import shared
from swift.templates.conversation import Message
from swift.templates.encoding import Said, Shown
from swift.templates.tokens import cuts, split
from swift.templates.tools import OBSERVATION


@dataclass(frozen=True, slots=True)
class Step:
    """What a reply says up to the answer of a tool that stands inside it."""

    said: str
    observed: str
    weight: float


@dataclass(frozen=True, slots=True)
class Round:
    """A question and its reply; `reply` None is still to come, `steps` come before it."""

    query: str
    reply: str | None
    from_tool: bool = False
    weight: float = 1.0
    steps: tuple[Step, ...] = ()


class Run:
    """Texts and ids of one status, in order; texts that touch are one text.

    Attributes:
        said: whether the model says them.
        weight: how much they are learnt.
        goes_on: whether no end of a turn comes after them.
        pieces: stretches of the text by their ends and weights; [] where all of it weighs the same.
    """

    def __init__(self, said: bool, weight: float = 1.0, goes_on: bool = False) -> None:
        self.said, self.weight, self.goes_on = said, weight, goes_on
        self.units: list[str | list[int]] = []
        self.pieces: list[tuple[int, float]] = []

    def text(self, *parts: str) -> None:
        """Add text; between `parts` the tokenizer must not look across."""
        if self.units and isinstance(self.units[-1], str):
            self.units[-1] += parts[0]
            parts = parts[1:]
        self.units += parts

    def ids(self, ids: list[int]) -> None:
        """Add ids."""
        self.units.append(ids)

    @property
    def windows(self) -> list[str]:
        """For every piece, the beginning of its unit up to its end."""
        windows = []
        for end, _ in self.pieces:
            for unit in self.units:
                if end <= len(unit):
                    windows.append(str(unit[:end]))
                    break
                end -= len(unit)
        return windows

    @property
    def texts(self) -> list[str]:
        """All that has to be tokenised."""
        return [unit for unit in self.units if isinstance(unit, str)] + self.windows


def apart(text: str, forbidden: re.Pattern[str] | None, mark: str) -> list[str]:
    """The parts of a text between which no token may reach: at its marks, where there are any."""
    return text.split(mark) if mark else split(text, cuts(text, forbidden))


def part_of(run: Run, ids: Iterator[list[int]]) -> Shown | Said:
    """A run as ids, which are taken from `ids` in the order of its `texts`, with the weight of each."""
    units = [next(ids) if isinstance(unit, str) else unit for unit in run.units]
    joined = [i for unit in units for i in unit]
    if not run.said:
        return Shown(joined)
    if not run.pieces:
        return Said(joined, run.goes_on, run.weight)
    weights: list[float] = []
    for (end, weight), window in zip(run.pieces, [next(ids) for _ in run.windows], strict=True):
        at = 0
        for text, unit in zip(run.units, units, strict=True):
            if end <= len(text):
                at += shared(unit, window)
                break
            end, at = end - len(text), at + len(unit)
        weights += [weight] * (at - len(weights))
    weights += [run.pieces[-1][1]] * (len(joined) - len(weights))
    return Said(joined, run.goes_on, run.weight, weights)


def rounds_of(messages: list[Message], weights: Iterable[float] = (), goes_on: bool = False) -> Iterator[Round]:
    """Questions with their replies; the answers of several tools at once are one question, line by line.

    Args:
        messages: without the system's.
        weights: of the replies, in order.
        goes_on: whether what a tool answers stands inside the reply that asked for it.

    Raises:
        DataError: two messages in a row come from the user, or two from the assistant.
    """
    weight = iter(weights)
    asked: Round | None = None
    last = "the start"
    for k, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role == last != "tool" or (last, role) in (("user", "tool"), ("tool", "user")):
            raise DataError(
                "DATA-06", f"message {k} is from the {role} and follows one from the {last}", fix="join the two"
            )
        if role == "assistant":
            asked = replace(asked or Round("", None), reply=content, weight=next(weight, 1.0))
            if not goes_on or [m["role"] for m in messages[k + 1 : k + 2]] != ["tool"]:
                yield asked
                asked = None
        elif asked and asked.reply is not None:
            said = asked.reply if asked.reply.rstrip().endswith(OBSERVATION) else f"{asked.reply}\n{OBSERVATION}"
            asked = replace(asked, reply=None, steps=(*asked.steps, Step(said, content, asked.weight)))
        else:
            asked = Round(f"{asked.query}\n{content}" if asked else content, None, role == "tool")
        last = role
    if asked:
        yield asked
