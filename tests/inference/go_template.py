"""Go's text templates, as far as Ollama's Modelfiles of ours use them: if, else, range, eq, and, len, slice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
WORD = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[()]|\$?[\w.]+|\$|,|:=)')
FUNCTIONS = {
    "eq": lambda one, other: one == other,
    "and": lambda *several: next((one for one in several if not one), several[-1]),
    "len": len,
    "slice": lambda some, start: some[start:],
}
Node = tuple[str, Any, Any, Any]


def render(source: str, **data: Any) -> str:
    """What the template writes for `.System`, `.Messages` and so on."""
    pieces = ACTION.split(source)
    steps = iter(
        [("text" if k % 2 == 0 else "action", piece.strip() if k % 2 else piece) for k, piece in enumerate(pieces)]
    )
    nodes, end = _parse(steps)
    assert end == ""
    return _write(nodes, data, {"$": data})


def _parse(steps: Iterator[tuple[str, str]]) -> tuple[list[Node], str]:
    """The nodes up to `end`, `else …` or the end of all, and which of these it was."""
    nodes: list[Node] = []
    for kind, text in steps:
        if kind == "text":
            nodes.append(("text", text, None, None))
        elif text == "end" or text.startswith("else"):
            return nodes, text
        elif text.startswith("if "):
            nodes.append(_branch(text[3:], steps))
        elif text.startswith("range "):
            names, _, over = text[6:].partition(" := ")
            body, _ = _parse(steps)
            nodes.append(("range", over, body, names.split(", ")))
        else:
            nodes.append(("value", text, None, None))
    return nodes, ""


def _branch(condition: str, steps: Iterator[tuple[str, str]]) -> Node:
    body, end = _parse(steps)
    if end.startswith("else if "):
        return "if", condition, body, [_branch(end[8:], steps)]
    return "if", condition, body, _parse(steps)[0] if end == "else" else []


def _write(nodes: list[Node], dot: Any, names: dict[str, Any]) -> str:
    written = []
    for kind, one, two, three in nodes:
        if kind == "text":
            written.append(one)
        elif kind == "value":
            written.append(str(_value(one, dot, names)))
        elif kind == "if":
            written.append(_write(two if _value(one, dot, names) else three, dot, names))
        else:
            for index, item in enumerate(_value(one, dot, names)):
                written.append(_write(two, item, {**names, three[0]: index, three[1]: item}))
    return "".join(written)


def _value(text: str, dot: Any, names: dict[str, Any]) -> Any:
    words = WORD.findall(text)
    assert "".join(words) == re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", text), text
    value = _call(words, dot, names)
    assert not words, text
    return value


def _call(words: list[str], dot: Any, names: dict[str, Any]) -> Any:
    """A function with all arguments up to the closing bracket, or one operand."""
    if words[0] not in FUNCTIONS:
        return _operand(words, dot, names)
    function, given = FUNCTIONS[words.pop(0)], []
    while words and words[0] != ")":
        given.append(_operand(words, dot, names))
    return function(*given)


def _operand(words: list[str], dot: Any, names: dict[str, Any]) -> Any:
    word = words.pop(0)
    if word == "(":
        value = _call(words, dot, names)
        assert words.pop(0) == ")"
        return value
    if word.startswith('"'):
        return word[1:-1]
    if word.isdigit():
        return int(word)
    name, _, path = word.partition(".")
    assert name not in FUNCTIONS, f"{name} is called without arguments"
    value = names[name] if name else dot
    for part in filter(None, path.split(".")):
        value = value[part]
    return value
