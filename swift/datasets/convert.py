"""Rows of the known formats made into conversations, which is all that templates see.

The format of a file is the one that most of its first rows fit; among equals the first of `FORMATS` wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from swift.datasets.choices import ANSWERS as CHOSEN
from swift.datasets.choices import choice_turns, choices_of
from swift.datasets.rows import Row
from swift.datasets.turns import (
    ANSWERS,
    MORE,
    QUESTIONS,
    ROLES,
    Message,
    check_order,
    field_error,
    first_of,
    listed,
    plain_text,
    question_of,
    rounds,
    said,
    system_of,
    text_of,
    turns,
)
from swift.errors import DataError

PASSED_ON = ("tools", "label", "rejected_response", "images", "videos", "audios", "objects", "chat_template_kwargs")
"""Columns that go with the messages as they are."""


class Conversation(TypedDict):
    """A row that can be encoded.

    Attributes:
        messages: a system message first where the row has one ("" says none, against the template's default); then
            user and assistant in turn, or a lone assistant message, which is plain text to train on.
        where: file and line, such as "train.jsonl:418".
        dataset: the data set as it was typed.
        tools: functions that can be called, as the row has them.
        label: whether the answer is a good one.
        rejected_response: a worse last answer.
        choices: the answers to choose from, of which the last message is one.
        columns: the whole row, where somebody asks for it.
        images: as the row has them, like `videos`, `audios`, `objects` and `chat_template_kwargs`.
    """

    messages: list[Message]
    where: str
    dataset: NotRequired[str]
    tools: NotRequired[Any]
    label: NotRequired[Any]
    rejected_response: NotRequired[str]
    choices: NotRequired[list[str]]
    columns: NotRequired[dict[str, Any]]
    images: NotRequired[Any]
    videos: NotRequired[Any]
    audios: NotRequired[Any]
    objects: NotRequired[Any]
    chat_template_kwargs: NotRequired[Any]


@dataclass(frozen=True)
class Format:
    """One shape of rows.

    Attributes:
        name: for messages.
        needs: the columns that make a row one of this format; `a|b` is either.
        asks: those that do when a row needs no answer.
        uses: the columns that are read; the others are named once and not used.
        turns: the messages of a row; raises DataError naming the key.
        questions: the columns of which the first that is there is the question.
        answers: likewise.
        passes: columns that go with the messages as they are, besides those that always do.
        keeps: whether the whole row goes along, as `columns`.
    """

    name: str
    needs: tuple[str, ...]
    asks: tuple[str, ...]
    uses: tuple[str, ...]
    turns: Callable[[Row], list[Message]]
    questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()
    keeps: bool = False

    def fits(self, row: Row, answers: bool = True) -> bool:
        """Whether the columns that this format needs are there and not null."""
        return _has(row, self.needs) or (not answers and _has(row, self.asks))

    def reads(self, row: Row) -> set[str]:
        """The columns of a row that become something."""
        if self.keeps:
            return set(row)
        question, answer = question_of(row, self.questions), first_of(row, self.answers)
        more = first_of(row, MORE) if question == "instruction" else None
        return {*self.uses, *PASSED_ON, *self.passes, *(name for name in (question, answer, more) if name)}


def _has(row: Row, needs: Iterable[str]) -> bool:
    return all(any(row.get(key) is not None for key in need.split("|")) for need in needs)


def detect(source: str, rows: Iterable[Row], *, answers: bool = True, formats: Sequence[Format] = ()) -> Format:
    """The format of the rows of `source`: one of `formats`, or of all that conversations come in.

    Raises:
        DataError: none fits any row (DATA-04).
    """
    formats = formats or FORMATS
    fitting = dict.fromkeys(formats, 0)
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
        for known in formats:
            fitting[known] += known.fits(row, answers)
    best = max(formats, key=lambda known: fitting[known])
    if fitting[best]:
        return best
    lower = {key for known in formats for key in (*known.uses, *known.questions, *known.answers)}
    cased = [f"{name}={name.lower()}" for name in columns if name.lower() in lower and name not in lower]
    kinds = "; ".join(f"{known.name}: {' + '.join(known.needs)}" for known in formats)
    raise DataError(
        "DATA-04",
        f"{source}: the columns {_listed(columns)} fit no known format",
        why=f"known are {kinds}",
        fix=f"--columns {' '.join(cased)}" if cased else "rename them with --columns theirs=ours",
    )


def convert_row(known: Format, row: Row, where: str, *, answers: bool = True) -> Conversation:
    """One row as a conversation; with `answers`, it must end with the assistant's.

    Raises:
        DataError: naming file, line and key (DATA-03).
    """
    try:
        for need in known.needs if answers else ():
            if not _has(row, (need,)):
                key = next((key for key in need.split("|") if key in row), need.partition("|")[0])
                raise field_error(key, "is null" if key in row else "is missing")
        messages = known.turns(row)
        if answers and messages[-1]["role"] != "assistant":
            key = known.needs[0].partition("|")[0]
            raise field_error(key, f"ends with the {messages[-1]['role']}: there is no answer to learn")
        converted = Conversation(messages=messages, where=where)
        for name in (*PASSED_ON, *known.passes):
            if row.get(name) is not None:
                converted[name] = row[name]
        if known.keeps:
            converted["columns"] = dict(row)
        if known.turns is choice_turns:
            converted["choices"] = choices_of(row)
            converted.pop("label", None)  # which of them is right, if that is what it is called
        if "rejected" in known.uses or "rejected_response" in row:
            _reject(converted, row)
        if isinstance(row.get("label"), str) and row["label"].lower() in ("true", "false"):
            converted["label"] = row["label"].lower() == "true"
    except DataError as error:
        raise at(where, error) from None
    return converted


def _reject(converted: Conversation, row: Row) -> None:
    """The answer that is worse: text, or a conversation that is the same up to its last message."""
    key = "rejected_response" if "rejected_response" in row else "rejected"
    rejected = row.get(key)
    if rejected is None:
        return
    if not isinstance(rejected, list | tuple):
        text = text_of(row, key)
        if key == "rejected" and isinstance(row.get("chosen"), str) and first_of(row, QUESTIONS) is None:
            text = text[len(_beginning(row["chosen"], text)[0]) :]  # the prompt is the beginning of both
        converted["rejected_response"] = text
        return
    others = listed(rejected, key)
    asked = [m["content"] for m in converted["messages"][:-1] if m["role"] != "system"]
    if others[-1]["role"] != "assistant":
        raise field_error(key, f"ends with the {others[-1]['role']}: there is no answer")
    if len(others) > 1 and [m["content"] for m in others[:-1] if m["role"] != "system"] != asked:
        raise field_error(key, "differs from the chosen conversation before its last message")
    converted["rejected_response"] = others[-1]["content"]


def at(where: str, error: DataError) -> DataError:
    """The same error, told with file and line."""
    if error.what.startswith(f"{where}: "):
        return error
    return DataError(error.code, f"{where}: {error.what}", why=error.why, fix=error.fix)


def describe(conversation: Conversation, width: int = 100) -> str:
    """One line that shows a conversation: every role with the start of what it says."""
    turns = [f"{m['role']}: {_short(m['content'], width)}" for m in conversation["messages"][:3]]
    return " | ".join(turns) + (" | ..." if len(conversation["messages"]) > 3 else "")


def unused_columns(known: Format, rows: Iterable[Row]) -> list[str]:
    """Columns with something in them that this format does not read."""
    found: dict[str, None] = {}
    for row in rows:
        used = known.reads(row)
        found.update(dict.fromkeys(key for key, value in row.items() if value and key not in used))
    return list(found)


def renamed_format(said: Mapping[str, str]) -> Format:
    """A list of turns with names of its own.

    Args:
        said: some of user_role, assistant_role, system_role, tool_role, conversations_key, from_key and value_key; a
            role "-" is one that there is not.
    """
    key = said.get("conversations_key", "conversations")
    own = {said[f"{role}_role"]: role for role in ("user", "assistant", "system", "tool") if f"{role}_role" in said}
    roles = {**{word: role for word, role in ROLES.items() if f"{role}_role" not in said}, **own}
    roles.pop("-", None)
    read = turns(key, roles, said.get("from_key"), said.get("value_key"))
    return Format("conversations", (key,), (key,), (key, "system"), read)


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _short(text: str, width: int) -> str:
    line = " ".join(text[: 10 * width].split())
    return repr(line if len(line) <= width else line[: width - 1] + "…")


def _preferred(row: Row) -> list[Message]:
    """The prompt, where there is one, and the answer that was chosen; either is text or a list of messages."""
    key = first_of(row, QUESTIONS)
    chosen = row.get("chosen")
    if key is None and isinstance(chosen, str) and isinstance(row.get("rejected"), str):
        prompt, answer = _beginning(chosen, row["rejected"])
        return [*system_of(row), said("user", prompt), said("assistant", answer)]
    if chosen is None:
        answered = []
    else:
        answered = listed(chosen, "chosen") if isinstance(chosen, list | tuple) else [_answer(row, "chosen")]
    whole = isinstance(chosen, list | tuple) and len(answered) > 1
    if key is None or whole:
        if not whole:
            raise field_error("prompt", "is missing")
        asked: list[Message] = []
    else:
        asked = listed(row[key], key) if isinstance(row[key], list | tuple) else [said("user", text_of(row, key))]
    messages = asked + answered
    check_order(messages, "chosen" if whole else "prompt")
    return messages if messages[0]["role"] == "system" else system_of(row) + messages


def _beginning(chosen: str, rejected: str) -> tuple[str, str]:
    """The prompt with which both texts begin, up to the blank before they part, and the rest of the first."""
    size = next((k for k, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    blank = max((k for k, letter in enumerate(chosen[:size]) if letter.isspace()), default=0)
    prompt = chosen[:blank].rstrip()
    if not prompt:
        raise field_error("prompt", "is missing, and both answers do not begin alike")
    return prompt, chosen[len(prompt) :]


def _answer(row: Row, key: str) -> Message:
    return said("assistant", text_of(row, key))


def _rounds(name: str, questions: tuple[str, ...], answers: tuple[str, ...], needs: tuple[str, ...]) -> Format:
    shared = ("system", "history", "history_roles", "query_role")
    return Format(name, needs, needs[:1], shared, rounds(questions, answers), questions, answers)


def _list_of_turns(name: str, key: str) -> Format:
    return Format(name, (key,), (key,), (key, "system"), turns(key))


_PAIRED = QUESTIONS[1:]
FORMATS = (
    Format(
        "multiple choice", ("choices", "|".join(CHOSEN)), ("choices",), ("choices", "system", "history"),
        choice_turns, QUESTIONS, CHOSEN,
    ),
    Format(
        "multiple choice in columns", ("A", "B", "answer"), ("A", "B"), (*"ABCDEFGH", "system", "history"),
        choice_turns, QUESTIONS, ("answer",),
    ),
    Format(
        "query/response", ("response",), ("query",), ("system", "history", "history_roles", "query_role"),
        rounds(QUESTIONS, ("response",)), QUESTIONS, ("response",),
    ),
    _rounds("alpaca", ("instruction",), ("output",), ("instruction", "output")),
    _list_of_turns("conversations", "conversations"),
    _list_of_turns("messages", "messages"),
    _list_of_turns("sharegpt", "conversation"),
    Format("text", ("text",), ("text",), ("text", "prompt"), plain_text),
    Format("preference", ("chosen", "rejected"), ("prompt",), ("chosen", "rejected", "system"), _preferred, QUESTIONS),
    _rounds("prompt/completion", _PAIRED, ANSWERS, ("|".join(_PAIRED), "|".join(ANSWERS))),
)  # fmt: skip
"""In the order in which they are tried."""
