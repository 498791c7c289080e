"""`auto`: the tokenizer's own chat template, with a loss mask that is verified and not guessed.

The text is what the chat template renders and nothing else. `replies.py` finds the replies in it; a rendering in which
a reply does not begin where the very prompt of inference ends is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from swift.errors import DataError
from swift.templates.align import Frame, Marked, align
from swift.templates.conversation import Message, Talk, split_system
from swift.templates.encoding import Laid, Said, Shown, Template, attempt
from swift.templates.jinja import PROBE_SECONDS, ROW_SECONDS, check_source, names_in, refuse, render, time_limit
from swift.templates.replies import Replies, unused
from swift.templates.tokens import added_texts, any_of, cuts, split, token_id, tokenise
from swift.templates.tools import FORMATS, OBSERVATION, ToolFormat, calls_of, spell
from swift.templates.weights import LossScale

ASKED, REPLIED, ASKED_NEXT = "Where is it?", "It is here.", "When was it?"


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
        known = names_in(source)
        with time_limit(PROBE_SECONDS, "a few short messages"):
            chat, end_text, self._blank_system = self._probe()
            lead, self._takes_system = self._find_lead(), self._finds_system()
            self._calls_in_text = self._call_end = None
            self._own_tools = tools is None and "tools" in known and self._tells_tools()
            if self._own_tools:
                self._calls_in_text, self._call_end = self._probe_calls(chat, end_text)
        self._frame = self._make_frame(chat, end_text)
        self._replies = Replies(tokenizer, end_text)
        super().__init__(
            "auto",
            tokenizer,
            end_text=end_text,
            end_ids=self._find_end_ids(chat, end_text),
            lead=lead,
            marks=[chat, self._call_end or ""],
            call_end=self._call_end or "",
            default_system=default_system,
            max_length=max_length,
            truncation_strategy=truncation_strategy,
            loss_scale=loss_scale,
        )

    def _probe(self) -> tuple[str, str, bool]:
        """A small conversation as text, the text that ends a reply, and whether "" as system text has a use."""
        talk = _talk(("user", ASKED), ("assistant", REPLIED), ("user", ASKED_NEXT))
        chat, last = self._render(talk), self._render(talk[:2])
        added = any_of(added_texts(self.tokenizer))
        end_text = None
        for text in (last, chat):
            if text.count(REPLIED) != 1:
                refuse("the chat template does not show a reply as it is")
            after = text.partition(REPLIED)[2].partition(ASKED_NEXT)[0]
            found = added.search(after) if added else None
            end_text = end_text or (after[: found.end()] if found else None)
        if not end_text and self.tokenizer.eos_token is None:
            refuse("the chat template does not show where a reply ends, and there is no end-of-sequence token")
        try:
            blank = self._render(_talk(("system", ""), ("user", ASKED)))
        except DataError:
            blank = ""
        return chat, end_text or str(self.tokenizer.eos_token), 0 < len(blank) < len(self._render(talk[:1]))

    def _make_frame(self, chat: str, end_text: str) -> Frame:
        """The tokens that structure a conversation: those that the probe shows, and those that end a reply."""
        added = any_of(added_texts(self.tokenizer))
        shown = set(added.findall(chat + end_text)) if added else set()
        ids = {text: token_id(self.tokenizer, text) for text in shown}
        return Frame({text: i for text, i in ids.items() if i is not None})

    def _find_end_ids(self, chat: str, end_text: str) -> list[int]:
        """The ids of the end of a reply, as they are in the middle of a conversation."""
        after = chat.index(REPLIED) + len(REPLIED)
        if not chat.startswith(end_text, after):
            return tokenise(self.tokenizer, [end_text])[0]
        probe = Marked(chat, [after, after + len(end_text)])
        aligned = align([probe], self._frame, self._tokenise)[0]
        return aligned.ids[slice(*aligned.positions)]

    def _find_lead(self) -> str:
        """What comes between the prompt for a reply and the reply: an empty thought, the name of a channel."""
        talk = _talk(("user", ASKED), ("assistant", REPLIED))
        prompt, said = self._render(talk[:1], prompt=True), self._render(talk).partition(REPLIED)[0]
        return said[len(prompt) :] if said.startswith(prompt) else ""

    def _finds_system(self) -> bool:
        """Whether a system text is shown."""
        try:
            return ASKED_NEXT in self._render(_talk(("system", ASKED_NEXT), ("user", ASKED)))
        except DataError:
            return False

    def _tells_tools(self) -> bool:
        """Whether a model is told of tools."""
        try:
            return "locate" in self._render(_talk(("user", ASKED)), [TOOL], prompt=True)
        except DataError:
            return False

    def _probe_calls(self, chat: str, end_text: str) -> tuple[bool | None, str | None]:
        """Whether arguments of a call have to be text, None where calls cannot be shown; the other end of a turn.

        A turn that calls a tool may end in another way than one that answers: with a token of its own, or with that
        which begins the answer of the tool.
        """
        for in_text in (False, True):
            talk = [*_talk(("user", ASKED)), {"role": "assistant", "content": "", "tool_calls": [CALL]}]
            answer = {"role": "tool", "name": "locate", "tool_call_id": CALL["id"], "content": REPLIED}
            try:
                called = self._render(_as_text(talk, in_text), [TOOL])
                answered = self._render(_as_text([*talk, answer], in_text), [TOOL])
                prompt = self._render(talk[:1], [TOOL], True)
            except DataError:
                continue
            if not all(text in answered for text in ("locate", "summit")) or not _shows(answered, REPLIED):
                continue
            reply = called[len(prompt) :] if called.startswith(prompt) else called
            if end_text in reply or not answered.startswith(called):
                return in_text, None
            return in_text, self._find_call_end(called, answered[len(called) :], chat)
        return None, None

    def _find_call_end(self, called: str, after: str, chat: str) -> str | None:
        """The token that begins the answer of a tool, unless other messages have it too; else the last of the call."""
        added = any_of(added_texts(self.tokenizer))
        first = added.match(after.lstrip()) if added else None
        if first and first[0] not in chat:
            return first[0]
        last = list(added.finditer(called.rstrip())) if added else []
        return last[-1][0] if last and last[-1].end() == len(called.rstrip()) and last[-1][0] not in chat else None

    def _encode(self, conversations: Sequence[Talk]) -> list[Laid | DataError]:
        with time_limit(PROBE_SECONDS + ROW_SECONDS * len(conversations), f"{len(conversations)} conversations"):
            rendered = attempt(self._read, conversations)
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

    def _read(self, conversation: Talk) -> Rendered:
        talk = self._spelled(Talk(self._with_system(conversation.messages), conversation.tools))
        messages = talk.messages
        text = self._render(messages, talk.tools, messages[-1]["role"] != "assistant")
        for k, message in enumerate(messages):
            if message["role"] != "assistant" and not _shows(text, message["content"].strip()):
                refuse(f"the chat template leaves out message {k}, from the {message['role']}")
        weights = self.loss_scale.of_replies(messages)
        spans = self._replies.find(talk, text)
        turns = [k for k, message in enumerate(messages) if message["role"] == "assistant"]
        said = []
        for k, weight, (start, end) in zip(turns, weights, spans, strict=True):
            if any(call.name not in text[start:end] for call in calls_of(messages[k])):
                what = f"the chat template leaves out what message {k} calls"
                raise DataError("DATA-06", what, fix=f"--tools_prompt {'|'.join(FORMATS)}")
            said.append(self._stretch(start, end, text, weight, _question(messages[:k])))
        return Rendered(text, said, self._cuts(talk, text))

    def _stretch(self, start: int, end: int, text: str, weight: float, query: str) -> Stretch:
        ended = text.startswith(self.end_text, end)
        pieces = self.loss_scale.pieces(text[start:end], query)
        call_end = self._call_end
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
        if self._own_tools:
            return Talk(_as_text(talk.messages, bool(self._calls_in_text)), talk.tools)
        style = self.tools or FORMATS["react_en"]
        messages = spell(talk, style, in_user=not self._takes_system)
        for message in messages:
            if message["role"] == "tool":
                heading = OBSERVATION if style.goes_on else ""
                message.update(role="user", content=f"{heading}{message['content'].rstrip()}")
        return Talk(messages, [])

    def _with_system(self, conversation: list[Message]) -> list[Message]:
        said, rest = split_system(conversation)
        system = self.default_system if said is None else said
        if system or (system == "" and self._blank_system):
            return [{"role": "system", "content": system}, *rest]
        return rest

    def _cuts(self, talk: Talk, text: str) -> set[int]:
        """Where to keep the tokenizer from reading special tokens out of what somebody wrote."""
        messages = talk.messages
        self._check_calls(talk)
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

    def _check_calls(self, talk: Talk) -> None:
        """Refuse tools and calls that hold the text of a special token: they are written by the template, uncut."""
        for text in (*map(str, talk.tools), *(str(m.get("tool_calls", "")) for m in talk.messages)):
            if self._not_for_users and (found := self._not_for_users.search(text)):
                refuse(f"a tool or its call has {found[0]!r}, the text of a special token")

    def _render(self, messages: list[Message], tools: Sequence[Any] = (), prompt: bool = False) -> str:
        return render(self.tokenizer, messages, tools, prompt)


TOOL = {
    "type": "function",
    "function": {
        "name": "locate",
        "description": "Find it.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string", "description": "A thing."}}},
    },
}
CALL = {"id": "call00001", "type": "function", "function": {"name": "locate", "arguments": {"what": "summit"}}}


def _talk(*turns: tuple[str, str]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in turns]


def _as_text(messages: list[Message], in_text: bool) -> list[Message]:
    """The messages with the arguments of calls as JSON text where the chat template wants them so."""
    if not in_text:
        return messages
    shown = []
    for message in messages:
        calls = [
            {**call, "function": {"name": known.name, "arguments": known.json}}
            for call, known in zip(message.get("tool_calls") or (), calls_of(message), strict=True)
        ]
        shown.append({**message, "tool_calls": calls} if calls else message)
    return shown


def _shows(text: str, content: str) -> bool:
    """Whether a text has what somebody said, as it is or as JSON."""
    as_json = (json.dumps(content, ensure_ascii=pure)[1:-1] for pure in (True, False))
    return content in text or any(said in text for said in as_json)


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
