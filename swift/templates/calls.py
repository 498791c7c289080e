"""Calls of tools in what a model wrote: the other direction of `tools`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any

from swift.templates.tools import Call

TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
ACTION = re.compile(
    r"Action:[ \t]*([^\n]+)\n+Action Input:[ \t]*(.*?)(?=\n+(?:Observation:|Action:|Thought:)|\Z)", re.DOTALL
)
Found = tuple[str, list[Call]]


def read_calls(text: str, style: str | None, names: Collection[str]) -> Found:
    """What an answer says beside its calls, and the calls of tools of these `names`; all of it and none without.

    Args:
        text: the answer.
        style: the name of a format of `tools.FORMATS`; None tries each.
        names: what may be called; another name is no call.
    """
    readers = [READERS[style]] if style is not None else list(dict.fromkeys(READERS.values()))
    for read in readers:
        said, calls = read(text)
        if calls and all(call.name in names for call in calls):
            return said.strip(), calls
    return text, []


def _tagged(text: str) -> Found:
    found = [_call(inner) for inner in TAGGED.findall(text)]
    return TAGGED.sub("", text), [call for call in found if call] if all(found) else []


def _action(text: str) -> Found:
    calls = [Call(name.strip(), _arguments(inner)) for name, inner in ACTION.findall(text)]
    return text[: text.find("Action:")] if calls else text, calls


def _object(text: str) -> Found:
    call = _call(text.strip().removeprefix("<|python_tag|>"))
    return "", [call] if call else []


def _name_and_object(text: str) -> Found:
    name, _, rest = text.strip().partition("\n")
    try:
        value = json.loads(rest)
    except ValueError:
        return text, []
    return "", [Call(name.strip(), value)] if isinstance(value, dict) else []


def _call(text: str) -> Call | None:
    """`{"name": ..., "arguments" or "parameters": ...}`."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    return Call(value["name"], value.get("arguments", value.get("parameters", {})))


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


READERS: dict[str, Callable[[str], Found]] = {
    "hermes": _tagged,
    "llama3": _object,
    "glm4": _name_and_object,
    "react_en": _action,
    "react_zh": _action,
    "toolbench": _action,
}
