"""A row, in either of its two shapes, as a checked list of messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from swift.errors import DataError

Message = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool")


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
    return list(messages)


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
    if not isinstance(message.get("content"), str):
        return "has no text as its content"
    if not _is_unicode(message["content"]):
        return "has half a surrogate pair, which is no character"
    if message["role"] == "system" and k:
        return "is a system message, which can only come first"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
