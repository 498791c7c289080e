"""Data sets described by users: `dataset_info.json`, the same as text or a mapping, and `register_dataset`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.datasets import DATASETS, DatasetRecord
from swift.errors import ConfigError, NotFoundError, SwiftError, UsageError, raise_all

KEYS = {
    "dataset_id": str,
    "ms_dataset_id": str,
    "hf_dataset_id": str,
    "dataset_path": str,
    "subsets": list,
    "split": list,
    "columns": dict,
    "conversations": dict,
    "labels": dict,
    "fill": dict,
    "remove_useless_columns": bool,
    "tags": list,
    "help": str,
}
TURNS = (
    "user_role",
    "assistant_role",
    "system_role",
    "tool_role",
    "conversations_key",
    "from_key",
    "value_key",
    "error_strategy",
)
STRATEGIES = ("delete", "raise")
WORDS = {str: "text", list: "a list", dict: "an object", bool: "true or false"}
LARGEST = 1 << 20


def register_dataset(
    name: str,
    dataset_id: str | None = None,
    *,
    hf_dataset_id: str | None = None,
    dataset_path: str | Path | None = None,
    subsets: Sequence[str] = (),
    split: Sequence[str] = ("train",),
    columns: Mapping[str, str] | None = None,
    conversations: Mapping[str, str] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    fill: Mapping[str, str] | None = None,
    preprocess: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
    drop_bad_rows: bool = False,
    tags: Sequence[str] = (),
    help: str = "",
    exist_ok: bool = False,
) -> DatasetRecord:
    """Give a data set a name for `--dataset`.

    Args:
        name: the name.
        dataset_id: its id on ModelScope.
        hf_dataset_id: its id on Hugging Face.
        dataset_path: a data file instead of ids.
        subsets: what is read when no subset is typed.
        split: the splits that are read.
        columns: columns to rename; "-" hides one.
        conversations: what a list of turns calls its keys and roles: user_role, assistant_role, system_role,
            tool_role, conversations_key, from_key, value_key.
        labels: names of the numbers in a column.
        fill: columns made of others, such as {"response": "{reason} So: {answer}"}.
        preprocess: makes a row of a known format from a raw one; None from it leaves the row out, which is counted.
        drop_bad_rows: drop and count rows that cannot be used instead of stopping.
        tags: topics and languages.
        help: a sentence about it.
        exist_ok: replace a data set of that name.

    Raises:
        UsageError: the name is taken or cannot be typed after --dataset, or there is nothing to read.
    """
    if not name or set(name) & set(":#@,/ "):
        raise UsageError(
            "USAGE-02", f"{name!r} cannot be a data set's name", why=": # @ , / and blanks mean other things"
        )
    if name in DATASETS and not exist_ok:
        raise UsageError("USAGE-02", f"there is a data set called {name} already", fix="choose another name")
    path = Path(dataset_path).expanduser().resolve() if dataset_path else None
    if path is not None and not path.is_file():
        raise NotFoundError("FOUND-01", f"data set {name}: {path} does not exist")
    if path is None and not dataset_id and not hf_dataset_id:
        raise UsageError("USAGE-03", f"data set {name} has nothing to read", fix="give dataset_path or dataset_id")
    record = DatasetRecord(
        name,
        dataset_id if path is None else None,
        hf_dataset_id if path is None else None,
        str(path) if path else None,
        tuple(subsets),
        tuple(split),
        dict(columns or {}),
        dict(conversations or {}),
        {column: tuple(names) for column, names in (labels or {}).items()},
        dict(fill or {}),
        preprocess,
        drop_bad_rows,
        tuple(tags),
        help,
    )
    DATASETS.add(record, replace=True)
    return record


def register_infos(said: Sequence[str | Path | Mapping[str, Any]]) -> list[DatasetRecord]:
    """Register the data sets of `dataset_info.json` files, of such a text, or of such a mapping.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it is no JSON, or says what is not known; all of it is named.
    """
    records: list[DatasetRecord] = []
    for one in said:
        info, source, folder = _read(one)
        raise_all([error for name, entry in info.items() for error in _problems(source, name, entry)])
        records += [_register(name, entry, folder) for name, entry in info.items()]
    return records


def _read(said: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], str, Path]:
    """The description, how to call it in messages, and the directory that its paths start from."""
    if isinstance(said, Mapping):
        return said, "custom_dataset_info", Path.cwd()
    text, source, folder = str(said), "--custom_dataset_info", Path.cwd()
    if not text.lstrip().startswith("{"):
        path = Path(text).expanduser()
        if not path.is_file():
            raise NotFoundError("FOUND-01", f"--custom_dataset_info {text} does not exist")
        if path.stat().st_size > LARGEST:
            raise ConfigError("CONFIG-01", f"{path} is larger than 1 MiB: a description of data sets, not the rows")
        try:
            text, source, folder = path.read_text(encoding="utf-8-sig"), str(path), path.resolve().parent
        except UnicodeDecodeError:
            raise ConfigError("CONFIG-01", f"{path} is not UTF-8") from None
    try:
        info = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError("CONFIG-01", f"{source}:{error.lineno}: column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ConfigError("CONFIG-01", f"{source} is nested too deeply") from None
    if not isinstance(info, dict):
        raise ConfigError("CONFIG-01", f"{source} is no object", fix='{"my-set": {"dataset_path": "my.jsonl"}}')
    return info, source, folder


def _problems(source: str, name: str, entry: object) -> list[SwiftError]:
    where = f"{source}: {name}"
    if not isinstance(entry, Mapping):
        return [ConfigError("CONFIG-01", f"{where} is no object", fix='{"dataset_path": "my.jsonl"}')]
    errors = [_unknown(where, str(key), KEYS) for key in entry if key not in KEYS]
    errors += [
        ConfigError("CONFIG-01", f"{where}: {key} is to be {WORDS[kind]}")
        for key, kind in KEYS.items()
        if entry.get(key) is not None and not isinstance(entry[key], (list, str) if key == "split" else kind)
    ]
    turns = entry.get("conversations")
    if isinstance(turns, Mapping):
        errors += [_unknown(f"{where}: conversations", str(key), TURNS) for key in turns if key not in TURNS]
        strategy = turns.get("error_strategy", STRATEGIES[0])
        if strategy not in STRATEGIES:
            errors.append(_unknown(f"{where}: conversations: error_strategy", str(strategy), STRATEGIES))
    return errors


def _unknown(where: str, key: str, known: Any) -> SwiftError:
    near = difflib.get_close_matches(key, list(known), 3, cutoff=0.5)
    fix = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
    return ConfigError("CONFIG-01", f"{where}: {key!r} is not known", fix=fix)


def _register(name: str, entry: Mapping[str, Any], folder: Path) -> DatasetRecord:
    path, turns, split = entry.get("dataset_path"), dict(entry.get("conversations") or {}), entry.get("split")
    strategy = turns.pop("error_strategy", None)
    return register_dataset(
        name,
        entry.get("dataset_id") or entry.get("ms_dataset_id"),
        hf_dataset_id=entry.get("hf_dataset_id"),
        dataset_path=folder / Path(path).expanduser() if path else None,
        subsets=entry.get("subsets") or (),
        split=[split] if isinstance(split, str) else split or ("train",),
        columns=entry.get("columns"),
        conversations=turns,
        labels=entry.get("labels"),
        fill=entry.get("fill"),
        drop_bad_rows=strategy == "delete",
        tags=entry.get("tags") or (),
        help=entry.get("help") or "",
        exist_ok=True,
    )
