"""Our docstrings as Markdown, for the tuners' pages and, as an extension of griffe, for the reference."""

from __future__ import annotations

import re
import textwrap

LABEL = re.compile(
    r"^(Paper|Shapes|Saved|Cost|Memory[^:\n]*|Networks|Positions|Not as in the paper|Deviations?|Our start differs):",
    re.M,
)
SECTION = re.compile(r"^(?=(?:Args|Attributes|Returns|Yields|Raises):\s*$)", re.M)
ADDRESS = re.compile(r"(?<![<(\"'])(https?://[^\s,;)>]+[^\s,;:.)>])")
WIDTH = 118


def markdown(text: str) -> list[str]:
    """The lines of a docstring: labelled ones as a list, indented parts as blocks, addresses as links."""
    lines: list[str] = []
    for part in re.split(r"\n\s*\n", LABEL.sub(r"\n\n- **\1:**", text).strip("\n")):
        if part.startswith("    "):
            lines += ["```text", *textwrap.dedent(part).splitlines(), "```", ""]
            continue
        linked = ADDRESS.sub(r"<\1>", part.strip("\n")).replace("::", ":")
        if not linked.startswith("- **"):
            lines += [*linked.splitlines(), ""]
            continue
        if len(lines) > 1 and lines[-2].startswith(("- ", "  ")):
            lines.pop()
        lines += [*textwrap.wrap(" ".join(linked.split()), WIDTH, subsequent_indent="  ", break_on_hyphens=False), ""]
    return lines[:-1]


def split(docstring: str) -> tuple[str, str]:
    """What a docstring says, and its sections."""
    head, *rest = SECTION.split(docstring, maxsplit=1)
    return head, "".join(rest)
