"""What a row says, as messages: rounds in columns, lists of turns, whatever their keys and roles are called."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from swift.datasets.rows import Row, kind_of
from swift.errors import DataError

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
CALLS = ("function_call", "tool_call")
MAY_FOLLOW = {
    "the start": ("user", "assistant"),
    "system": ("user", "assistant"),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
QUESTIONS = ("query", "prompt", "question", "instruction", "input", "inputs")
ANSWERS = ("completion", "answer", "output", "target", "targets")
OWN_NAMES = "names of your own, for keys and roles, are told with --custom_dataset_info"
MORE = ("input", "context")
"""What an instruction is about, set below it."""
CARRIED = ("loss", "tool_calls", "name", "tool_call_id", "reasoning_content")
"""Keys of a message that are kept where they say something."""


class Message(TypedDict):
    """One turn; `role` is "system", "user", "assistant" or "tool"."""

    role: str
    content: str
    loss: NotRequired[bool | float]
    tool_calls: NotRequired[list[Any]]
    name: NotRequired[str]
    tool_call_id: NotRequired[str]
    reasoning_content: NotRequired[str]


def field_error(key: str, problem: str, **more: str) -> DataError:
    """What is wrong with one field of a row."""
    return DataError("DATA-03", f'"{key}" {problem}', **more)


def text_of(row: Mapping[str, Any], key: str, name: str | None = None) -> str:
    """The text under `key`; errors call it `name`."""
    name = name or key
    if key not in row:
        raise field_error(name, "is missing")
    value = row[key]
    if not isinstance(value, str):
        raise field_error(name, "is null" if value is None else f"is {kind_of(value)}, not a string")
    return value


def answer_of(text: str, name: str) -> str:
    """`text`, when there is something to learn in it."""
    if not text.strip():
        raise field_error(name, "is empty: there is nothing to learn")
    return text


def literal(value: object, key: str) -> object:
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
        raise field_error(key, "is text that is not a list") from None


def said(role: str, content: str) -> Message:
    """One message."""
    return Message(role=role, content=content)


def system_of(row: Row) -> list[Message]:
    """The system message of the column of that name: none for None, an empty one for ""."""
    return [] if row.get("system") is None else [said("system", text_of(row, "system"))]


def first_of(row: Row, names: Sequence[str]) -> str | None:
    """The first of these columns that says something."""
    return next((name for name in names if row.get(name) is not None), None)


def rounds(questions: Sequence[str], answers: Sequence[str]) -> Callable[[Row], list[Message]]:
    """What reads rows with a question and an answer in columns: the first of `questions` and of `answers` there is.

    The messages are system, history, the question, and the answer where there is one; no question and no history is
    plain text.
    """

    def read(row: Row) -> list[Message]:
        answer, question = first_of(row, answers), question_of(row, questions)
        answered = [] if answer is None else _answered(row, answer)
        if question and isinstance(row[question], list | tuple):
            return system_of(row) + listed(row[question], question) + answered
        query = "" if question is None or row[question] is None else text_of(row, question)
        if question == "instruction":
            query = _with_more(row, query)
        past = _history(row)
        role = _role(row.get("query_role") or "user", "query_role")
        asked = [said(role, query)] if query or past or not answer else []
        return system_of(row) + past + asked + answered

    return read


def question_of(row: Row, questions: Sequence[str]) -> str | None:
    """The column with the question; a `query` that is there and empty asks nothing."""
    return "query" if "query" in row and "query" in questions else first_of(row, questions)


def _with_more(row: Row, instruction: str) -> str:
    more = first_of(row, MORE)
    extra = text_of(row, more) if more else ""
    return f"{instruction}\n{extra}" if extra else instruction


def _answered(row: Row, key: str) -> list[Message]:
    if isinstance(row[key], list | tuple):
        return listed(row[key], key)
    return [said("assistant", answer_of(text_of(row, key), key))]


def _history(row: Row) -> list[Message]:
    pairs = literal(row.get("history"), "history") or []
    roles = literal(row.get("history_roles"), "history_roles") or []
    if not isinstance(pairs, list | tuple):
        raise field_error("history", f"is {kind_of(pairs)}, not a list of [query, response] pairs")
    if not isinstance(roles, list | tuple) or (roles and len(roles) != len(pairs)):
        raise field_error("history_roles", 'is not a list of ["user", "assistant"] pairs, one for each of "history"')
    messages = []
    for i, pair in enumerate(pairs):
        key = f"history[{i}]"
        if not _is_pair(pair):
            raise field_error(key, "is not a [query, response] pair of strings")
        who = roles[i] if roles else ("user", "assistant")
        if not _is_pair(who):
            raise field_error(f"history_roles[{i}]", 'is not a pair such as ["tool", "assistant"]')
        first, second = (_role(word, f"history_roles[{i}]") for word in who)
        messages += [said(first, pair[0]), said(second, answer_of(pair[1], f"{key}[1]"))]
    return messages


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _role(word: str, name: str, roles: Mapping[str, str] = ROLES) -> str:
    role = roles.get(word) or roles.get(word.strip().lower())
    if role is None:
        near = difflib.get_close_matches(word.strip().lower(), roles, 1)
        fix = f"did you mean {near[0]}? " if near else ""
        raise field_error(name, f"is {word[:40]!r}, not one of {', '.join(roles)}", fix=f"{fix}{OWN_NAMES}")
    return role


def plain_text(row: Row) -> list[Message]:
    """A text to learn as it is; after `prompt`, where there is one."""
    prompt = [said("user", text_of(row, "prompt"))] if row.get("prompt") else []
    return [*prompt, said("assistant", answer_of(text_of(row, "text"), "text"))]


def turns(
    key: str, roles: Mapping[str, str] = ROLES, from_key: str | None = None, value_key: str | None = None
) -> Callable[[Row], list[Message]]:
    """What reads the messages of a row that holds them as a list under `key`.

    Args:
        key: the column.
        roles: what others call them -> what they are.
        from_key: where a turn says who speaks; None is "from" or "role".
        value_key: where it says what; None is "value" or "content".
    """

    def read(row: Row) -> list[Message]:
        if key not in row:
            raise field_error(key, "is missing")
        messages = listed(literal(row[key], key), key, roles, from_key, value_key)
        check_order(messages, key)
        if row.get("system") is None:
            return messages
        if messages[0]["role"] == "system":
            raise field_error("system", f'is given twice, as a column and as "{key}[0]"')
        return system_of(row) + messages

    return read


def listed(
    items: object,
    key: str,
    roles: Mapping[str, str] = ROLES,
    from_key: str | None = None,
    value_key: str | None = None,
) -> list[Message]:
    """The messages in a list of turns, or in lists side by side, as some tables hold them."""
    if isinstance(items, dict) and items and all(isinstance(value, list) for value in items.values()):
        sides = list(items.values())
        if len({len(side) for side in sides}) == 1:
            items = [dict(zip(items, values, strict=True)) for values in zip(*sides, strict=True)]
    if not isinstance(items, list | tuple):
        raise field_error(key, f"is {kind_of(items)}, not a list")
    if not items:
        raise field_error(key, "is empty")
    return [m for i, item in enumerate(items) for m in _turn(item, f"{key}[{i}]", roles, from_key, value_key)]


def _turn(
    item: object, name: str, roles: Mapping[str, str], from_key: str | None, value_key: str | None
) -> list[Message]:
    """One item as messages: {role, content}, {from, value}, or {human, assistant}, which is two."""
    if not isinstance(item, dict):
        raise field_error(name, f"is {kind_of(item)}, not an object")
    if from_key is None and "human" in item and "assistant" in item:
        answer = answer_of(text_of(item, "assistant", f"{name}.assistant"), f"{name}.assistant")
        return [said("user", text_of(item, "human", f"{name}.human")), said("assistant", answer)]
    role_key = from_key or ("from" if "from" in item else "role")
    if role_key not in item:
        raise field_error(f"{name}.{role_key}", f"is missing; the keys are {', '.join(map(str, item))}", fix=OWN_NAMES)
    word = text_of(item, role_key, f"{name}.{role_key}")
    role = _role(word, f"{name}.{role_key}", roles)
    more = {carried: item[carried] for carried in CARRIED if item.get(carried) not in (None, [])}
    if item.get("weight") is not None:
        more.setdefault("loss", item["weight"])
    if item.get("function_call"):
        more.setdefault("tool_calls", [item["function_call"]])
    key = value_key or ("value" if "value" in item else "content")
    if more.get("tool_calls") and not item.get(key):
        return [Message(role=role, content="", **more)]
    content = _content(item, key, f"{name}.{key}")
    if word.strip().lower() in CALLS and (calls := _calls(content)):
        return [Message(role=role, content="", **{**more, "tool_calls": calls})]
    return [Message(role=role, content=answer_of(content, f"{name}.{key}") if role == "assistant" else content, **more)]


def _calls(content: str) -> list[Any] | None:
    """The calls that a turn of its own holds as JSON; None when it is text."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    calls = found if isinstance(found, list) else [found]
    return calls if calls and all(isinstance(call, dict) and "name" in call for call in calls) else None


def _content(item: dict[str, Any], key: str, name: str) -> str:
    """The text of a message; a list of `{"type": "text"}` parts is joined."""
    parts = item.get(key)
    if not isinstance(parts, list) or not parts:
        return text_of(item, key, name)
    texts = []
    for i, part in enumerate(parts):
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else kind_of(part)
            raise field_error(f"{name}[{i}]", f"is of type {kind!r}; only text is read")
        texts.append(text_of(part, "text", f"{name}[{i}].text"))
    return "".join(texts)


def check_order(messages: Sequence[Message], key: str) -> None:
    """Refuse an order of roles in which nobody talks.

    Raises:
        DataError: naming the first message that is out of turn.
    """
    before = "the start"
    for i, message in enumerate(messages):
        role = message["role"]
        if role not in MAY_FOLLOW[before] and not (i == 0 and role == "system"):
            next_ones = " or ".join(MAY_FOLLOW[before])
            raise field_error(f"{key}[{i}]", f"is of role {role} after {before}, where {next_ones} comes")
        before = role
    talk = [m["role"] for m in messages if m["role"] != "system"]
    if not talk:
        raise field_error(key, "has no user message")
    if talk[0] == "assistant" and len(talk) > 1:
        raise field_error(key, "starts with the assistant, before anyone asked")
