"""Where the replies are in a conversation that a chat template has rendered: verified by further renderings.

A reply begins where the prompt for it ends, and ends where the end of the turn, or a mark put behind it, comes out of
the template. An earlier reply, whose prompt the conversation may show in another way (with a thought left out), begins
where a mark put before it comes out. What the template calls generated is asked last: it need not be what the prompt of
inference leaves to be said.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import NoReturn

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from swift.templates.align import shared
from swift.templates.conversation import Message, Talk
from swift.templates.jinja import refuse, render
from swift.templates.kin import advice
from swift.templates.thinking import CLOSE, OPEN
from swift.templates.tokens import added_texts, any_of

Span = tuple[int, int]
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
EMPTY_THOUGHT = re.compile(rf"\s*{OPEN}\s*{CLOSE}")
TAG = re.compile(r"<[^<>]*>")


class Replies:
    """Finds the replies in what one chat template renders.

    Args:
        tokenizer: whose chat template it is.
        end_text: the text that ends a reply.
        opened: the thought that a prompt begins and a finished conversation does not show; "" where there is none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_text: str, opened: str = "") -> None:
        self.tokenizer, self.end_text, self.opened = tokenizer, end_text, opened
        source = tokenizer.get_chat_template()
        self._source = source if GENERATION.search(source) else None
        self._variables, self._added = tokenizer.special_tokens_map, any_of(added_texts(tokenizer))

    @cached_property
    def _advice(self) -> str:
        return advice(self.tokenizer)

    def find(self, talk: Talk, text: str) -> list[Span]:
        """Where every reply starts and ends in `text`, which is `talk` rendered.

        Raises:
            DataError: the prompt of the last reply is not how `text` begins, or a reply is changed beyond recognition.
        """
        messages = talk.messages
        turns = [k for k, message in enumerate(messages) if message["role"] == "assistant"]
        prompts = {
            k: render(self.tokenizer, messages[:k], talk.tools, True)
            for k in turns
            if any(m["role"] != "system" for m in messages[:k])
        }
        last = len(messages) - 1
        begun = {k: self._start(prompt, text, k == last) for k, prompt in prompts.items()}
        starts = {k: start for k, start in begun.items() if start is not None}
        if last in prompts and last not in starts:
            self._refuse_prompt(prompts[last], text, messages[last]["content"])
        calling = [k for k in starts if messages[k].get("tool_calls")]
        ends = {k: self._plain_end(messages[k]["content"], text, start) for k, start in starts.items()}
        ends |= {k: self._call_end(talk, k, text, starts[k]) for k in calling}
        found = {k: (starts[k], end) for k, end in ends.items() if end is not None}
        for k in turns:
            if messages[k].get("tool_calls") and k not in found:
                found[k] = self._called(talk, k, text)
        for k, (start, end) in self._marked(talk, text, [k for k in turns if k not in found], starts).items():
            if k not in starts and k in prompts and _shows_thought(messages[k]["content"], prompts[k], text[:start]):
                refuse("the chat template keeps the thought of an earlier reply, but not where its prompt puts it")
            found[k] = (start, end)
        if len(found) < len(turns):
            said = self._generated(talk, text, len(turns))
            found |= {k: (starts.get(k, span[0]), span[1]) for k, span in zip(turns, said, strict=True)}
        return [found[k] for k in turns]

    def _start(self, prompt: str, text: str, last: bool) -> int | None:
        """Where a reply begins: behind its prompt, or an earlier one where its prompt would open a thought."""
        if text.startswith(prompt):
            return len(prompt)
        before = prompt.removesuffix(self.opened)
        if last or before == prompt or not text.startswith(before):
            return None
        thought = EMPTY_THOUGHT.match(text, len(before))
        return thought.end() if thought else len(before)

    def marks(self, marked: Talk, text: str, mark: str) -> list[int] | None:
        """Where marks come out in `text`; None when they change anything else."""
        prompt = marked.messages[-1]["role"] != "assistant"
        parts = render(self.tokenizer, marked.messages, marked.tools, prompt).split(mark)
        if "".join(parts) != text:
            return None
        found, at = [], 0
        for part in parts[:-1]:
            at += len(part)
            found.append(at)
        return found

    def without_end(self, text: str, start: int) -> str:
        """The last reply of `text`, which begins at `start`, without the end of its turn."""
        return text[start : self._without_end(text, start, len(text))]

    def _refuse_prompt(self, prompt: str, text: str, reply: str) -> NoReturn:
        """Say that a prompt is not how its conversation begins, and which rows of the catalog are like it."""
        if prompt.rstrip().endswith(CLOSE) and CLOSE in reply:
            what = "the prompt for a reply says that it has no thought, and the reply has one"
            refuse(what, fix=f"leave thoughts out of the data, or {self._advice}, which leaves them out")
        start = max(0, shared(prompt, text) - 20)
        refuse(
            "the prompt that the chat template makes for a reply is not how the finished conversation begins",
            f"the prompt has {prompt[start:][:60]!r}, the conversation {text[start:][:60]!r}",
            self._advice,
        )

    def _plain_end(self, content: str, text: str, start: int) -> int | None:
        """The end of a reply that stands in `text` as it is, with its end right after; None when it does not."""
        for reply in (content, content.strip()):
            end = start + len(reply)
            if text.startswith(reply, start) and (text.startswith(self.end_text, end) or end == len(text)):
                return end
        return None

    def _call_end(self, talk: Talk, k: int, text: str, start: int) -> int | None:
        """The end of a reply that calls tools: where `text` up to it ends, or the first end of a turn after `start`."""
        upto = render(self.tokenizer, talk.messages[: k + 1], talk.tools)
        if len(upto) > start and text.startswith(upto):
            return self._without_end(text, start, len(upto))
        return self._next_end(talk.messages[k], text, start)

    def _called(self, talk: Talk, k: int, text: str) -> Span:
        """An earlier reply that calls tools and whose prompt `text` shows in another way.

        Raises:
            DataError: it says nothing before the calls, so that nothing marks where it begins.
        """
        mark = unused(text)
        marked = list(talk.messages)
        marked[k] = {**marked[k], "content": mark + marked[k]["content"].rpartition(CLOSE)[2].lstrip()}
        at = self.marks(Talk(marked, talk.tools), text, mark) if talk.messages[k]["content"].strip() else None
        end = self._next_end(talk.messages[k], text, at[0]) if at and len(at) == 1 else None
        if at is None or end is None:
            refuse(f"the chat template changes reply {k}, which calls a tool, so that its place cannot be verified")
        return at[0], end

    def _next_end(self, message: Message, text: str, start: int) -> int | None:
        """Where the first end of a turn is; None when there is none, or the message holds one."""
        end = text.find(self.end_text, start)
        return end if end >= 0 and self.end_text not in json.dumps(message, ensure_ascii=False) else None

    def _marked(self, talk: Talk, text: str, turns: list[int], starts: dict[int, int]) -> dict[int, Span]:
        """Where those replies are whose marks change nothing else: all in one rendering, or else one by one."""
        found: dict[int, Span] = {}
        for variant in range(3):
            left = [k for k in turns if k not in found]
            for group in (left, *([k] for k in left)):
                if not any(k in found for k in group):
                    found |= self._try_marks(talk, text, {k: _parts(talk.messages[k], variant) for k in group}, starts)
        return found

    def _try_marks(
        self, talk: Talk, text: str, parts: dict[int, tuple[str, str, str]], starts: dict[int, int]
    ) -> dict[int, Span]:
        """Where the replies of `parts` start and end, by marks around the middle part; nothing when that fails."""
        mark = unused(text)
        messages = talk.messages
        marked = list(messages)
        for k, (before, reply, after) in parts.items():
            front = "" if k in starts else mark
            marked[k] = {**messages[k], "content": f"{before}{front}{reply}{mark}{after}"}
        at = self.marks(Talk(marked, talk.tools), text, mark) if parts else None
        if at is None or len(at) != sum(2 - (k in starts) for k in parts):
            return {}
        places = iter(at)
        return {k: (starts[k] if k in starts else next(places), next(places)) for k in parts}

    def _generated(self, talk: Talk, text: str, count: int) -> list[Span]:
        """The stretches that the template itself calls generated.

        Raises:
            DataError: it does not do so, or not for every reply.
        """
        found: list[Span] = []
        if self._source is not None:
            rendered, spans = render_jinja_template(
                [talk.messages],
                tools=list(talk.tools) or None,  # type: ignore[arg-type]
                chat_template=self._source,
                return_assistant_tokens_mask=True,
                add_generation_prompt=talk.messages[-1]["role"] != "assistant",
                **self._variables,  # type: ignore[arg-type]
            )
            found = list(spans[0]) if rendered[0] == text else []  # type: ignore[arg-type]
        if len(found) != count:
            refuse("the chat template changes a reply so that its place cannot be verified")
        return [(start, self._without_end(text, start, end)) for start, end in found]

    def _without_end(self, text: str, start: int, end: int) -> int:
        """The end of a generated stretch before the end of the turn and what other tokens follow that in it."""
        at = text.rfind(self.end_text, start, end)
        rest = text[at + len(self.end_text) : end]
        alone = not (self._added.sub("", rest) if self._added else rest).strip()
        return at if at >= 0 and alone else end


def said_after(opened: str, empty: str, content: str, shown: str) -> str:
    """What a reply says after a prompt that opened its thought.

    Args:
        opened: how the prompt begins the thought.
        empty: what is said in place of a thought that the reply does not have.
        content: the reply as its row has it.
        shown: the same as a finished conversation shows it, without the thought.
    """
    thought, closed, answer = content.rpartition(CLOSE)
    shown = EMPTY_THOUGHT.sub("", shown, count=1)
    if answer.strip() not in shown:
        refuse("the chat template changes the last reply so that its place cannot be verified")
    if not closed:
        return (empty.rstrip() if shown[:1].isspace() and not answer.strip() else empty) + shown
    if (marked := thought.lstrip()).startswith(OPEN):
        thought = marked.removeprefix(opened if marked.startswith(opened) else OPEN)
    space = answer[: len(answer) - len(answer.lstrip())]
    return thought + CLOSE + ("" if shown.startswith(space) else space) + shown


def unused(text: str) -> str:
    """A character for private use that `text` does not have."""
    return next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in text)


def _parts(message: Message, variant: int) -> tuple[str, str, str]:
    """A reply with what stands before and behind it: all of it, without outer space, without its thought."""
    content = message["content"]
    if not variant:
        return "", content, ""
    shown = content.rpartition(CLOSE)[2] if variant == 2 else content
    reply = shown.strip()
    start = len(content) - len(shown.lstrip())
    return content[:start], reply, content[start + len(reply) :]


def _shows_thought(content: str, prompt: str, text: str) -> bool:
    """Whether `text`, where it goes on in another way than the prompt, has the thought that `content` begins with."""
    thought = TAG.sub("", content.rpartition(CLOSE)[0]).strip()
    return bool(thought) and thought in text[shared(prompt, text) :]
