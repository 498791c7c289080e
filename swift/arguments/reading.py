"""Words of a command line, and the files they name, to an arguments instance.

`--name value`, `--name=value`, `--list a b` or the same option again, `--flag`, `--flag false`, `-` as good as `_`,
`--config run.yaml` or such a file as the first word; the command line wins over files. Every problem is gathered
before anything is said.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from swift.arguments.aliases import ABSENT, ALIASES, SAMPLES, VALUES, current_name
from swift.arguments.fields import OptionInfo, options_of
from swift.arguments.files import read_config
from swift.arguments.values import Said, convert
from swift.errors import SwiftError, UnknownNameError, UsageError, raise_all
from swift.log import get_logger

A = TypeVar("A")

OPTION = re.compile(r"--([A-Za-z][\w-]*)(?:(=)(.*))?", re.DOTALL)
SHORT = re.compile(r"-[A-Za-z][\w-]*(=.*)?", re.DOTALL)  # `-lora_rank`: a slip, or another program's option
CONFIG = re.compile(r".+\.(json|ya?ml)", re.IGNORECASE)


def read_arguments(cls: type[A], said: Any = None, **options: Any) -> A:
    """An instance of `cls` from what a Python caller gives.

    Args:
        cls: an arguments class.
        said: such an instance (one of another arguments class lends the options they share), a list of command-line
            words, or None for those of this process.
        options: single options by name, over `said`.

    Raises:
        UsageError: an option is unknown or its value does not fit.
    """
    if said is None and options:
        said = []
    if said is None or isinstance(said, (list, tuple)):
        args = parse(cls, sys.argv[1:] if said is None else [str(word) for word in said])
    elif isinstance(said, cls):
        args = said
    else:
        shared = options_of(cls).keys() & options_of(type(said)).keys()
        args = cls(**{name: getattr(said, name) for name in shared})
    unknown = [_unknown(Said(name, None, "", name), options_of(cls)) for name in options if name not in options_of(cls)]
    raise_all(unknown)
    return replace(args, **options) if options else args  # type: ignore[type-var]


def parse(cls: type[A], argv: Sequence[str], *, quiet: bool = False, **defaults: Any) -> A:
    """An instance of `cls` from command-line words.

    Args:
        cls: an arguments class.
        argv: the words after the command.
        quiet: leave out the notes about old names, for a process whose workers will say them.
        defaults: values for options that nobody says, instead of their own.

    Raises:
        UsageError: options or words that are not known, values of the wrong type or out of range; all at once.
        ConfigError: a file that cannot be read.
    """
    known = options_of(cls)
    notes: list[str] = []
    errors: list[SwiftError] = []
    configs, typed = split_words(argv, known, errors)
    samples: list[Said] = []
    values = dict(defaults)
    for source in (*map(_said_in, configs), typed):
        values |= _values(source, known, samples, notes, errors)
    for said in samples:
        _sample(said, values, notes, errors)
    if values.get("ignore_args_error"):
        notes += [f"ignored: {error.what}" for error in errors if error.code == "USAGE-01"]
        errors = [error for error in errors if error.code != "USAGE-01"]
    if not quiet:
        for note in dict.fromkeys(notes):
            get_logger().info(note)
    raise_all(errors)
    return cls(**values)


def command_words(said: Any, options: Mapping[str, Any]) -> list[str] | None:
    """The command line that `read_arguments` reads in such a call; None when it is given values instead."""
    if options or not (said is None or isinstance(said, (list, tuple))):
        return None
    return sys.argv[1:] if said is None else [str(word) for word in said]


def places_of(cls: type, argv: Sequence[str]) -> dict[str, str]:
    """Where each option that a command line says was said: "command line", or "run.yaml:7"."""
    known = options_of(cls)
    configs, typed = split_words(argv, known, [])
    places: dict[str, str] = {}
    for source in (*map(_said_in, configs), typed):
        for said in source:
            old = {**ALIASES, **SAMPLES, **{name: new for name, (new, _) in VALUES.items()}}
            name = said.name if said.name in known else old.get(said.name, "dataset")
            places[name] = said.where.removesuffix(": ") or "command line"
    return places


def split_words(
    argv: Sequence[str], known: Mapping[str, OptionInfo], errors: list[SwiftError]
) -> tuple[list[str], list[Said]]:
    """Command-line words as files to read and options said; words that belong to neither become errors."""
    words = list(argv)
    configs = [words.pop(0)] if words and CONFIG.fullmatch(words[0]) and not OPTION.fullmatch(words[0]) else []
    said: list[Said] = []
    while words:
        word = words.pop(0)
        match = OPTION.fullmatch(word)
        typed, equals, value = match.groups("") if match else ("", "", "")
        values: list[str] = [value] if equals else []
        while not equals and words and not OPTION.fullmatch(words[0]) and not SHORT.fullmatch(words[0]):
            values.append(words.pop(0))
        if not match:
            stray = " ".join([word, *values])
            errors.append(UsageError("USAGE-01", f"{stray!r} belongs to no option", fix="options begin with `--`"))
            continue
        if _plain(typed) != "config" or "config" in known:
            said.append(Said(_plain(typed), values, "", typed))
        elif values:
            configs += values
        else:
            errors.append(UsageError("USAGE-02", "--config has no value", fix="--config run.yaml"))
    return configs, said


def _said_in(path: str) -> list[Said]:
    entries = [entry for entry in read_config(path) if entry.name != "$schema"]  # what editors check a JSON file by
    return [Said(_plain(entry.name), entry.value, f"{entry.where}: ", entry.name) for entry in entries]


def _plain(typed: str) -> str:
    return typed.replace("-", "_")


def _values(
    source: Iterable[Said],
    known: Mapping[str, OptionInfo],
    samples: list[Said],
    notes: list[str],
    errors: list[SwiftError],
) -> dict[str, Any]:
    """What one source says, converted; an option that takes a list may be said several times.

    Old sample counts go to `samples`: they change data sets that another source may name.
    """
    values: dict[str, Any] = {}
    for said in source:
        try:
            said = _by_value(said, known, notes)
        except UsageError as error:
            errors.append(error)
            continue
        new = ALIASES.get(said.name, "")
        if said.name not in known and new in known:
            notes.append(f"note: --{said.typed} is read as --{new}")
            said = replace(said, name=new)
        if said.name in known:
            try:
                value = convert(known[said.name], said)
            except UsageError as error:
                errors.append(error)
                continue
            value = _renamed(said.name, value, notes)
            before = values.get(said.name)
            values[said.name] = [*before, *value] if isinstance(before, list) and value is not None else value
        elif (SAMPLES.get(said.name) or "dataset") in known and said.name in (*SAMPLES, "self_cognition_sample"):
            samples.append(said)
        else:
            errors.append(_unknown(said, known))
    return values


def _by_value(said: Said, known: Mapping[str, OptionInfo], notes: list[str]) -> Said:
    """An old option whose values mean those of another, as that other one; any other option as it is.

    Raises:
        UsageError: it never had this value.
    """
    new, meanings = VALUES.get(said.name, ("", {}))
    if said.name in known or new not in known:
        return said
    words = said.value if isinstance(said.value, list) else [said.value]
    word = str(words[0]).lower() if len(words) == 1 else ""
    if word not in meanings:
        what = f"{said.place} cannot be {' '.join(map(str, words))!r}"
        raise UsageError("USAGE-02", what, fix=f"one of: {', '.join(meanings)}; or --{new} <number>")
    notes.append(f"note: --{said.typed} {word} is read as --{new} {meanings[word]}")
    return replace(said, name=new, value=[str(meanings[word])])


def _renamed(option: str, value: Any, notes: list[str]) -> Any:
    """Names that were given up, as what they are called now; a file of the old name keeps it."""

    def rename(said: str) -> str:
        new = current_name(option, said)
        if new == said or Path(said).exists():
            return said
        notes.append(f"note: {said} is read as {new}")
        return new

    if option not in ("dataset", "val_dataset", "model_type", "template_type") or value is None:
        return value
    return [rename(item) for item in value] if isinstance(value, list) else rename(value)


def _sample(said: Said, values: dict[str, Any], notes: list[str], errors: list[SwiftError]) -> None:
    """Turn an old sample count into the `name#count` of the data set it means."""
    words = said.value if isinstance(said.value, list) else [said.value]
    try:
        (count,) = map(int, words)
    except (ValueError, TypeError):
        errors.append(UsageError("USAGE-02", f"{said.place} takes a whole number"))
        return
    option = SAMPLES.get(said.name, "dataset")
    names: list[str] = values.get(option, [])
    if said.name == "self_cognition_sample":
        if count > 0:
            values[option] = [*names, f"self-cognition#{count}"]
    elif count >= 0:
        if len(names) != 1 or "#" in names[0]:
            what = f"{said.place} needs one --{option} to take {count} rows of"
            errors.append(UsageError("USAGE-02", what, fix=f"--{option} <name>#{count}"))
            return
        values[option] = [f"{names[0]}#{count}"]
    if count > 0 and option in values:
        notes.append(f"note: --{said.typed} {count} is read as --{option} {' '.join(values[option])}")


def _unknown(said: Said, known: Mapping[str, OptionInfo]) -> UnknownNameError:
    """The error for an option that no field has, with the nearest one."""
    names = {name: name for name in known} | {old: new for old, new in ALIASES.items() if new in known}
    near = difflib.get_close_matches(said.name, names, 1, cutoff=0.6)
    shown = f"{said.where}{said.typed}" if said.where else f"--{said.typed}"
    if said.name in ABSENT and "fsdp" in known:
        why, instead = ABSENT[said.name]
        return UnknownNameError("USAGE-01", f"{shown} is not offered", why=why, fix=instead)
    fix = f"did you mean --{names[near[0]]}?" if near else "`--help` lists the options"
    return UnknownNameError("USAGE-01", f"{shown} is not an option of this command", fix=fix)
