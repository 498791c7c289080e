"""A command's options as a form: what each is entered with, and what was entered as words of a command line.

The words are read by the command line's own reader, so that a form can say nothing else than a command line can.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from swift.arguments.fields import OptionInfo, options_of
from swift.arguments.help import default_of, grouped
from swift.arguments.reading import parse
from swift.arguments.values import MAY_BE_EMPTY
from swift.commands.names import ONLY_THESE, known_names
from swift.errors import SeveralErrors, SwiftError, UsageError, raise_all
from swift.studio.workspace import Workspace

NOTHING = '""'
"""What is typed for a text that is empty, where that means something else than no text."""
HIDDEN_GROUPS = ("Plug-ins", "Server")
HIDDEN = {
    "trust_remote_code": "it runs the model's own Python files",
    "custom_dataset_info": "it names files of its own",
    "custom_eval_config": "it names files of its own",
    "output_dir": "runs are written into the workspace",
    "add_output_dir_suffix": "the studio names the directory",
    "logging_dir": "runs are written into the workspace",
    "quant_output_dir": "runs are written into the workspace",
    "result_dir": "runs are written into the workspace",
    "eval_output_dir": "runs are written into the workspace",
    "hub_token": "it would be written down; export HF_TOKEN or MODELSCOPE_API_TOKEN before `swift web-ui`",
    "dry_run": "it has a button",
    "resume_from_checkpoint": "it has a button",
    "disable_tqdm": "there is no bar in a log",
    "check_model_is_latest": "it has no effect on what is trained",
}
"""Options that no form has, and why."""
FREE_TEXT = ("system", "model_name", "model_author", "prompt_init_text", "query")
"""Options whose text is never taken for a path."""
CODE = {"reward_funcs": (".py",), **dict.fromkeys(("eval_dataset", "dataset", "val_dataset"), (".yaml", ".yml"))}
"""By option, the endings of files that can name functions of Python to be run."""
ENVIRONMENT = {"NPROC_PER_NODE": re.compile(r"[1-9]\d?"), "CUDA_VISIBLE_DEVICES": re.compile(r"\d+(,\d+)*")}
"""The variables a form may set, and what they may be."""
Widget = Literal["switch", "choice", "choices", "text"]
Entered = Mapping[str, Any]
"""What a form's widgets hold, by option: true or false of a switch, a list of `choices`, else a text."""


@dataclass(frozen=True)
class Field:
    """One option of a form."""

    info: OptionInfo

    @property
    def name(self) -> str:
        """The option's name."""
        return self.info.name

    @property
    def widget(self) -> Widget:
        """What it is entered with: a switch, one of several, any number of them, or a text."""
        info = self.info
        if info.is_list:
            return "choices"
        if info.kind is bool and not info.optional:
            return "switch"
        return "choice" if info.choices or info.kind is bool or info.name in known_names() else "text"

    @property
    def choices(self) -> list[str]:
        """What can be chosen; an empty text is the default None."""
        info = self.info
        if info.kind is bool:
            named = ["true", "false"]
        else:
            named = [str(choice) for choice in info.choices or known_names().get(info.name, [])]
        return ["", *named] if info.optional and not info.is_list else named

    @property
    def free(self) -> bool:
        """Whether other values than the `choices` may be entered."""
        return not self.info.choices and self.info.kind is not bool and self.info.name not in ONLY_THESE

    @property
    def default(self) -> Any:
        """What the widget holds at first."""
        return self.show(self.info.default)

    @property
    def hint(self) -> str:
        """The option's sentence, its unit and default."""
        unit = f"{self.info.unit}; " if self.info.unit else ""
        return f"{self.info.help} [{unit}default: {default_of(self.info)}]"

    def show(self, value: Any) -> Any:
        """What the widget holds for a value of the option."""
        if self.widget == "switch":
            return bool(value)
        if self.widget == "choices":
            return [_text(item) for item in value or []]
        if value is None:
            return ""
        if isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False) if value else ""
        return NOTHING if value == "" else _text(value)

    def words(self, entered: Any) -> list[str]:
        """The words that say what the widget holds; none for the default."""
        if self.widget == "switch":
            return [] if entered is None or bool(entered) == self.info.default else _said(self.name, bool(entered))
        if self.widget == "choices":
            items = [str(item) for item in entered or [] if str(item).strip()]
            return [] if not items or items == self.default else _said_all(self.name, items)
        text = "" if entered is None else str(entered)
        if text.strip() == (str(self.default) if self.default is not None else ""):
            return []
        if not text.strip():
            return [f"--{self.name}", "None"] if self.info.optional and self.info.default is not None else []
        empty = text.strip() == NOTHING and self.name in MAY_BE_EMPTY
        return _said(self.name, "" if empty else text if self.name in FREE_TEXT else text.strip())


def _text(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value)


def _said(name: str, value: Any) -> list[str]:
    """An option and its value as two words; as one where the value looks like an option itself, or is empty."""
    text = _text(value)
    return [f"--{name}={text}"] if text.startswith("-") or not text else [f"--{name}", text]


def _said_all(name: str, items: list[str]) -> list[str]:
    if any(item.startswith("-") for item in items):
        return [f"--{name}={item}" for item in items]
    return [f"--{name}", *items]


@dataclass(frozen=True)
class Form:
    """The options of a command that may be entered.

    Args:
        command: its name.
        arguments: its arguments class.
        needs: groups of options, of each of which one must be said.
        basic: options that come first, by the heading they stand under.
        without: options it does not have because a page says them in another way.
    """

    command: str
    arguments: type
    needs: tuple[tuple[str, ...], ...]
    basic: Mapping[str, tuple[str, ...]]
    without: tuple[str, ...] = ()

    @cached_property
    def fields(self) -> dict[str, Field]:
        """Every option that may be entered, by name."""
        return {
            name: Field(info)
            for name, info in options_of(self.arguments).items()
            if info.group not in HIDDEN_GROUPS and name not in HIDDEN and name not in self.without
        }

    @cached_property
    def groups(self) -> dict[str, list[Field]]:
        """The options that are not basic, by topic."""
        basic = set(self.basic_names)
        found = {
            group: [self.fields[info.name] for info in infos if info.name in self.fields and info.name not in basic]
            for group, infos in grouped(self.arguments).items()
        }
        return {group: fields for group, fields in found.items() if fields}

    @property
    def basic_names(self) -> list[str]:
        """The options that come first."""
        return [name for names in self.basic.values() for name in names]

    @property
    def order(self) -> list[Field]:
        """All options in the order of the page."""
        first = [self.fields[name] for name in self.basic_names]
        return [*first, *(field for fields in self.groups.values() for field in fields)]

    def words(self, entered: Entered) -> list[str]:
        """What was entered as words of a command line, the defaults left out."""
        return [word for field in self.order for word in field.words(entered.get(field.name, field.default))]

    def show(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What all widgets hold for these values of options; the defaults for the others."""
        return {f.name: f.show(values[f.name]) if f.name in values else f.default for f in self.order}

    def check(self, entered: Entered, workspace: Workspace) -> list[str]:
        """The words, once they are known to be such that the command takes them, and to stay in the workspace.

        Raises:
            SwiftError: they are not; all that is wrong at once.
        """
        words = self.words(entered)
        self.check_paths(entered, workspace)
        args = parse(self.arguments, words, quiet=True)
        missing = [" or --".join(names) for names in self.needs if not any(getattr(args, name) for name in names)]
        raise_all([UsageError("USAGE-03", f"--{names} is missing") for names in missing])
        return words

    def check_paths(self, entered: Entered, workspace: Workspace) -> None:
        """Raise SwiftError for every value that leads out of the workspace."""
        raise_all([error for field in self.order for error in _outside(field, entered, workspace)])


def _outside(field: Field, entered: Entered, workspace: Workspace) -> list[SwiftError]:
    value = entered.get(field.name, field.default)
    if field.info.kind is not str or field.info.choices or not field.words(value):
        return []
    texts = [str(item) for item in value] if field.widget == "choices" else [str(value)]
    if field.name in FREE_TEXT:
        return [UsageError("USAGE-02", f"--{field.name} holds a null character") for text in texts if "\0" in text]
    ends = CODE.get(field.name, ())
    code = [t for t in texts if any(part.strip().lower().endswith(ends) for part in (t, t.rpartition(":")[0]))]
    fix = "use it in a terminal"
    errors: list[SwiftError] = [
        UsageError("USAGE-02", f"--{field.name} {text!r} can name Python to be run", fix=fix) for text in code
    ]
    return [*errors, *(error for text in texts for error in workspace.check(field.name, text))]


def read_environment(entered: Mapping[str, str | None]) -> dict[str, str]:
    """The variables that were entered.

    Raises:
        UsageError: one that no form may set, or with another value than it may have.
    """
    said = {name: str(text).strip() for name, text in entered.items() if text is not None and str(text).strip()}
    wrong = [name for name, text in said.items() if name not in ENVIRONMENT or not ENVIRONMENT[name].fullmatch(text)]
    raise_all([UsageError("USAGE-02", f"{name}={said[name]!r} cannot be", fix="digits") for name in wrong])
    return said


def as_typed(command: str, words: Iterable[str], environment: Mapping[str, str] | None = None) -> str:
    """The command as one types it into a terminal; it is shown, never run."""
    said = [f"{name}={shlex.quote(text)}" for name, text in (environment or {}).items()]
    lines = [" ".join([*said, "swift", command])]
    for word in words:
        if word.startswith("--"):
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n    ".join(lines)


def as_yaml(form: Form, words: list[str]) -> str:
    """The same as a file for `swift <command> run.yaml`."""
    import yaml

    args = parse(form.arguments, words, quiet=True)
    said = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
    values = {name: getattr(args, name) for name in form.fields if name in said}
    return yaml.safe_dump(values, allow_unicode=True, sort_keys=False, default_flow_style=False, width=110)


def plainly(error: SwiftError) -> str:
    """An error as a page shows it: every mistake with how to mend it, without what only a terminal needs."""
    errors = error.errors if isinstance(error, SeveralErrors) else [error]
    return "\n".join(f"{one.what}{f' → {one.fix}' if one.fix else ''}" for one in errors)
