"""A question as the ids that the model continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from swift.errors import DataError
from swift.templates.conversation import read_talk
from swift.templates.encoding import Template
from swift.templates.tools import OBSERVATION, calls_of

History = list[list[str]]


@dataclass
class Turn:
    """A question as token ids, the conversation before it, and what was said already of its answer.

    No ids means that the question is longer than the template allows. `stop_after` are texts behind which the answer
    waits for a tool; they belong to it.
    """

    prompt_ids: list[int]
    query: str = ""
    history: History = field(default_factory=list)
    begun: str = ""
    tokenizer_kwargs: dict[str, Any] = field(default_factory=dict)
    stop_after: tuple[str, ...] = ()

    def history_with(self, text: str) -> History:
        """The conversation with this turn answered by `text`."""
        return [*([*pair] for pair in self.history), [self.query, self.begun + text]]


def make_turn(template: Template, row: Mapping[str, Any]) -> Turn:
    """Encode a row of `query`, `history` and `system`, or of `messages`, for an answer to follow.

    When the last answer of `history` ends in `Observation:`, the query is what was observed: it joins that answer,
    which then goes on. Both kinds of row may have `tools`.
    """
    waits = (template.pause,) if template.pause and read_talk(row).uses_tools else ()
    if "messages" in row:
        inputs, kwargs = template.encode(dict(row))
        return Turn(inputs.get("input_ids", []), tokenizer_kwargs=kwargs, stop_after=waits)
    query, system = row.get("query") or "", row.get("system")
    past = [list(pair) for pair in row.get("history") or []]
    if past and (past[-1][1] or "").endswith(OBSERVATION):
        return _continued(template, past, query, system, row.get("tools"))
    inputs, kwargs = template.encode({"query": query, "history": past, "system": system, "tools": row.get("tools")})
    return Turn(inputs.get("input_ids", []), query, past, tokenizer_kwargs=kwargs, stop_after=waits)


def require_fit(turn: Turn, max_length: int | None) -> None:
    """Raise DataError when the template found the question longer than `max_length` tokens."""
    if not turn.prompt_ids:
        raise DataError(
            "DATA-06",
            f"the conversation is longer than max_length={max_length} tokens",
            fix="raise --max_length, shorten it, or use --truncation_strategy truncation_left",
        )


def _continued(template: Template, past: History, observed: str, system: str | None, tools: Any) -> Turn:
    """The last answer of `past` with `observed` after it, encoded as training does, without its end of turn."""
    *past, (query, said) = past
    begun = said + observed
    inputs, kwargs = template.encode(
        {"query": query, "history": past, "system": system, "response": begun, "tools": tools}
    )
    if not inputs:
        return Turn([], query, past, begun, kwargs, (OBSERVATION,))
    last = max(k for k, label in enumerate(inputs["labels"]) if label != -100)
    ids = inputs["input_ids"][: last + 1 - len(template.end_ids)]
    return Turn(ids, query, past, begun, kwargs, (OBSERVATION,))


def messages_to_history(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A conversation as `query`, `history`, `system` and `response`; None is what it does not have.

    Messages of other roles count as the user's; several of one side in a row are joined by line ends. A call of a tool
    is written as JSON.
    """
    rest = [{**message, "content": _shown(message)} for message in messages]
    system = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else None
    sides: list[tuple[bool, str]] = []
    for message in rest:
        said = message["role"] == "assistant"
        if sides and sides[-1][0] == said:
            sides[-1] = (said, f"{sides[-1][1]}\n{message['content']}")
        else:
            sides.append((said, message["content"]))
    if sides and sides[0][0]:
        sides.insert(0, (False, ""))
    response = sides.pop()[1] if sides and sides[-1][0] else None
    query = sides.pop()[1] if sides else None
    pairs = [[sides[k][1], sides[k + 1][1]] for k in range(0, len(sides), 2)]
    return {"query": query, "history": pairs, "system": system, "response": response}


def _shown(message: Mapping[str, Any]) -> str:
    """What a message says, and what tools it calls."""
    calls = [f'{{"name": "{call.name}", "arguments": {call.json}}}' for call in calls_of(dict(message))]
    return "\n".join([*filter(None, [message["content"]]), *calls])
