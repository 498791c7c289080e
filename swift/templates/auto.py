"""`auto`: the tokenizer's own chat template, with a loss mask that is verified and not guessed.

The text is what the chat template renders and nothing else. `replies.py` finds the replies in it; a rendering in which
a reply does not begin where the very prompt of inference ends is an error.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import jinja2
from transformers import PreTrainedTokenizerBase

from swift.errors import DataError
from swift.templates.align import Frame, Marked, align
from swift.templates.conversation import Message, split_system
from swift.templates.encoding import Labelled, Said, Shown, Template, attempt
from swift.templates.replies import FIX, Replies, refuse, unused
from swift.templates.tokens import added_texts, any_of, cuts, split, token_id, tokenise

MAX_SOURCE_BYTES = 64 * 1024
MAX_TEXT_CHARS = 16 * 1024 * 1024
PROBE_SECONDS = 10
RENDER_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
ASKED, REPLIED, ASKED_NEXT = "Where is it?", "It is here.", "When was it?"


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer brings a chat template."""
    return bool(tokenizer.chat_template)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A reply from `start` to `stop`, with the end of its turn when `ended`."""

    start: int
    stop: int
    ended: bool


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
    ) -> None:
        self.tokenizer = tokenizer
        source = tokenizer.get_chat_template()
        if len(source.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
            refuse(f"the chat template has more than {MAX_SOURCE_BYTES // 1024} kB")
        with _time_limit(PROBE_SECONDS):
            chat, end_text, self._blank_system = self._probe()
            lead = self._find_lead()
        self._frame = self._make_frame(chat, end_text)
        self._replies = Replies(tokenizer, self._render, end_text)
        super().__init__(
            "auto",
            tokenizer,
            end_text=end_text,
            end_ids=self._find_end_ids(chat, end_text),
            lead=lead,
            marks=[chat],
            default_system=default_system,
            max_length=max_length,
            truncation_strategy=truncation_strategy,
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
        prompt, said = self._render(talk[:1], True), self._render(talk).partition(REPLIED)[0]
        return said[len(prompt) :] if said.startswith(prompt) else ""

    def _encode(self, conversations: Sequence[list[Message]]) -> list[Labelled | DataError]:
        rendered = attempt(self._read, conversations)
        texts = [
            Marked(row.text, [at for said in row.said for at in (said.start, said.stop)], row.cuts)
            for row in rendered
            if not isinstance(row, DataError)
        ]
        aligned = iter(align(texts, self._frame, self._tokenise))

        def finish(row: Rendered | DataError) -> Labelled:
            if isinstance(row, DataError):
                raise row
            ids, positions = (found := next(aligned)).ids, found.positions
            stretches = [ids[start:end] for start, end in pairwise([0, *positions, len(ids)])]
            return self.lay(
                Said(part, row.said[k // 2].ended) if k % 2 else Shown(part) for k, part in enumerate(stretches)
            )

        return attempt(finish, rendered)

    def _read(self, conversation: list[Message]) -> Rendered:
        messages = self._with_system(conversation)
        text = self._render(messages, messages[-1]["role"] != "assistant")
        for k, message in enumerate(messages):
            if message["role"] in ("system", "user") and message["content"].strip() not in text:
                refuse(f"the chat template leaves out message {k}, from the {message['role']}")
        said = [self._with_end(start, end, text) for start, end in self._replies.find(messages, text)]
        return Rendered(text, said, self._cuts(messages, text))

    def _with_end(self, start: int, end: int, text: str) -> Stretch:
        ended = text.startswith(self.end_text, end)
        return Stretch(start, end + len(self.end_text) if ended else end, ended)

    def _with_system(self, conversation: list[Message]) -> list[Message]:
        said, rest = split_system(conversation)
        system = self.default_system if said is None else said
        if system or (system == "" and self._blank_system):
            return [{"role": "system", "content": system}, *rest]
        return rest

    def _cuts(self, messages: list[Message], text: str) -> set[int]:
        """Where to keep the tokenizer from reading special tokens out of what somebody wrote."""
        inside = [cuts(m["content"], self._forbidden(m["role"])) for m in messages]
        if not any(inside):
            return set()
        mark = unused(text)
        marked = [{**m, "content": mark.join(split(m["content"], at))} for m, at in zip(messages, inside, strict=True)]
        found = self._replies.marks(marked, text, mark)
        if found is None:
            refuse("the conversation has the text of a special token, and the chat template changes what is around it")
        return set(found)

    def _forbidden(self, role: str) -> re.Pattern[str] | None:
        return self._not_for_replies if role == "assistant" else self._not_for_users

    def _render(self, messages: list[Message], prompt: bool = False) -> str:
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except RENDER_ERRORS as error:
            raise DataError("DATA-06", "the chat template refuses the conversation", why=str(error), fix=FIX) from error
        if len(text) > MAX_TEXT_CHARS:
            refuse(f"the chat template makes more than {MAX_TEXT_CHARS} characters")
        return str(text)


def _talk(*turns: tuple[str, str]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in turns]


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """End what takes longer with a DataError; only where a signal can do so, in the main thread."""
    if threading.current_thread() is not threading.main_thread() or "SIGALRM" not in signal.Signals.__members__:
        yield
        return

    def stop(*_: Any) -> NoReturn:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TimeoutError:
        refuse(f"the chat template takes more than {seconds} seconds for three short messages")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
