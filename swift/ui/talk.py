"""A conversation as the page keeps it: rounds of a message and the answers to it, one answer for each model asked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from swift.errors import DataError
from swift.inference.engine import Reason
from swift.ui.words import ENGLISH, Words

LONGEST_FILE = 2_000_000  # characters of a conversation in a file
MOST_ROUNDS = 2_000


@dataclass(frozen=True)
class Facts:
    """What is known of a finished answer; `dropped` of the `before` rounds were not shown to the model."""

    prompt: int
    new: int
    speed: float
    seed: int | None
    ended: Reason
    dropped: int = 0
    before: int = 0

    def line(self, words: Words) -> str:
        """Its tokens, its seed, why it ended, what of the history was left out."""
        facts = [words.done.format(prompt=self.prompt, new=self.new, speed=self.speed)]
        facts += [words.seeded.format(seed=self.seed)] if self.seed is not None else []
        facts += [words.cut] if self.ended == "length" else []
        facts += [words.stopped] if self.ended == "stopped" else []
        facts += [words.dropped.format(count=self.dropped, all=self.before)] if self.dropped else []
        return " · ".join(facts)


@dataclass(frozen=True)
class Reply:
    """An answer, or what there is of it; `facts` are known once it has ended here."""

    model: str
    text: str = ""
    facts: Facts | None = None


@dataclass(frozen=True)
class Round:
    """A message and the answers to it; with `tool` the message is what that tool answered."""

    asked: str
    replies: tuple[Reply, ...] = ()
    tool: str | None = None

    @property
    def message(self) -> dict[str, str]:
        """What was asked, as rows of a data set have it."""
        named = {"name": self.tool} if self.tool else {}
        return {"role": "tool" if self.tool else "user", "content": self.asked, **named}

    def reply(self, column: int) -> Reply:
        """The answer to show and remember in a column; the only one stands in both."""
        return self.replies[min(column, len(self.replies) - 1)]


@dataclass(frozen=True)
class Talk:
    """One person's conversation: all rounds so far, and the one that is being answered."""

    rounds: tuple[Round, ...] = ()
    going: Round | None = None

    @property
    def all(self) -> tuple[Round, ...]:
        """The rounds, the one being answered included."""
        return self.rounds if self.going is None else (*self.rounds, self.going)

    def until(self, number: int) -> Talk:
        """The conversation before a round."""
        return Talk(self.rounds[:number])

    def without(self, number: int) -> Talk:
        """The conversation as if a round had not been."""
        return Talk(self.rounds[:number] + self.rounds[number + 1 :])


@dataclass(frozen=True)
class View:
    """What one person sees: the conversation, one line below it, what stands in the box (None leaves it).

    While it is `busy` an answer can be stopped, and nothing else be done.
    """

    talk: Talk
    status: str = ""
    box: str | None = None
    busy: bool = False


def write_talk(talk: Talk, system: str) -> str:
    """A conversation as JSON: one row of a data set, in which further answers to a message stand under `others`."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for turn in talk.rounds:
        first, *others = turn.replies
        messages.append(dict(turn.message))
        messages.append({"role": "assistant", "content": first.text, **_about(first)})
        if others:
            messages[-1]["others"] = [{"content": other.text, **_about(other)} for other in others]
    return json.dumps({"messages": messages}, ensure_ascii=False, indent=2)


def read_talk(text: str) -> tuple[Talk, str]:
    """The conversation that a file holds, and its system prompt; what is unknown there is left out.

    Raises:
        DataError: it holds none.
    """
    if len(text) > LONGEST_FILE:
        raise DataError("DATA-03", f"more than {LONGEST_FILE} characters")
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError("DATA-03", "not JSON") from None
    if isinstance(messages, dict):
        messages = messages.get("messages")
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise DataError("DATA-03", '"messages" is not a list of {"role", "content"}')
    system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else ""
    asked, said = messages[::2], messages[1::2]
    roles = {message["role"] for message in said}, {message["role"] for message in asked}
    if not asked or len(asked) != len(said) or roles[0] != {"assistant"} or not roles[1] <= {"user", "tool"}:
        raise DataError("DATA-03", "messages and answers do not alternate")
    if len(asked) > MOST_ROUNDS:
        raise DataError("DATA-03", f"more than {MOST_ROUNDS} rounds")
    return Talk(tuple(_round(*pair) for pair in zip(asked, said, strict=True))), system


def _about(reply: Reply) -> dict[str, Any]:
    return {"model": reply.model} | ({} if reply.facts is None else {"facts": asdict(reply.facts)})


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(name), str) for name in ("role", "content"))


def _round(asked: dict[str, Any], said: dict[str, Any]) -> Round:
    others = said.get("others")
    replies = [said, *(others if isinstance(others, list) else [])]
    tool = str(asked.get("name") or "tool") if asked["role"] == "tool" else None
    found = (_reply(reply) for reply in replies if isinstance(reply, dict) and isinstance(reply.get("content"), str))
    return Round(asked["content"], tuple(found)[:2], tool)


def _reply(said: dict[str, Any]) -> Reply:
    try:
        facts = Facts(**said["facts"]) if "facts" in said else None
        if facts is not None:
            facts.line(ENGLISH)  # which says whether they are numbers
    except (TypeError, ValueError):
        facts = None
    return Reply(str(said.get("model") or ""), said["content"], facts)
