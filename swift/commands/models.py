"""`swift models`: the registered models, found by words, and what a model's directory holds."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from swift.arguments.verbs import ModelsArguments
from swift.errors import NotFoundError, UsageError
from swift.models import MODELS, ModelRecord
from swift.models.files import read_config, read_json
from swift.models.remote_code import code_files, is_native, native_type
from swift.models.source import ModelSource
from swift.registry import no_hit, unknown

HEAD = ("name", "template", "ModelScope", "Hugging Face", "LoRA's DEFAULT", "needs")
SEPARATORS = re.compile(r"[-_. ]+")
SHOWN = 5


def models_main(args: ModelsArguments) -> list[dict[str, Any]] | dict[str, Any]:
    """Print what was asked for, and return it as plain values: rows, or what a directory holds.

    Raises:
        UnknownNameError: no model, or no family, is called like that; the nearest names are said.
        NotFoundError: the directory is not there, or holds no model.
        DataError: its config cannot be read, or it is no text model.
    """
    directory = directory_of(args.search)
    if directory is not None:
        found = describe(directory)
        lines = (f"{key + ':':<16}{_text(value)}" for key, value in found.items())
        _say(json.dumps(found) if args.json else "\n".join(lines))
        return found
    rows = search(args.search, args.family)
    listed = [facts(row) for row in rows]
    if args.json:
        _say(json.dumps(listed))
    else:
        show(rows)
    return listed


def search(words: Iterable[str], family: str | None = None) -> list[ModelRecord]:
    """The rows with all `words` in their name, ids, template, class or family, whatever their capitals; all for none.

    Raises:
        UnknownNameError: there are none; the nearest names are said.
    """
    families = sorted({row.family for row in MODELS.values()})
    if family is not None and family.lower() not in families:
        raise unknown("family", family, families)
    rows = [row for row in MODELS.values() if family is None or row.family == family.lower()]
    wanted = [_plain(word) for word in words]
    found = [row for row in rows if all(any(word in text for text in _texts(row)) for word in wanted)]
    if not found:
        raise no_hit("model", wanted, [" ".join(_texts(row)) for row in rows])
    return sorted(found, key=lambda row: (" ".join(wanted) not in _texts(row), _inside(row, wanted)))


def _inside(row: ModelRecord, words: list[str]) -> int:
    """How many of `words` stand only within words of a row: 7b in 57b."""
    parts = {part for text in _texts(row) for part in re.split("[-/]", text)}
    return sum(not any(text == word or f"-{word}" in f"-{text}" for text in [*parts, *_texts(row)]) for word in words)


def facts(row: ModelRecord) -> dict[str, Any]:
    """A row as plain values, with whether it needs its own code."""
    return {**asdict(row), "own_code": _brings_code(row)}


def needs(row: ModelRecord) -> str:
    """What else a model needs, in words."""
    return ", ".join([*(["own code"] if _brings_code(row) else []), *row.requires])


def _brings_code(row: ModelRecord) -> bool:
    return bool(row.arch) and native_type(row.arch) is None


def show(rows: list[ModelRecord]) -> None:
    """Print rows: a table on a terminal, else one line each with tabs."""
    cells = [(row.name, row.template, row.ms or "", row.hf or "", " ".join(row.targets), needs(row)) for row in rows]
    if not sys.stdout.isatty():
        _say("\n".join("\t".join(line) for line in (HEAD, *cells)))
        return
    table = Table(*HEAD, box=box.SIMPLE_HEAD, pad_edge=False)
    for line in cells:
        table.add_row(*line)
    Console().print(table, markup=False)
    _say(f"{len(rows)} of {len(MODELS)} models. Any other directory or hub id works by --model_id_or_path.")


def directory_of(words: list[str]) -> Path | None:
    """The directory that is asked about; None for words to search.

    Raises:
        NotFoundError: a path that is not there.
        UsageError: a file.
    """
    said = words[0] if len(words) == 1 else ""
    path = Path(said).expanduser()
    if said and path.is_dir() and ((path / "config.json").is_file() or "/" in said or said.startswith(".")):
        return path.resolve()
    if said.startswith(("./", "../", "/", "~")):
        if path.is_file():
            raise UsageError("USAGE-02", f"{said} is a file, not a model's directory", fix="name its directory")
        raise NotFoundError("FOUND-01", f"{said} is not a directory")
    return None


def describe(directory: Path) -> dict[str, Any]:
    """What the config of a model says, and what would be taken for it by default. Raises as `read_config`."""
    config = read_config(directory)
    model_type = str(config["model_type"])
    own = not is_native(model_type)
    source = ModelSource(directory.name, None, directory, config)
    rows = [row.name for row in MODELS.values() if row.arch and row.arch == source.arch]
    text: dict[str, Any] = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    return {
        "path": str(directory),
        "model_type": model_type,
        "class": source.arch,
        "own_code": sorted(code_files(directory)) if own else [],
        "template": "auto" if _has_chat_template(directory) else "default",
        "targets": list(source.targets) or ["ALL"],
        "layers": text.get("num_hidden_layers"),
        "hidden_size": text.get("hidden_size"),
        "vocabulary": text.get("vocab_size"),
        "dtype": config.get("dtype") or config.get("torch_dtype"),
        "weight_bytes": source.weight_bytes,
        "registered": rows,
    }


def _has_chat_template(directory: Path) -> bool:
    path = directory / "tokenizer_config.json"
    inside = read_json(path).get("chat_template") if path.is_file() else None
    return bool(inside) or any((directory / name).is_file() for name in ("chat_template.jinja", "chat_template.json"))


def _texts(row: ModelRecord) -> list[str]:
    return [_plain(text) for text in (row.name, row.ms, row.hf, row.template, row.arch, row.family) if text]


def _plain(text: str) -> str:
    return SEPARATORS.sub("-", text.lower())


def _text(value: Any) -> str:
    if isinstance(value, list):
        more = f" and {len(value) - SHOWN} more" if len(value) > SHOWN else ""
        return (", ".join(map(str, value[:SHOWN])) or "none") + more
    return f"{value:,}" if isinstance(value, int) else str(value if value is not None else "not said")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
