"""Answers that must call a tool: the template's own words for a call, around arguments that fit what the tool takes.

How a template writes calls is read off a call that it wrote, so a model's own chat template needs no row for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from swift.errors import DataError, UsageError
from swift.inference.constraint import ANY_OBJECT, SPACING, GrammarConstraint
from swift.templates.calls import read_calls
from swift.templates.check import stretches
from swift.templates.encoding import Template
from swift.templates.tokens import any_of, special_texts

FIRST, SECOND = "first_probe", "second_probe"  # names of tools that nobody has
ARGUMENTS = re.compile(r"\{\s*\"probed\":\s*1\s*\}")


@dataclass(frozen=True)
class Wording:
    """What stands around calls: `before` the first, between a `name` and its arguments, `between` two, `after` all.

    `between` is None where a template writes one call at a time.
    """

    before: str
    name: str
    between: str | None
    after: str


def find_wording(template: Template) -> Wording:
    """How the template writes calls.

    Raises:
        UsageError: it writes none that can be read back, or not the name before the arguments.
    """
    one = _wrote(template, [FIRST])
    places = _places(one or "", [FIRST])
    if not one or not places or not read_calls(one, template.tools_name, [FIRST])[1]:
        raise UsageError(
            "USAGE-02", f"template {template.name} writes no calls of tools that can be told", fix='tool_choice "auto"'
        )
    (name, arguments), between = places[0], None
    two = _wrote(template, [FIRST, SECOND])
    found = _places(two or "", [FIRST, SECOND])
    if two and found and len(read_calls(two, template.tools_name, [FIRST, SECOND])[1]) == 2:
        between = two[found[0][1][1] : found[1][0][0]]
    return Wording(one[: name[0]], one[name[1] : arguments[0]], between, one[arguments[1] :])


class CallConstraint(GrammarConstraint):
    """An answer that calls tools, with arguments that fit what they take.

    Args:
        tokenizer: of the model.
        stop_ids: tokens that may come behind the last call.
        wording: how calls are written.
        tools: what may be called, as `read_tools` gives them; the names are all different.
        several: more than one call may be made, where the wording has words for that.

    Raises:
        MissingPackageError: llguidance is not installed.
        UsageError: a schema of parameters has what cannot be held to.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        wording: Wording,
        tools: Sequence[Mapping[str, Any]],
        several: bool = False,
    ) -> None:
        super().__init__(tokenizer, stop_ids, grammar(tokenizer, wording, tools, several), "what the tools take")


def grammar(
    tokenizer: PreTrainedTokenizerBase, wording: Wording, tools: Sequence[Mapping[str, Any]], several: bool
) -> str:
    """The grammar of an answer that calls tools (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md)."""
    special = special_texts(tokenizer)

    def spelt(*texts: str) -> str:
        """Literal texts, those of special tokens as tokens: no bytes make them."""
        found, pieces = any_of(special), []
        for text in filter(None, texts):
            cut = re.split(f"({found.pattern})", text) if found else [text]
            pieces += [
                f"<[{tokenizer.convert_tokens_to_ids(piece)}]>" if piece in special else json.dumps(piece)
                for piece in cut
                if piece
            ]
        return " ".join(pieces)

    calls = [f"call_{k}" for k in range(len(tools))]
    more = f" ({spelt(wording.between)} call)*" if several and wording.between else ""
    lines = [f"start: {spelt(wording.before)} call{more} {spelt(wording.after)}", f"call: {' | '.join(calls)}"]
    for k, tool in enumerate(tools):
        function = tool["function"]
        schema = {**(function.get("parameters") or ANY_OBJECT), **SPACING}
        lines += [f"call_{k}: {spelt(function['name'], wording.name)} arguments_{k}"]
        lines += [f"arguments_{k}: %json {json.dumps(schema)}"]
    return "\n".join(lines) + "\n"


def _wrote(template: Template, names: Sequence[str]) -> str | None:
    """An answer that calls tools of these names, as the template writes it; None when it cannot."""
    calls = [{"type": "function", "function": {"name": name, "arguments": {"probed": 1}}} for name in names]
    tools = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in names]
    asked = {"role": "user", "content": "?"}
    said = {"role": "assistant", "content": "", "tool_calls": calls}
    try:
        labels = template.encode({"messages": [asked, said], "tools": tools})[0].get("labels") or []
    except DataError:
        return None
    spans = list(stretches(labels))
    text = template.generate_ids_to_response(spans[-1]) if spans else ""
    return text.removesuffix(template.pause).rstrip() if template.pause else text


def _places(text: str, names: Sequence[str]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where each name and the arguments behind it stand, in order; [] when they do not stand so."""
    found, at = [], 0
    for name in names:
        start = text.find(name, at)
        arguments = ARGUMENTS.search(text, start) if start >= 0 else None
        if arguments is None:
            return []
        found.append(((start, start + len(name)), arguments.span()))
        at = arguments.end()
    return found
