"""`auto`: the tokenizer's own chat template, with a loss mask that is verified and not guessed.

The text is what the chat template renders and nothing else. `replies.py` finds the replies in it; a rendering in which
a reply does not begin where the very prompt of inference ends is an error.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from swift.errors import DataError
from swift.templates.align import Marked, align
from swift.templates.conversation import Message, Talk, split_system
from swift.templates.encoding import Laid, Said, Shown, Template, attempt
from swift.templates.jinja import (
    PROBE_BYTES,
    PROBE_SECONDS,
    ROW_SECONDS,
    check_source,
    memory_limit,
    refuse,
    render,
    time_limit,
)
from swift.templates.kin import advice
from swift.templates.probe import Probe, as_text, end_ids_of, frame_of, shows
from swift.templates.replies import Replies, Span, said_after, unused
from swift.templates.tokens import cuts, split
from swift.templates.tools import FORMATS, OBSERVATION, ToolFormat, calls_of, spell
from swift.templates.weights import LossScale

MOST_LATE = 3
"""Conversations that may take too long, each by itself, before it is the template that does."""


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer brings a chat template."""
    return bool(tokenizer.chat_template)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A reply from `start` to `stop`, with the end of its turn when `ended`.

    `pieces` are its stretches by their ends in the text and their weights; without any, all of it has `weight`.
    """

    start: int
    stop: int
    ended: bool
    weight: float = 1.0
    pieces: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text: its replies, and where no token may reach across."""

    text: str
    said: list[Stretch]
    cuts: set[int]


class AutoTemplate(Template):
    """The tokenizer's own chat template.

    Raises:
        DataError: the template is too long, fails, or does not show where a reply ends.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        default_system: str | None = None,
        max_length: int | None = None,
        truncation_strategy: str = "delete",
        loss_scale: LossScale | None = None,
        tools: ToolFormat | None = None,
    ) -> None:
        self.tokenizer, self.tools = tokenizer, tools
        source = tokenizer.get_chat_template(tools=[{}] if isinstance(tokenizer.chat_template, dict) else None)
        check_source(source)
        with time_limit(PROBE_SECONDS, "a few short messages"), memory_limit(PROBE_BYTES):
            self.facts = facts = Probe(tokenizer, source).facts(with_tools=tools is None)
        self._frame = frame_of(tokenizer, facts)
        self._replies = Replies(tokenizer, facts.end_text, facts.opened)
        super().__init__(
            "auto",
            tokenizer,
            end_text=facts.end_text,
            end_ids=end_ids_of(tokenizer, facts),
            lead=facts.lead,
            marks=[facts.chat, facts.call_end],
            call_end=facts.call_end,
            default_system=default_system,
            max_length=max_length,
            truncation_strategy=truncation_strategy,
            loss_scale=loss_scale,
        )

    def _encode(self, conversations: Sequence[Talk]) -> list[Laid | DataError]:
        rendered = self._read_in_time(conversations)
        texts = [_marked(row) for row in rendered if not isinstance(row, DataError)]
        aligned = iter(align(texts, self._frame, self._tokenise))

        def finish(row: Rendered | DataError) -> Laid:
            if isinstance(row, DataError):
                raise row
            found = next(aligned)
            place = dict(zip(_boundaries(row), found.positions, strict=True))
            hard = [at for said in row.said for at in (place[said.start], place[said.stop])]
            parts = [found.ids[start:end] for start, end in pairwise([0, *hard, len(found.ids)])]
            return self.lay(
                _said(part, row.said[k // 2], place) if k % 2 else Shown(part) for k, part in enumerate(parts)
            )

        return attempt(finish, rendered)

    def _read_in_time(self, conversations: Sequence[Talk]) -> list[Rendered | DataError]:
        """Each as text, or why not; where they take too long together, each has its own time.

        Raises:
            DataError: `MOST_LATE` take too long.
        """
        count = len(conversations)
        try:
            with time_limit(
                PROBE_SECONDS + ROW_SECONDS * count, "a conversation" if count == 1 else f"{count} of them"
            ):
                return attempt(self._read, conversations)
        except DataError as error:
            if count == 1:
                return [error]
        found: list[Rendered | DataError] = []
        late = 0
        for talk in conversations:
            start = time.monotonic()
            found += self._read_in_time([talk])
            late += time.monotonic() - start > PROBE_SECONDS
            if late == MOST_LATE:
                refuse(f"the chat template takes more than {PROBE_SECONDS:g} seconds for each of {late} conversations")
        return found

    def _read(self, conversation: Talk) -> Rendered:
        talk = self._spelled(Talk(self._with_system(conversation.messages), conversation.tools))
        messages = talk.messages
        self._check_calls(talk)
        text, spans, apart = self._opened(talk) or self._as_rendered(talk)
        weights = self.loss_scale.of_replies(messages)
        turns = [k for k, message in enumerate(messages) if message["role"] == "assistant"]
        said = []
        for k, weight, (start, end) in zip(turns, weights, spans, strict=True):
            if any(call.name not in text[start:end] for call in calls_of(messages[k])):
                what = f"the chat template leaves out what message {k} calls"
                raise DataError("DATA-06", what, fix=f"--tools_prompt {'|'.join(FORMATS)}")
            said.append(self._stretch(start, end, text, weight, _question(messages[:k])))
        return Rendered(text, said, apart)

    def _as_rendered(self, talk: Talk) -> tuple[str, list[Span], set[int]]:
        """The conversation as the chat template writes it, its replies, and its cuts."""
        text = self._render(talk.messages, talk.tools, talk.messages[-1]["role"] != "assistant")
        self._check_shown(talk.messages, text)
        return text, self._replies.find(talk, text), self._cuts(talk, text)

    def _opened(self, talk: Talk) -> tuple[str, list[Span], set[int]] | None:
        """The same where the prompt opens a thought that the finished conversation does not show.

        What is trained is then what inference meets: the prompt, and after it the thought, the answer and their end.
        """
        *before, last = talk.messages
        opened = self.facts.opened
        if not opened or last["role"] != "assistant" or all(m["role"] == "system" for m in before):
            return None
        prompt, text = self._render(before, talk.tools, True), self._render(talk.messages, talk.tools)
        self._check_shown(before, prompt)
        start = prompt.removesuffix(opened)
        if start == prompt or text.startswith(prompt) or not text.startswith(start):
            return None
        reply = said_after(opened, self.lead, last["content"], self._replies.without_end(text, len(start)))
        head = Talk(before, talk.tools)
        spans = [*self._replies.find(head, prompt), (len(prompt), len(prompt) + len(reply))]
        apart = {len(prompt) + at for at in cuts(reply, self._not_for_replies)}
        return prompt + reply + self.end_text, spans, self._cuts(head, prompt) | apart

    def _stretch(self, start: int, end: int, text: str, weight: float, query: str) -> Stretch:
        ended = text.startswith(self.end_text, end)
        pieces = self.loss_scale.pieces(text[start:end], query)
        call_end = self.facts.call_end
        closed = ended or bool(call_end and text[start:end].rstrip().endswith(call_end))
        stop = end + len(self.end_text) if ended else end
        if pieces:
            pieces = [(start + at, weight * factor) for at, factor in pieces if at < end - start]
            pieces += [(end, weight * self.loss_scale.pieces(text[start:end], query)[-1][1]), (stop, weight)]
        return Stretch(start, stop, closed, weight, list(dict(pieces).items()))

    def _spelled(self, talk: Talk) -> Talk:
        """The conversation as this chat template can show it: without tools where it knows none."""
        if not talk.uses_tools:
            return talk
        if self.facts.own_tools:
            return Talk(as_text(talk.messages, bool(self.facts.calls_in_text)), talk.tools)
        style = self.tools or FORMATS["react_en"]
        messages = spell(talk, style, in_user=not self.facts.takes_system)
        for message in messages:
            if message["role"] == "tool":
                heading = OBSERVATION if style.goes_on else ""
                message.update(role="user", content=f"{heading}{message['content'].rstrip()}")
        return Talk(messages, [])

    def _with_system(self, conversation: list[Message]) -> list[Message]:
        said, rest = split_system(conversation)
        system = self.default_system if said is None else said
        if system or (system == "" and self.facts.blank_system):
            return [{"role": "system", "content": system}, *rest]
        return rest

    def _cuts(self, talk: Talk, text: str) -> set[int]:
        """Where to keep the tokenizer from reading special tokens out of what somebody wrote."""
        messages = talk.messages
        inside = [cuts(m["content"], self._forbidden(m["role"])) for m in messages]
        if not any(inside):
            return set()
        mark = unused(text)
        marked = [{**m, "content": mark.join(split(m["content"], at))} for m, at in zip(messages, inside, strict=True)]
        found = self._replies.marks(Talk(marked, talk.tools), text, mark)
        if found is None:
            refuse("the conversation has the text of a special token, and the chat template changes what is around it")
        return set(found)

    def _forbidden(self, role: str) -> re.Pattern[str] | None:
        return self._not_for_replies if role == "assistant" else self._not_for_users

    def _check_shown(self, messages: list[Message], text: str) -> None:
        """Refuse a text that leaves out what somebody said."""
        for k, message in enumerate(messages):
            if message["role"] != "assistant" and not shows(text, message["content"].strip()):
                refuse(f"the chat template leaves out message {k}, from the {message['role']}", "", self._advice)

    @cached_property
    def _advice(self) -> str:
        return advice(self.tokenizer)

    def _check_calls(self, talk: Talk) -> None:
        """Refuse tools and calls that hold the text of a special token: they are written by the template, uncut."""
        for text in (*map(str, talk.tools), *(str(m.get("tool_calls", "")) for m in talk.messages)):
            if self._not_for_users and (found := self._not_for_users.search(text)):
                refuse(f"a tool or its call has {found[0]!r}, the text of a special token")

    def _render(self, messages: list[Message], tools: Sequence[Any] = (), prompt: bool = False) -> str:
        return render(self.tokenizer, messages, tools, prompt)


def _question(messages: list[Message]) -> str:
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")


def _boundaries(row: Rendered) -> list[int]:
    return sorted({at for said in row.said for at in (said.start, said.stop, *(end for end, _ in said.pieces))})


def _marked(row: Rendered) -> Marked:
    """The text with the boundaries of its replies, and with those within them, which no token need respect."""
    hard = {at for said in row.said for at in (said.start, said.stop)}
    boundaries = _boundaries(row)
    return Marked(row.text, boundaries, row.cuts, set(boundaries) - hard)


def _said(ids: list[int], said: Stretch, place: dict[int, int]) -> Said:
    weights: list[float] = []
    for end, weight in said.pieces:
        weights += [weight] * (place[end] - place[said.start] - len(weights))
    return Said(ids, said.ended, said.weight, weights or None)
