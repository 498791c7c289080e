"""Our template beside the tokenizer's own: conversations that have broken others, token by token.

`check` tells of every conversation whether the ids are equal, where they first differ and whether that is wanted, what
is supervised of each reply, and whether the prompt of inference is how training begins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from swift.errors import DataError
from swift.templates import TEMPLATES
from swift.templates.conversation import read_messages, read_talk
from swift.templates.encoding import MASKED, Template
from swift.templates.jinja import RENDER_ERRORS
from swift.templates.thinking import CLOSE, OPEN
from swift.templates.tokens import any_of, special_texts
from swift.templates.tools import OBSERVATION, calls_of

EQUAL, WANTED, DIFFERENT, REFUSED = "equal", "wanted", "different", "refused"
DAY = "26 Jul 2024"  # templates that write the day of the conversation are told this one
NEVER_SPECIAL = "what somebody types never becomes a special token"
EMPTY_IS_NONE = "an empty system text is none; the tokenizer's own writes an empty system turn"
KEPT_APART = "the text is equal; what is shown and what is said are tokenised apart, as inference meets them"
NOT_ITS_PROMPT = (
    "a conversation begins as the prompt of inference does, which opens a thought; the tokenizer's own leaves that "
    "out of a finished one"
)
LEAVES_TOOLS_OUT = "the tokenizer's own leaves tools out; they are written as text"
LEAVES_CALLS_OUT = "the tokenizer's own leaves calls of tools out; they are written as text"
TURNS = (
    "Where is the river?",
    "Behind the hill.",
    "你好，今天天气怎么样？",
    "天气很好。👩‍👧‍👦 Ça va été, naïve façade ½ — 🏳️‍🌈",
    "Then\n\n\twhat  is\r\n2 < 3 && 4 > 1?",
    "It is `true`:\n\n```python\nprint(2 < 3)\n```",
    "And why?",
    "Because 2 is smaller.",
)
THOUGHT = "<think>\nIt has two digits.\n</think>\n\nThe answer is 42."
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Its name."}},
            "required": ["city"],
        },
    },
}
CALL = {"type": "function", "id": "call00001", "function": {"name": "get_weather", "arguments": {"city": "Ōtsu"}}}
ANSWER = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": '{"sky": "clear"}'}


@dataclass(frozen=True)
class Case:
    """A conversation to check, by what is special about it."""

    name: str
    row: Mapping[str, Any]


@dataclass
class Finding:
    """What became of one conversation.

    Attributes:
        case: its name.
        status: "equal"; "wanted", different for a reason that is known; "different"; "refused" by one of the two.
        why: the reason, in words; None for equal ids.
        ours: our ids; empty where we refuse.
        theirs: those of the tokenizer's own chat template; empty where it refuses.
        first: the index of the first id that differs; None where none does.
        supervised: the text of every supervised stretch.
        faults: what is wrong with the mask or the prompt, which makes the whole check fail.
        fix: what to type where we refuse it; None where we do not.
    """

    case: str
    status: str
    why: str | None = None
    ours: list[int] = field(default_factory=list)
    theirs: list[int] = field(default_factory=list)
    first: int | None = None
    supervised: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    fix: str | None = None

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return self.status in (EQUAL, WANTED) and not self.faults


def cases(tokenizer: PreTrainedTokenizerBase) -> Iterator[Case]:
    """The conversations that are always checked."""
    for count in (2, 4, 6, 8):
        yield Case(f"{count // 2} rounds" if count > 2 else "1 round", _row(*TURNS[:count]))
    yield Case("a prompt", _row(TURNS[0]))
    yield Case("a prompt after a round", _row(*TURNS[:3]))
    yield Case("system", _row(*TURNS[:4], system="Be short.\n用中文。"))
    yield Case("empty system", _row(*TURNS[:4], system=""))
    yield Case("space around", _row("  How many? \n", "\n One.  ", " Sure?", "Yes."))
    special = sorted(special_texts(tokenizer) - {""}, key=lambda text: (len(text), text))
    typed = " ".join(special[:8])
    yield Case("special tokens typed", _row(f"What is {typed}?", "A mark.", f"{typed} {typed}", "Two."))
    yield Case("a thought", _row("What is 6 * 7?", THOUGHT))
    yield Case("a thought before", _row("What is 6 * 7?", THOUGHT, "Sure?", "Yes."))
    yield Case("tools, none called", {**_row(*TURNS[:2]), "tools": [TOOL]})
    yield Case("tools and a system text", {**_row(*TURNS[:2], system="Be short."), "tools": [TOOL]})
    yield Case("a tool called", {"messages": [*_called()[:2], ANSWER, _said("It is clear.")], "tools": [TOOL]})
    yield Case("a tool to be called", {"messages": _called(), "tools": [TOOL]})
    two = [ANSWER, {**ANSWER, "content": '{"sky": "grey"}', "tool_call_id": "call00002"}]
    messages = [_called()[0], _calling(CALL, {**CALL, "id": "call00002"}), *two, _said("It is clear and grey.")]
    yield Case("two tools called at once", {"messages": messages, "tools": [TOOL]})


def check(template: Template, more: Iterable[Case] = ()) -> list[Finding]:
    """What becomes of the built-in conversations, and of `more`, in `template` and in its tokenizer's own."""
    return [check_one(template, case) for case in (*cases(template.tokenizer), *more)]


def check_one(template: Template, case: Case, known: bool = True) -> Finding:
    """What becomes of one conversation; `known` says whether a difference that the row names is wanted."""
    theirs, refusal = own_ids(template.tokenizer, case.row, _variables(template))
    try:
        inputs, _ = template.encode(case.row)
    except DataError as error:
        if theirs is None:
            return Finding(case.name, EQUAL, f"both refuse it: {error.what}")
        return Finding(case.name, REFUSED, f"we refuse it: {error.what}", theirs=theirs, fix=error.fix)
    supervised = spoken(template, inputs)
    found = Finding(case.name, EQUAL, ours=inputs["input_ids"], theirs=theirs or [], supervised=supervised)
    found.faults = [*_mask_faults(template, case.row, supervised), *_prompt_faults(template, case.row, inputs)]
    if theirs is None:
        found.status, found.why = WANTED, f"the tokenizer's own refuses it, we do not: {refusal}"
        return found
    _compare(template, case, found, known)
    if found.status == DIFFERENT and _at_an_edge(template, found, _labels(template, case.row, inputs)):
        found.status, found.why = WANTED, KEPT_APART
    return found


def _labels(template: Template, row: Mapping[str, Any], inputs: Mapping[str, Any]) -> Sequence[int] | None:
    """The labels of a row; of a prompt, those of the replies before it. None where there is none."""
    messages = read_messages(row)
    before = [k for k, message in enumerate(messages) if message["role"] == "assistant"][-1:]
    if inputs["labels"] is not None or not before:
        return inputs["labels"]
    return template.encode({**row, "messages": messages[: before[0] + 1]})[0]["labels"]


def _compare(template: Template, case: Case, found: Finding, known: bool) -> None:
    """Enter where the ids first differ, and what is known about that."""
    ours, theirs = found.ours, found.theirs
    shared = next(
        (k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    if shared == len(ours) == len(theirs):
        return
    found.first = shared
    if _only_the_end(template, case, ours[shared:], theirs[shared:]):
        found.first = None
        found.why = _end_note(template, ours[shared:], theirs[shared:])
        return
    reason = (known_difference(template, case.name) if known else None) or _general_difference(
        template, case, ours, theirs
    )
    found.status, found.why = (DIFFERENT, None) if reason is None else (WANTED, reason)


def known_difference(template: Template, case: str) -> str | None:
    """Why this conversation differs as the template's row says; None when it does not say so."""
    if template.name not in TEMPLATES:
        return None
    differs = TEMPLATES[template.name].differs
    return differs.get(case) or differs.get("*")


def _general_difference(template: Template, case: Case, ours: list[int], theirs: list[int]) -> str | None:
    """Why this conversation differs where that is so for every template; None when it is for none of these reasons."""
    tokenizer, row = template.tokenizer, case.row
    talk = read_talk(row)
    texts = sorted((str(tokenizer.decode(ours)), str(tokenizer.decode(theirs))), key=len)
    if texts[1].startswith(texts[0]) and holds_special(tokenizer, talk.messages):
        return NEVER_SPECIAL
    if talk.messages[0]["role"] == "system" and not talk.messages[0]["content"]:
        without, _ = own_ids(tokenizer, {**row, "messages": talk.messages[1:]}, _variables(template))
        if without is not None and _begins(str(tokenizer.decode(without)), str(tokenizer.decode(ours))):
            return EMPTY_IS_NONE
    if _begins_as_asked(template, row, ours, theirs):
        return NOT_ITS_PROMPT
    called = [call.name for message in talk.messages for call in calls_of(message)]
    shown = str(tokenizer.decode(theirs))
    if talk.tools and own_ids(tokenizer, {**row, "tools": None}, _variables(template))[0] == theirs:
        return LEAVES_TOOLS_OUT
    return LEAVES_CALLS_OUT if any(name not in shown for name in called) else None


def _begins(one: str, other: str) -> bool:
    """Whether one of two texts is how the other begins."""
    return one.startswith(other) or other.startswith(one)


def _begins_as_asked(template: Template, row: Mapping[str, Any], ours: list[int], theirs: list[int]) -> bool:
    """Whether we begin with the prompt of the tokenizer's own, which opens a thought that we keep, and it does not."""
    messages = read_messages(row)
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        return False
    before = {**row, "messages": messages[:-1]}
    prompt, _ = own_ids(template.tokenizer, before, _variables(template))
    if not prompt or theirs[: len(prompt)] == prompt:
        return False
    asked, begun = (str(template.tokenizer.decode(ids)) for ids in (prompt, ours))
    thought = messages[-1]["content"].rpartition(CLOSE)[0].rpartition(OPEN)[2].strip()
    if asked.rfind(OPEN) <= asked.rfind(CLOSE) or thought not in begun:
        return False
    return begun.startswith(asked) if holds_special(template.tokenizer, messages) else ours[: len(prompt)] == prompt


def holds_special(tokenizer: PreTrainedTokenizerBase, messages: Iterable[Mapping[str, Any]]) -> bool:
    """Whether somebody wrote the text of a special token."""
    find = any_of(special_texts(tokenizer))
    return bool(find) and any(find.search(message["content"]) for message in messages)


def _at_an_edge(template: Template, found: Finding, labels: Sequence[int] | None) -> bool:
    """Whether the text is equal and the ids begin to differ where a reply begins or ends."""
    texts = sorted((str(template.tokenizer.decode(ids)) for ids in (found.ours, found.theirs)), key=len)
    masked = [label == MASKED for label in labels or ()]
    edges = [k for k in range(1, len(masked)) if masked[k] != masked[k - 1]]
    near = any(abs(edge - (found.first or 0)) <= 2 for edge in edges)
    return near and texts[1].startswith(texts[0]) and len(texts[1]) - len(texts[0]) <= len(template.end_text)


def _only_the_end(template: Template, case: Case, ours: list[int], theirs: list[int]) -> bool:
    """Whether one of the two alone goes on, and only with the end of the last turn or with space behind it."""
    if ours and theirs:
        return False
    if ours:
        return ours == template.end_ids
    rest = str(template.tokenizer.decode(theirs, skip_special_tokens=True))
    return not rest.strip() and len(theirs) <= 4


def _end_note(template: Template, ours: list[int], theirs: list[int]) -> str:
    tokenizer = template.tokenizer
    if ours:
        return f"we add {tokenizer.decode(ours)!r}, the end of the turn, so that it is learnt"
    return f"the tokenizer's own goes on with {tokenizer.decode(theirs)!r}, which comes after the last end"


def own_ids(
    tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any], variables: Mapping[str, Any] | None = None
) -> tuple[list[int] | None, str]:
    """What the tokenizer's own chat template makes of a row, told `variables`; None and why, when it refuses."""
    talk = read_talk(row)
    messages = [{key: value for key, value in message.items() if key != "loss"} for message in talk.messages]
    try:
        ids = tokenizer.apply_chat_template(
            messages,
            tools=list(talk.tools) or None,  # type: ignore[arg-type]
            tokenize=True,
            return_dict=False,
            add_generation_prompt=messages[-1]["role"] != "assistant",
            **(variables or {}),
        )
    except RENDER_ERRORS as error:
        return None, " ".join(str(error).split())[:200]
    return list(ids), ""  # type: ignore[arg-type]


def _variables(template: Template) -> dict[str, Any]:
    """What the own template is told to be as a row of the catalog: its day and its mode; nothing for `auto`."""
    if template.name not in TEMPLATES:
        return {}
    return {"date_string": DAY, **TEMPLATES[template.name].variables}


def spoken(template: Template, inputs: Mapping[str, Any]) -> list[str]:
    """The text of every stretch of labels that are not masked."""
    return [str(template.tokenizer.decode(ids)) for ids in stretches(inputs["labels"] or [])]


def stretches(labels: Sequence[int]) -> Iterator[list[int]]:
    """The runs of labels that are not masked."""
    run: list[int] = []
    for label in (*labels, MASKED):
        if label != MASKED:
            run.append(label)
        elif run:
            yield run
            run = []


def _mask_faults(template: Template, row: Mapping[str, Any], supervised: list[str]) -> list[str]:
    """What is wrong with the supervised stretches: each is a reply with its end."""
    messages = read_messages(row)
    replies = [message for message in messages if message["role"] == "assistant"]
    if messages[-1]["role"] != "assistant":
        return []
    calls = [call for reply in replies for call in calls_of(reply)]
    faults = []
    if not calls and len(supervised) != len(replies):
        faults.append(f"{len(replies)} replies, {len(supervised)} supervised stretches")
    for k, reply in enumerate(replies):
        said = (reply["content"] or "").rpartition("</think>")[2].strip()
        if said not in ("".join(supervised) if calls else "".join(supervised[k : k + 1])):
            faults.append(f"reply {k + 1} is not supervised as it is: {''.join(supervised[k : k + 1])[:80]!r}")
    faults += [f"the call of {call.name} is not supervised" for call in calls if call.name not in "".join(supervised)]
    ends = (*template.ends, *([OBSERVATION] if calls else []))
    faults += [f"no end of a turn is supervised: {text[-80:]!r}" for text in supervised if not text.endswith(ends)]
    own = "".join(str(reply["content"]) + json.dumps(reply.get("tool_calls"), ensure_ascii=False) for reply in replies)
    asked = {message["content"].strip() for message in messages if message["role"] != "assistant"}
    heard = [text for text in asked if len(text) > 2 and text not in own and any(text in part for part in supervised)]
    return faults + [f"not a reply, but supervised: {text[:80]!r}" for text in heard]


def _prompt_faults(template: Template, row: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[str]:
    """Whether inference asks with how training begins."""
    messages = read_messages(row)
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        return []
    prompt = template.encode({**row, "messages": messages[:-1]})[0]["input_ids"]
    if inputs["input_ids"][: len(prompt)] == prompt:
        return []
    return ["the prompt of inference is not how the conversation begins in training"]


def _row(*contents: str, system: str | None = None) -> dict[str, Any]:
    head = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return {"messages": [*head, *({"role": roles[k % 2], "content": text} for k, text in enumerate(contents))]}


def _said(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def _calling(*calls: Mapping[str, Any]) -> dict[str, Any]:
    return {**_said(""), "tool_calls": json.loads(json.dumps(calls))}


def _called() -> list[dict[str, Any]]:
    return [{"role": "user", "content": "How is the weather in Ōtsu?"}, _calling(CALL)]
