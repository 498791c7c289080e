"""`auto`: the tokenizer's own chat template, with a loss mask that is verified and not guessed.

The text is what the chat template renders and nothing else. A reply begins where the prompt for it ends, which is the
very prompt of inference, and ends where a mark put behind it comes out of the template; a rendering that does not bear
this out is an error. Templates that say so themselves, with `{% generation %}`, are believed.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from swift.errors import DataError
from swift.templates.align import Frame, Marked, align
from swift.templates.conversation import Message, split_system
from swift.templates.encoding import Inputs, Said, Shown, Template, attempt
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
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
ASKED, REPLIED, ASKED_NEXT = "Where is it?", "It is here.", "When was it?"
FIX = "choose a --template_type"


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
            _refuse(f"the chat template has more than {MAX_SOURCE_BYTES // 1024} kB")
        self._source = source if GENERATION.search(source) else None
        with _time_limit(PROBE_SECONDS):
            chat, end_text, self._blank_system = self._probe()
        self._frame = self._make_frame(chat, end_text)
        super().__init__(
            "auto",
            tokenizer,
            end_text=end_text,
            end_ids=self._find_end_ids(chat, end_text),
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
                _refuse("the chat template does not show a reply as it is")
            after = text.partition(REPLIED)[2].partition(ASKED_NEXT)[0]
            found = added.search(after) if added else None
            end_text = end_text or (after[: found.end()] if found else None)
        if not end_text and self.tokenizer.eos_token is None:
            _refuse("the chat template does not show where a reply ends, and there is no end-of-sequence token")
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

    def _encode(self, conversations: Sequence[list[Message]]) -> list[Inputs | DataError]:
        rendered = attempt(self._read, conversations)
        texts = [
            Marked(row.text, [at for said in row.said for at in (said.start, said.stop)], row.cuts)
            for row in rendered
            if not isinstance(row, DataError)
        ]
        aligned = iter(align(texts, self._frame, self._tokenise))

        def finish(row: Rendered | DataError) -> Inputs:
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
                _refuse(f"the chat template leaves out message {k}, from the {message['role']}")
        said = [self._with_end(start, end, text) for start, end in self._replies(messages, text)]
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

    def _replies(self, messages: list[Message], text: str) -> list[tuple[int, int]]:
        """Where every reply starts and ends in `text`."""
        turns = [k for k, message in enumerate(messages) if message["role"] == "assistant"]
        said = self._said_replies(messages, text, len(turns))
        if said is not None:
            return said
        prompts = {
            k: self._render(messages[:k], True) for k in turns if any(m["role"] != "system" for m in messages[:k])
        }
        starts = {k: len(prompt) for k, prompt in prompts.items() if text.startswith(prompt)}
        last = len(messages) - 1
        if last in prompts and last not in starts:
            _refuse("the prompt that the chat template makes for a reply is not how the finished conversation begins")
        ends = {k: self._plain_end(messages[k]["content"], text, start) for k, start in starts.items()}
        if len(starts) < len(turns) or None in ends.values():
            marked = self._marked_replies(messages, text, with_start=len(starts) < len(turns))
            return [(starts.get(k, start), end) for k, (start, end) in zip(turns, marked, strict=True)]
        return [(starts[k], int(ends[k] or 0)) for k in turns]

    def _said_replies(self, messages: list[Message], text: str, count: int) -> list[tuple[int, int]] | None:
        """The stretches that the template itself calls generated; None when it does not do so for every reply."""
        if self._source is None:
            return None
        rendered, spans = render_jinja_template(
            [messages],
            chat_template=self._source,
            return_assistant_tokens_mask=True,
            add_generation_prompt=messages[-1]["role"] != "assistant",
            **self.tokenizer.special_tokens_map,  # type: ignore[arg-type]
        )
        found: list[tuple[int, int]] = spans[0]  # type: ignore[assignment]
        if rendered[0] != text or len(found) != count:
            return None
        return [(start, self._without_end(text, start, end)) for start, end in found]

    def _without_end(self, text: str, start: int, end: int) -> int:
        at = text.rfind(self.end_text, start, end)
        return at if at >= 0 and not text[at + len(self.end_text) : end].strip() else end

    def _plain_end(self, content: str, text: str, start: int) -> int | None:
        """The end of a reply that stands in `text` as it is, with its end right after; None when it does not."""
        for reply in (content, content.strip()):
            end = start + len(reply)
            if text.startswith(reply, start) and (text.startswith(self.end_text, end) or end == len(text)):
                return end
        return None

    def _marked_replies(self, messages: list[Message], text: str, with_start: bool) -> list[tuple[int, int]]:
        """Where replies start and end, from a rendering with a mark around each; the start only where asked for."""
        mark = _unused(text)
        before = mark if with_start else ""
        trims: list[Callable[[str], str]] = [str, str.strip] if with_start else [str, str.rstrip]
        for trim in trims:
            marked = [
                {**m, "content": f"{before}{trim(m['content'])}{mark}"} if m["role"] == "assistant" else m
                for m in messages
            ]
            found = self._marks(marked, text, mark)
            if found is not None and len(found) == sum(m["role"] == "assistant" for m in messages) * (1 + with_start):
                return list(zip(found[::2], found[1::2], strict=True)) if with_start else [(0, at) for at in found]
        _refuse("the chat template changes a reply so that its place cannot be verified")

    def _cuts(self, messages: list[Message], text: str) -> set[int]:
        """Where to keep the tokenizer from reading special tokens out of what somebody wrote."""
        inside = [cuts(m["content"], self._forbidden(m["role"])) for m in messages]
        if not any(inside):
            return set()
        mark = _unused(text)
        marked = [{**m, "content": mark.join(split(m["content"], at))} for m, at in zip(messages, inside, strict=True)]
        found = self._marks(marked, text, mark)
        if found is None:
            _refuse("the conversation has the text of a special token, and the chat template changes what is around it")
        return set(found)

    def _forbidden(self, role: str) -> re.Pattern[str] | None:
        return self._not_for_replies if role == "assistant" else self._not_for_users

    def _marks(self, marked: list[Message], text: str, mark: str) -> list[int] | None:
        """Where marks come out in `text`; None when they change anything else."""
        parts = self._render(marked, marked[-1]["role"] != "assistant").split(mark)
        if "".join(parts) != text:
            return None
        found, at = [], 0
        for part in parts[:-1]:
            at += len(part)
            found.append(at)
        return found

    def _render(self, messages: list[Message], prompt: bool = False) -> str:
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except RENDER_ERRORS as error:
            raise DataError("DATA-06", "the chat template refuses the conversation", why=str(error), fix=FIX) from error
        if len(text) > MAX_TEXT_CHARS:
            _refuse(f"the chat template makes more than {MAX_TEXT_CHARS} characters")
        return str(text)


def _talk(*turns: tuple[str, str]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in turns]


def _unused(text: str) -> str:
    """A character for private use that `text` does not have."""
    return next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in text)


def _refuse(what: str) -> NoReturn:
    raise DataError("DATA-06", what, fix=FIX)


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
        _refuse(f"the chat template takes more than {seconds} seconds for three short messages")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
