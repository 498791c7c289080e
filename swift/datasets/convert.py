"""Rows of six known formats made into conversations, which is all that templates see.

The format of a set is the one that most of its rows fit; among equals the first of `FORMATS` wins.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from swift.datasets.read import Row, kind_of
from swift.errors import DataError

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
MAY_FOLLOW = {
    "the start": ("user", "assistant"),
    "system": ("user", "assistant"),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


class Message(TypedDict):
    """One turn; `role` is "system", "user", "assistant" or "tool"."""

    role: str
    content: str


class Conversation(TypedDict):
    """A row that can be encoded.

    Attributes:
        messages: a system message first where the row has one ("" says none, against the template's default); then
            user and assistant in turn, or a lone assistant message, which is plain text to train on.
        where: file and line, such as "train.jsonl:418".
    """

    messages: list[Message]
    where: str


@dataclass(frozen=True)
class Format:
    """One shape of rows.

    Attributes:
        name: for messages.
        needs: the columns that make a row one of this format.
        asks: those that do when a row needs no answer.
        uses: every column that is read; the others are named once and not used.
        turns: the messages of a row; raises DataError naming the key.
    """

    name: str
    needs: tuple[str, ...]
    asks: tuple[str, ...]
    uses: tuple[str, ...]
    turns: Callable[[Row], list[Message]]

    def fits(self, row: Row, answers: bool = True) -> bool:
        """Whether the columns that this format needs are there and not null."""
        whole = all(row.get(key) is not None for key in self.needs)
        return whole or (not answers and all(row.get(key) is not None for key in self.asks))


def detect(source: str, rows: Iterable[Row], *, answers: bool = True) -> Format:
    """The format of the rows of `source`.

    Raises:
        DataError: none fits any row (DATA-04).
    """
    fitting = dict.fromkeys(FORMATS, 0)
    columns: dict[str, None] = {}
    for row in rows:
        columns.update(dict.fromkeys(row))
        for known in FORMATS:
            fitting[known] += known.fits(row, answers)
    best = max(FORMATS, key=lambda known: fitting[known])
    if fitting[best]:
        return best
    lower = {key: key.lower() for known in FORMATS for key in known.needs}
    cased = [f"{name}={name.lower()}" for name in columns if name.lower() in lower and name not in lower]
    kinds = "; ".join(f"{known.name}: {' + '.join(known.needs)}" for known in FORMATS)
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
        for key in known.needs if answers else ():
            if row.get(key) is None:
                raise _field(key, "is null" if key in row else "is missing")
        messages = known.turns(row)
        if answers and messages[-1]["role"] != "assistant":
            raise _field(known.uses[0], f"ends with the {messages[-1]['role']}: there is no answer to learn")
    except DataError as error:
        raise at(where, error) from None
    return Conversation(messages=messages, where=where)


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
    return list(dict.fromkeys(key for row in rows for key, value in row.items() if value and key not in known.uses))


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= width else line[: width - 1] + "…")


def _field(key: str, problem: str, **more: str) -> DataError:
    return DataError("DATA-03", f'"{key}" {problem}', **more)


def _text(row: Row, key: str, name: str | None = None) -> str:
    name = name or key
    if key not in row:
        raise _field(name, "is missing")
    value = row[key]
    if not isinstance(value, str):
        raise _field(name, "is null" if value is None else f"is {kind_of(value)}, not a string")
    return value


def _answer(text: str, name: str) -> str:
    if not text.strip():
        raise _field(name, "is empty: there is nothing to learn")
    return text


def _literal(value: object, key: str) -> object:
    """Lists that a csv cell or a careless export holds as text."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise _field(key, "is text that is not a list") from None


def _said(role: str, content: str) -> Message:
    return Message(role=role, content=content)


def _system(row: Row) -> list[Message]:
    return [] if row.get("system") is None else [_said("system", _text(row, "system"))]


def _history(row: Row) -> list[Message]:
    pairs = _literal(row.get("history"), "history") or []
    if not isinstance(pairs, list | tuple):
        raise _field("history", f"is {kind_of(pairs)}, not a list of [query, response] pairs")
    messages = []
    for i, pair in enumerate(pairs):
        key = f"history[{i}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise _field(key, "is not a [query, response] pair of strings")
        messages += [_said("user", pair[0]), _said("assistant", _answer(pair[1], f"{key}[1]"))]
    return messages


def _rounds(row: Row, query: str, answer_key: str) -> list[Message]:
    """System, history, the question, and the answer where there is one; no question and no history is plain text."""
    past = _history(row)
    asked = [_said("user", query)] if query or past or row.get(answer_key) is None else []
    answered = [] if row.get(answer_key) is None else [_said("assistant", _answer(_text(row, answer_key), answer_key))]
    return _system(row) + past + asked + answered


def _swift(row: Row) -> list[Message]:
    return _rounds(row, "" if row.get("query") is None else _text(row, "query"), "response")


def _alpaca(row: Row) -> list[Message]:
    instruction = _text(row, "instruction")
    extra = "" if row.get("input") is None else _text(row, "input")
    return _rounds(row, f"{instruction}\n{extra}" if extra else instruction, "output")


def _plain_text(row: Row) -> list[Message]:
    return [_said("assistant", _answer(_text(row, "text"), "text"))]


def _turns(key: str) -> Callable[[Row], list[Message]]:
    """The messages of a row that holds them as a list under `key`."""

    def turns(row: Row) -> list[Message]:
        items = _literal(row.get(key), key)
        if key not in row or not isinstance(items, list | tuple):
            raise _field(key, f"is {kind_of(items)}, not a list" if key in row else "is missing")
        if not items:
            raise _field(key, "is empty")
        messages = [m for i, item in enumerate(items) for m in _turn(item, f"{key}[{i}]")]
        _check_order(messages, key)
        if row.get("system") is None:
            return messages
        if messages[0]["role"] == "system":
            raise _field("system", f'is given twice, as a column and as "{key}[0]"')
        return _system(row) + messages

    return turns


def _turn(item: object, name: str) -> list[Message]:
    """One item as messages: {role, content}, {from, value}, or {human, assistant}, which is two."""
    if not isinstance(item, dict):
        raise _field(name, f"is {kind_of(item)}, not an object")
    if "human" in item and "assistant" in item:
        answer = _answer(_text(item, "assistant", f"{name}.assistant"), f"{name}.assistant")
        return [_said("user", _text(item, "human", f"{name}.human")), _said("assistant", answer)]
    if item.get("tool_calls") or item.get("function_call"):
        raise _field(name, "holds tool calls, which are not read", fix="write the call as text in its content")
    role_key = "from" if "from" in item else "role"
    word = _text(item, role_key, f"{name}.{role_key}")
    role = ROLES.get(word.strip().lower())
    if role is None:
        raise _field(f"{name}.{role_key}", f"is {word[:40]!r}, not one of {', '.join(ROLES)}")
    key = "value" if "value" in item else "content"
    content = _content(item, key, f"{name}.{key}")
    return [_said(role, _answer(content, f"{name}.{key}") if role == "assistant" else content)]


def _content(item: dict[str, Any], key: str, name: str) -> str:
    """The text of a message; a list of `{"type": "text"}` parts is joined."""
    parts = item.get(key)
    if not isinstance(parts, list) or not parts:
        return _text(item, key, name)
    texts = []
    for i, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else kind_of(part)
            raise _field(f"{name}[{i}]", f"is of type {kind!r}; only text is read")
        texts.append(_text(part, "text", f"{name}[{i}].text"))
    return "".join(texts)


def _check_order(messages: Sequence[Message], key: str) -> None:
    before = "the start"
    for i, message in enumerate(messages):
        role = message["role"]
        if role not in MAY_FOLLOW[before] and not (i == 0 and role == "system"):
            next_ones = " or ".join(MAY_FOLLOW[before])
            raise _field(f"{key}[{i}]", f"is of role {role} after {before}, where {next_ones} comes")
        before = role
    talk = [m["role"] for m in messages if m["role"] != "system"]
    if not talk:
        raise _field(key, "has no user message")
    if talk[0] == "assistant" and len(talk) > 1:
        raise _field(key, "starts with the assistant, before anyone asked")


_SHARED = ("system", "history")
FORMATS = (
    Format("query/response", ("response",), ("query",), ("response", "query", *_SHARED), _swift),
    Format(
        "alpaca", ("instruction", "output"), ("instruction",), ("output", "instruction", "input", *_SHARED), _alpaca
    ),
    Format(
        "conversations", ("conversations",), ("conversations",), ("conversations", "system"), _turns("conversations")
    ),
    Format("messages", ("messages",), ("messages",), ("messages", "system"), _turns("messages")),
    Format("sharegpt", ("conversation",), ("conversation",), ("conversation", "system"), _turns("conversation")),
    Format("text", ("text",), ("text",), ("text",), _plain_text),
)
"""In the order in which they are tried."""
