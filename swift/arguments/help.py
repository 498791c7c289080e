"""The text of `--help`, written from the options' fields: the same on a terminal and in a pipe, without colour."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from typing import Any

from swift.arguments.fields import OptionInfo, options_of

WIDTH = 100
NARROWEST, WIDEST = 40, 160
GLUE, LONGEST_GLUED = "\xa0", 26  # short facts stay on one line
LAST = ("Plug-ins",)
GENERAL = (
    ("--config FILE", "Read options from a YAML or JSON file; what is typed here wins. May also be the first word."),
    ("--debug", "Show the traceback of an error."),
    ("--help", "Show this text."),
)
HOW = (
    "An option that takes several values (`...`) is given them in a row or is given again; a flag without a value is "
    "true; `-` and `_` in names are the same; `None` is a value nobody said."
)


def width() -> int:
    """Columns to wrap at: COLUMNS, else the terminal's, else 100."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        found = int(columns)
    else:
        try:
            found = os.get_terminal_size(1).columns or WIDTH
        except OSError:
            found = WIDTH
    return max(NARROWEST, min(found, WIDEST))


def command_help(
    name: str, cls: type, about: str, word: str | None = None, words: str | None = None, rest: str | None = None
) -> str:
    """The help of one command: what it does, then its options by topic.

    Three options need no name: `word` comes right after the command, `words` after that, `rest` after `--`.
    """
    groups = grouped(cls)
    usage = f"{values(options_of(cls)[word])}" if word else "[run.yaml] [--option value ...]"
    usage += f" [{words.upper()}] [--option value ...]" if words else ""
    usage += f" -- {rest.upper()} ..." if rest else ""
    lines = [*_wrap(about), "", f"usage: swift {name} {usage}"]
    lines += [] if word else ["", *_wrap(HOW)]
    for group, infos in groups.items():
        lines += ["", group]
        for info in infos:
            lines += _entry(f"--{info.name} {values(info)}", f"{info.help} {_facts(info)}")
    lines += ["", "General"]
    for head, text in GENERAL:
        lines += _entry(head, text)
    return "\n".join(lines)


def overview(commands: Mapping[str, str], version: str) -> str:
    """The help of `swift` itself: its commands, one line each, and how to begin."""
    lines = [
        *_wrap(f"swift {version}: fine-tune large language models, talk to them, merge what they learnt."),
        "",
        "usage: swift COMMAND [run.yaml] [--option value ...]",
        "",
        "Commands",
    ]
    for name, about in commands.items():
        lines += _entry(name, about, column=16)
    lines += ["", "General"]
    lines += _entry("COMMAND --help", "Show the options of a command.", column=18)
    lines += _entry("--version", "Show the version.", column=18)
    lines += [
        "",
        "From data to a merged model",
        "  swift sft --model_id_or_path <model> --dataset train.jsonl",
        "  swift infer --ckpt_dir output/<model>/<run>/checkpoint-<step>",
        "  swift export --ckpt_dir output/<model>/<run>/checkpoint-<step> --merge_lora true",
    ]
    return "\n".join(lines)


def first_line(cls: type) -> str:
    """What an arguments class says it is for."""
    return (cls.__doc__ or "").strip().splitlines()[0]


def grouped(cls: type) -> dict[str, list[OptionInfo]]:
    """The options by topic, in the order the topics first come, plug-ins last."""
    groups: dict[str, list[OptionInfo]] = {}
    for info in options_of(cls).values():
        groups.setdefault(info.group, []).append(info)
    for group in LAST:
        if group in groups:
            groups[group] = groups.pop(group)
    return groups


def _entry(head: str, text: str, column: int | None = None) -> list[str]:
    """A head at the left and its text in a column beside it, or below it when the head is too long."""
    column = min(column or 34, width() // 3)
    body = _wrap(text, width() - column)
    first = f"  {head}"
    if len(first) > column - 2:
        return [first, *(" " * column + line for line in body)]
    return [first.ljust(column) + body[0], *(" " * column + line for line in body[1:])]


def _wrap(text: str, columns: int | None = None) -> list[str]:
    lines = textwrap.wrap(text, columns or width(), break_long_words=False, break_on_hyphens=False)
    return [line.replace(GLUE, " ") for line in lines]


def values(info: OptionInfo) -> str:
    """What to type after the name."""
    if info.choices:
        shown = "|".join(str(choice) for choice in info.choices)
    else:
        shown = {str: "TEXT", int: "INT", float: "NUMBER", bool: "true|false", dict: "JSON"}[info.kind]
    return f"{shown} ..." if info.is_list else shown


def default_of(info: OptionInfo) -> str:
    """The default, and what it means when it is None."""
    return "None, " + info.none if info.default is None and info.none else _shown(info.default)


def _facts(info: OptionInfo) -> str:
    unit = f"{info.unit}; " if info.unit else ""
    facts = f"[{unit}default: {default_of(info)}]"
    return facts.replace(" ", GLUE) if len(facts) <= LONGEST_GLUED else facts


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, dict)):
        return " ".join(str(item) for item in value) or "empty"
    return f"{value:g}" if isinstance(value, float) else str(value) or "empty"
