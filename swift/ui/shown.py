"""An answer as the page shows it: thoughts and calls of tools folded, the rest as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from swift.templates.tools import Call
from swift.ui.talk import Round, Talk
from swift.ui.words import Words

THOUGHT = re.compile(r"<think>(.*?)(</think>|\Z)", re.DOTALL)
LATE_END = "</think>"  # of a thought that the prompt began
ReadCalls = Callable[[str], tuple[str, list[Call]]]
Message = dict[str, Any]


def messages_of(talk: Talk, column: int, words: Words, read_calls: ReadCalls) -> tuple[list[Message], list[int]]:
    """What a column shows, and the number of the round that each of its messages belongs to."""
    messages: list[Message] = []
    numbers: list[int] = []
    for number, turn in enumerate(talk.all):
        shown = [_asked(turn, words)]
        if turn.replies:
            shown += shown_reply(turn.reply(column).text, words, read_calls, ended=turn is not talk.going)
        messages += shown
        numbers += [number] * len(shown)
    return messages, numbers


def shown_reply(text: str, words: Words, read_calls: ReadCalls, *, ended: bool = True) -> list[Message]:
    """An answer as messages: its thoughts and calls with a title, which folds them."""
    messages, rest = [], text
    if LATE_END in text and "<think>" not in text:
        thought, _, rest = text.partition(LATE_END)
        messages.append(_folded(thought, words.thought))
    while (found := THOUGHT.search(rest)) is not None:
        going = not found[2] and not ended
        if found[1].strip():
            messages.append(_folded(found[1], words.thinking if going else words.thought, going))
        rest = rest[: found.start()] + rest[found.end() :]
    said, calls = read_calls(rest)
    if said.strip():
        messages.append({"role": "assistant", "content": said.strip("\n")})
    return messages + [_folded(f"```json\n{call.json}\n```", words.calls.format(name=call.name)) for call in calls]


def _asked(turn: Round, words: Words) -> Message:
    if turn.tool is None:
        return {"role": "user", "content": turn.asked}
    return {**_folded(turn.asked, words.returned.format(name=turn.tool)), "role": "user"}


def _folded(text: str, title: str, going: bool = False) -> Message:
    status = "pending" if going else "done"
    return {"role": "assistant", "content": text.strip(), "metadata": {"title": title, "status": status}}
