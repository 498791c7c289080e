"""What a chat template does, learnt from a few short conversations: how a reply begins and ends, and what is shown."""

from __future__ import annotations

import json
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from swift.errors import DataError
from swift.templates.align import Frame, Marked, align
from swift.templates.conversation import Message
from swift.templates.jinja import names_in, refuse, render
from swift.templates.thinking import CLOSE, OPEN
from swift.templates.tokens import added_texts, any_of, token_id, tokenise
from swift.templates.tools import calls_of

ASKED, REPLIED, ASKED_NEXT, THOUGHT = "Where is it?", "It is here.", "When was it?", "Let me look."
TOOL = {
    "type": "function",
    "function": {
        "name": "locate",
        "description": "Find it.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string", "description": "A thing."}}},
    },
}
CALL = {"id": "call00001", "type": "function", "function": {"name": "locate", "arguments": {"what": "summit"}}}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a chat template.

    Attributes:
        chat: two questions with a reply between them, as text.
        end_text: what ends a reply.
        lead: what comes between the prompt for a reply and the reply: an empty thought, the name of a channel.
        opened: the thought that a prompt begins and a finished conversation does not show; "" where there is none.
        blank_system: whether "" as the system text has a use.
        takes_system: whether a system text is shown.
        own_tools: whether a model is told of tools.
        calls_in_text: whether the arguments of a call have to be text; None where calls cannot be shown.
        call_end: the other end of a turn, one that calls a tool; "" where there is none.
    """

    chat: str
    end_text: str
    lead: str
    opened: str
    blank_system: bool
    takes_system: bool
    own_tools: bool = False
    calls_in_text: bool | None = None
    call_end: str = ""


class Probe:
    """Asks one chat template.

    Args:
        tokenizer: whose chat template it is.
        source: its text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
        self.tokenizer, self._known = tokenizer, names_in(source)
        self._added = any_of(added_texts(tokenizer))

    def facts(self, with_tools: bool = True) -> Facts:
        """All that is asked; about tools only `with_tools`.

        Raises:
            DataError: the chat template fails, or does not show where a reply ends.
        """
        talk = _talk(("user", ASKED), ("assistant", REPLIED), ("user", ASKED_NEXT))
        chat, last = render(self.tokenizer, talk), render(self.tokenizer, talk[:2])
        end_text = self._end_text(chat, last)
        prompt, said = render(self.tokenizer, talk[:1], prompt=True), last.partition(REPLIED)[0]
        opened = "" if said.startswith(prompt) else _opened(prompt, said)
        lead = self._empty_thought(talk, prompt, opened) if opened else said.removeprefix(prompt)
        calls_in_text, call_end = None, ""
        own_tools = with_tools and "tools" in self._known and self._tells_tools()
        if own_tools:
            calls_in_text, call_end = self._calls(chat, end_text)
        return Facts(
            chat,
            end_text,
            lead if opened or said.startswith(prompt) else "",
            opened,
            self._uses_blank_system(),
            self._shows_system(),
            own_tools,
            calls_in_text,
            call_end,
        )

    def _end_text(self, chat: str, last: str) -> str:
        """What follows a reply, up to and with the first token of the tokenizer's own; else its end of a sequence."""
        end_text = None
        for text in (last, chat):
            if text.count(REPLIED) != 1:
                refuse("the chat template does not show a reply as it is")
            after = text.partition(REPLIED)[2].partition(ASKED_NEXT)[0]
            found = self._added.search(after) if self._added else None
            end_text = end_text or (after[: found.end()] if found else None)
        if not end_text and self.tokenizer.eos_token is None:
            refuse("the chat template does not show where a reply ends, and there is no end-of-sequence token")
        return end_text or str(self.tokenizer.eos_token)

    def _empty_thought(self, talk: list[Message], prompt: str, opened: str) -> str:
        """What is said in place of a thought that the prompt opened and the reply does not have."""
        reply = f"{OPEN}\n{THOUGHT}\n{CLOSE}\n\n{REPLIED}"
        after = self._rendered([talk[0], {"role": "assistant", "content": reply}]).partition(THOUGHT)
        if after[0] == prompt and REPLIED in after[2]:
            return after[2].partition(REPLIED)[0]
        return f"\n{CLOSE}\n\n" if opened.endswith("\n") else CLOSE

    def _uses_blank_system(self) -> bool:
        blank = self._rendered(_talk(("system", ""), ("user", ASKED)))
        return 0 < len(blank) < len(render(self.tokenizer, _talk(("user", ASKED))))

    def _shows_system(self) -> bool:
        return ASKED_NEXT in self._rendered(_talk(("system", ASKED_NEXT), ("user", ASKED)))

    def _tells_tools(self) -> bool:
        try:
            return "locate" in render(self.tokenizer, _talk(("user", ASKED)), [TOOL], prompt=True)
        except DataError:
            return False

    def _rendered(self, talk: list[Message]) -> str:
        """A conversation as text; "" where it is refused."""
        try:
            return render(self.tokenizer, talk)
        except DataError:
            return ""

    def _calls(self, chat: str, end_text: str) -> tuple[bool | None, str]:
        """Whether arguments of a call have to be text, None where calls cannot be shown; the other end of a turn.

        A turn that calls a tool may end in another way than one that answers: with a token of its own, or with that
        which begins the answer of the tool.
        """
        for in_text in (False, True):
            talk = [*_talk(("user", ASKED)), {"role": "assistant", "content": "", "tool_calls": [CALL]}]
            answer = {"role": "tool", "name": "locate", "tool_call_id": CALL["id"], "content": REPLIED}
            try:
                called = render(self.tokenizer, as_text(talk, in_text), [TOOL])
                answered = render(self.tokenizer, as_text([*talk, answer], in_text), [TOOL])
                prompt = render(self.tokenizer, talk[:1], [TOOL], True)
            except DataError:
                continue
            if not all(text in answered for text in ("locate", "summit")) or not shows(answered, REPLIED):
                continue
            reply = called[len(prompt) :] if called.startswith(prompt) else called
            if end_text in reply or not answered.startswith(called):
                return in_text, ""
            return in_text, self._call_end(called, answered[len(called) :], chat)
        return None, ""

    def _call_end(self, called: str, after: str, chat: str) -> str:
        """The token that begins the answer of a tool, unless other messages have it too; else the last of the call."""
        first = self._added.match(after.lstrip()) if self._added else None
        if first and first[0] not in chat:
            return first[0]
        last = list(self._added.finditer(called.rstrip())) if self._added else []
        return last[-1][0] if last and last[-1].end() == len(called.rstrip()) and last[-1][0] not in chat else ""


def frame_of(tokenizer: PreTrainedTokenizerBase, facts: Facts) -> Frame:
    """The tokens that structure a conversation: those that the probe shows, and those that end a reply."""
    added = any_of(added_texts(tokenizer))
    shown = set(added.findall(facts.chat + facts.end_text)) if added else set()
    ids = {text: token_id(tokenizer, text) for text in shown}
    return Frame({text: i for text, i in ids.items() if i is not None})


def end_ids_of(tokenizer: PreTrainedTokenizerBase, facts: Facts) -> list[int]:
    """The ids of the end of a reply, as they are in the middle of a conversation."""
    after = facts.chat.index(REPLIED) + len(REPLIED)
    if not facts.chat.startswith(facts.end_text, after):
        return tokenise(tokenizer, [facts.end_text])[0]
    probe = Marked(facts.chat, [after, after + len(facts.end_text)])
    aligned = align([probe], frame_of(tokenizer, facts), lambda texts: tokenise(tokenizer, texts))[0]
    return aligned.ids[slice(*aligned.positions)]


def as_text(messages: list[Message], in_text: bool) -> list[Message]:
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


def shows(text: str, content: str) -> bool:
    """Whether a text has what somebody said, as it is or as JSON."""
    as_json = (json.dumps(content, ensure_ascii=pure)[1:-1] for pure in (True, False))
    return content in text or any(said in text for said in as_json)


def _opened(prompt: str, said: str) -> str:
    """The thought that a prompt begins where what is said there begins without one; "" where there is none."""
    at = prompt.rfind(OPEN)
    return prompt[at:] if at >= 0 and CLOSE not in prompt[at:] and said.startswith(prompt[:at]) else ""


def _talk(*turns: tuple[str, str]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in turns]
