"""A row, in either of its two shapes, as a checked list of messages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.errors import DataError

Message = dict[str, Any]
Tool = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool")
PLAIN = {"role", "content"}
LARGEST_WEIGHT = 1e6


@dataclass(frozen=True, slots=True)
class Talk:
    """The messages of a row, and the tools that it offers, as `{"type": "function", "function": {...}}`."""

    messages: list[Message]
    tools: list[Tool]

    @property
    def uses_tools(self) -> bool:
        """Whether tools are offered or called."""
        return bool(self.tools) or any(message.get("tool_calls") for message in self.messages)


def read_talk(row: Mapping[str, Any]) -> Talk:
    """The messages and tools of a row, checked.

    Raises:
        DataError: as `read_messages`, or the tools are none.
    """
    return Talk(read_messages(row), read_tools(row.get("tools")))


def read_tools(said: Any) -> list[Tool]:
    """Tools from a list or its JSON; a function without its envelope gets it.

    Raises:
        DataError: it is no list of functions with names.
    """
    found = _json(said, "tools") if isinstance(said, str) and said.strip() else said
    if not found:
        return []
    tools: list[Tool] = []
    for k, item in enumerate([found] if isinstance(found, Mapping) else found if isinstance(found, list) else [None]):
        tool = _json(item, f"tools[{k}]") if isinstance(item, str) else item
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if (
            not isinstance(tool, Mapping)
            or not isinstance(function, Mapping)
            or not isinstance(function.get("name"), str)
        ):
            raise DataError(
                "DATA-03",
                f'tools[{k}] is not a function with a "name"',
                fix='[{"type": "function", "function": {"name": "...", "description": "...", "parameters": {...}}}]',
            )
        tools.append(dict(tool) if "function" in tool else {"type": "function", "function": dict(function)})
    return tools


def read_messages(row: Mapping[str, Any]) -> list[Message]:
    """The messages of `{messages}` or `{query, response, history, system}`.

    A round without a question keeps its reply alone. No system message means that the row says nothing about it.

    Raises:
        DataError: a message has no known role, a content that is not text, or a system message is not the first.
    """
    said = row.get("messages")
    messages = _from_rounds(row) if said is None else said
    if not isinstance(messages, Sequence) or not messages:
        raise DataError("DATA-03", "the conversation is empty")
    for k, message in enumerate(messages):
        problem = _problem(k, message)
        if problem:
            raise DataError("DATA-03", f"messages[{k}] {problem}")
    return [_tidied(k, message) if message.keys() > PLAIN else message for k, message in enumerate(messages)]


def _tidied(k: int, message: Mapping[str, Any]) -> Message:
    """A message that says more than who says what: its calls in one shape, without keys that say nothing."""
    tidied = {key: value for key, value in message.items() if value is not None}
    tidied["content"] = message.get("content") or ""
    if message.get("tool_calls"):
        tidied["tool_calls"] = [_call(f"messages[{k}].tool_calls[{n}]", c) for n, c in enumerate(message["tool_calls"])]
    else:
        tidied.pop("tool_calls", None)
    return tidied


def _call(name: str, said: Any) -> Tool:
    """A call as `{"function": {"name", "arguments"}}`; arguments in JSON become what they say."""
    function = said.get("function", said) if isinstance(said, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise DataError("DATA-03", f'{name} is not a call of a function with a "name"')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            read = json.loads(arguments)
        except (ValueError, RecursionError):
            read = arguments
        arguments = read if isinstance(read, dict) else arguments
    if not _is_unicode(json.dumps(arguments, ensure_ascii=False)):
        raise DataError("DATA-03", f"{name} has half a surrogate pair, which is no character")
    envelope = said if "function" in said else {}
    return {"type": "function", **envelope, "function": {"name": function["name"], "arguments": arguments}}


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DataError("DATA-03", f'"{name}" is text that is not JSON') from None


def split_system(messages: list[Message]) -> tuple[str | None, list[Message]]:
    """The system text, None when there is no system message, and the other messages."""
    if messages[0]["role"] == "system":
        return messages[0]["content"], messages[1:]
    return None, messages


def _from_rounds(row: Mapping[str, Any]) -> list[Message]:
    query, response, system = row.get("query") or "", row.get("response"), row.get("system")
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for asked, replied in row.get("history") or ():
        messages += _round(asked or "", replied)
    if response is None:
        return [*messages, {"role": "user", "content": query}]
    return messages + _round(query, response) or [{"role": "user", "content": ""}]


def _round(query: str, response: Any) -> list[Message]:
    if query == "" == response:
        return []
    asked = [{"role": "user", "content": query}] if query else []
    return [*asked, {"role": "assistant", "content": response}]


def _problem(k: int, message: Any) -> str | None:
    """What is wrong with message `k`; None when nothing is."""
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        return f"has no role out of {', '.join(ROLES)}"
    content, calls = message.get("content"), message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        return "has tool calls that are no list"
    if calls and message["role"] != "assistant":
        return f"has tool calls, and is from the {message['role']}"
    if not isinstance(content, str) and not (content is None and calls):
        return "has no text as its content"
    if content and not _is_unicode(content):
        return "has half a surrogate pair, which is no character"
    if message["role"] == "system" and k:
        return "is a system message, which can only come first"
    return next(_loss_problems(message), None)


def _loss_problems(message: Mapping[str, Any]) -> Iterator[str]:
    loss = message.get("loss")
    if loss is None:
        return
    if not isinstance(loss, int | float) or not 0 <= loss <= LARGEST_WEIGHT:
        yield f'has {loss!r} as its "loss", which is true, false or a number from 0 on'
    elif loss and message["role"] != "assistant":
        yield f'is to be learnt ("loss"), and is from the {message["role"]}; --loss_scale all learns everything'


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
