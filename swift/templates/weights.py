"""How much of a conversation is learnt: which replies, and how much each stretch of a reply counts.

A choice is a name of `CHOICES` or a JSON file of rules. Rules are `{"Action:": [2, 3], "[0-9]+": [2]}`: a text found in
a reply counts 2 and what follows it, up to the next one found, 3; of a pattern, with one number, what it matches counts
that. Under "query" stand texts of the question that weigh the whole reply: `{"query": {"Name the tool": [2]}}`.

Weights change what is learnt and never which ids a conversation has.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swift.errors import ConfigError, NotFoundError
from swift.registry import unknown
from swift.templates.conversation import Message

LARGEST_FILE = 1 << 20

# Observations come from tools: what they say is never learnt.
REACT = {
    "Action:": [2.0, 2.0],
    "Action Input:": [2.0, 2.0],
    "Thought:": [1.0, 1.0],
    "Final Answer:": [1.0, 1.0],
    "Observation:": [2.0, 0.0],
}
# Paper: Small LLMs Are Weak Tool Learners, https://arxiv.org/abs/2401.07324: a planner says who is next, a caller acts.
ALPHA_UMI = {"Next:": [2.0, 2.0], "Action:": [2.0, 2.0], "Action Input:": [2.0, 2.0]}
# Paper: Agent-FLAN, https://arxiv.org/abs/2403.12881: names and arguments of tools are the hard part.
AGENT_FLAN = {
    "Name:": [1.0, 3.0],
    "Action:": [1.0, 3.0],
    "ACTION:": [1.0, 3.0],
    "Tool:": [1.0, 3.0],
    "Command": [1.0, 3.0],
    "Arguments:": [1.0, 3.0],
    "action input": [1.0, 3.0],
    "ACTION_INPUT:": [1.0, 3.0],
    "Action Input:": [1.0, 3.0],
    "Thought:": [1.0, 1.0],
    "Final Answer:": [1.0, 1.0],
    "Observation:": [2.0, 0.0],
}


@dataclass(frozen=True)
class Rules:
    """Weights of what is found in a reply, or in the question before it.

    Args:
        keys: texts with the weights of themselves and of what follows.
        patterns: regular expressions with the weight of what they match.
        queries: texts of a question with the weight of the whole reply.
    """

    keys: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    patterns: Mapping[str, float] = field(default_factory=dict)
    queries: Mapping[str, float] = field(default_factory=dict)

    def pieces(self, reply: str, query: str) -> list[tuple[int, float]]:
        """The reply as stretches, each by its end and its weight; they cover all of it."""
        for text, weight in self.queries.items():
            if text in query:
                return [(len(reply), weight)]
        names = {f"p{k}": weight for k, weight in enumerate(self.patterns.values())}
        texts = sorted(self.keys, key=len, reverse=True)
        parts = [f"(?P<{name}>{pattern})" for name, pattern in zip(names, self.patterns, strict=True)]
        find = re.compile("|".join([*map(re.escape, texts), *parts]) or r"(?!)")
        pieces: list[tuple[int, float]] = []
        after, at = 1.0, 0
        for match in find.finditer(reply):
            pieces += [(match.start(), after)] if match.start() > at else []
            if match.lastgroup in names:
                weight = names[str(match.lastgroup)]
            else:
                weight, after = self.keys[match[0]]
            pieces += [(match.end(), weight)] if match.end() > match.start() else []
            at = match.end()
        return pieces + ([(len(reply), after)] if at < len(reply) else [])


@dataclass(frozen=True)
class LossScale:
    """What is learnt.

    Args:
        name: as it was said.
        last_round: only the replies after the last question.
        everything: prompts too.
        rules: weights within a reply; None is 1 throughout.
    """

    name: str = "default"
    last_round: bool = False
    everything: bool = False
    rules: Rules | None = None

    def of_replies(self, messages: Sequence[Message]) -> list[float]:
        """The weight of every assistant message, in order: what its row says, else what this choice says."""
        last = max((k for k, message in enumerate(messages) if message["role"] == "user"), default=-1)
        weights = []
        for k, message in enumerate(messages):
            if message["role"] == "assistant":
                said = message.get("loss")
                weights.append(float(k > last or not self.last_round) if said is None else float(said))
        return weights

    def pieces(self, reply: str, query: str) -> list[tuple[int, float]]:
        """The stretches of a reply with their weights; [] when all of it weighs the same."""
        return self.rules.pieces(reply, query) if self.rules else []


CHOICES = {
    "default": LossScale(),
    "last_round": LossScale("last_round", last_round=True),
    "all": LossScale("all", everything=True),
}
RULES: dict[str, Mapping[str, Any]] = {"react": REACT, "alpha-umi": ALPHA_UMI, "agent-flan": AGENT_FLAN}


def find_loss_scale(said: str) -> LossScale:
    """The choice of that name, or the rules in a JSON file.

    Raises:
        UnknownNameError: it is neither a name nor a file.
        NotFoundError: there is no such file.
        ConfigError: the file holds something else.
    """
    if said in CHOICES:
        return CHOICES[said]
    if said in RULES:
        return LossScale(said, rules=read_rules(RULES[said], said))
    path = Path(said).expanduser()
    if path.suffix != ".json" and not path.is_file():
        raise unknown("loss_scale", said, (*CHOICES, *RULES))
    if not path.is_file():
        raise NotFoundError("FOUND-01", f"--loss_scale {said} is not a file")
    if path.stat().st_size > LARGEST_FILE:
        raise _bad(said, "has more than 1 MB")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _bad(said, f"is not JSON: {error}") from None
    return LossScale(str(path.resolve()), rules=read_rules(value, said))


def read_rules(value: Any, where: str) -> Rules:
    """Rules from what a JSON file holds: keys at the top or under "response", and "query".

    Raises:
        ConfigError: a key has no weights, or a pattern is none.
    """
    if not isinstance(value, Mapping):
        raise _bad(where, "is not an object of texts and weights")
    rest = {key: weights for key, weights in value.items() if key not in ("response", "query")}
    keys: dict[str, tuple[float, float]] = {}
    patterns: dict[str, float] = {}
    for key, weights in {**rest, **_mapping(value.get("response"), where)}.items():
        numbers = _weights(key, weights, where)
        if len(numbers) == 2:
            keys[key] = (numbers[0], numbers[1])
        else:
            patterns[_pattern(key, where)] = numbers[0]
    queries = {key: _weights(key, w, where)[0] for key, w in _mapping(value.get("query"), where).items()}
    return Rules(keys, patterns, queries)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise _bad(where, '"response" and "query" hold objects')
    return value or {}


def _weights(key: str, said: Any, where: str) -> list[float]:
    numbers = said if isinstance(said, list) else [said]
    if not key or len(numbers) not in (1, 2) or not all(map(is_weight, numbers)):
        raise _bad(where, f"{key!r} has {said!r}, and not one or two numbers from 0 on")
    return [float(number) for number in numbers]


def _pattern(text: str, where: str) -> str:
    try:
        found = re.compile(text)
    except re.error as error:
        raise _bad(where, f"{text!r} is not a regular expression: {error}") from None
    if found.groups:
        raise _bad(where, f"{text!r} has groups", fix="write (?:...) instead of (...)")
    return text


def is_weight(value: Any) -> bool:
    """Whether a value from outside is a weight: a number from 0 on, or true or false."""
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _bad(where: str, what: str, fix: str = '{"Action:": [2, 2]}') -> ConfigError:
    return ConfigError("CONFIG-01", f"--loss_scale {where}: {what}", fix=fix)
