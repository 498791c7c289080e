"""What `swift eval` asks: data sets and configurations as said, read into items with an account of every row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swift.arguments.eval import EvalArguments
from swift.arguments.infer import InferArguments
from swift.commands.infer import load_rows
from swift.datasets.ledger import Ledger
from swift.datasets.places import in_file_order
from swift.errors import ConfigError, NotFoundError, UsageError
from swift.evaluation.items import Item, make_items

NO_DATA = "no"
PATTERNS = ("ceval", "general_qa")


@dataclass(frozen=True)
class Sets:
    """What is asked: data sets as typed, how they are called, and where their examples are if not in them."""

    specs: list[str]
    names: dict[str, str] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)


def find_sets(args: EvalArguments) -> Sets:
    """The data sets that the options name."""
    sets = Sets(named_sets(args))
    for entry in custom_sets(args):
        _add_custom(sets, entry, args.eval_few_shot)
    if not sets.specs and not (args.load_dataset_config and args.ckpt_dir):
        raise UsageError("USAGE-03", "there is no data set to measure on", fix="--eval_dataset rows.jsonl")
    return sets


def named_sets(args: EvalArguments) -> list[str]:
    """The data sets that options name one by one."""
    specs = [*args.eval_dataset, *([] if args.val_dataset else args.dataset), *args.val_dataset]
    return [spec for spec in specs if spec != NO_DATA]


def custom_sets(args: EvalArguments) -> list[dict[str, Any]]:
    """The data sets of --custom_eval_config, as they stand there."""
    return _read_config(Path(args.custom_eval_config).expanduser()) if args.custom_eval_config else []


def _read_config(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError("FOUND-01", f"--custom_eval_config {path} does not exist") from None
    except ValueError as error:
        raise ConfigError("CONFIG-01", f"--custom_eval_config {path} is not JSON: {error}") from None
    whole = isinstance(entries, list) and all(isinstance(each, dict) for each in entries)
    for each in entries if whole else [{}]:
        if each.get("pattern") not in PATTERNS or not isinstance(each.get("dataset"), str):
            what = f"--custom_eval_config {path} is no list of data sets with name, pattern, dataset and subset_list"
            raise ConfigError("CONFIG-01", what, why=f"pattern is one of {', '.join(PATTERNS)}")
    return entries


def _add_custom(sets: Sets, entry: Mapping[str, Any], few_shot: int) -> None:
    """The files of one data set of a configuration: `<subset>_val.csv` and `_dev.csv`, or `<subset>.jsonl`."""
    directory, name = Path(entry["dataset"]).expanduser(), str(entry.get("name") or entry["dataset"])
    for subset in entry.get("subset_list") or ["default"]:
        stem = f"{subset}_val.csv" if entry["pattern"] == "ceval" else f"{subset}.jsonl"
        asked, examples = str(directory / stem), directory / f"{subset}_dev.csv"
        sets.specs.append(asked)
        sets.names[asked] = f"{name}/{subset}"
        if few_shot and entry["pattern"] == "ceval" and examples.is_file():
            sets.examples[asked] = str(examples)


def read_items(args: EvalArguments, sets: Sets, options: InferArguments, *, answers: bool) -> tuple[list[Item], Ledger]:
    """What is asked, and the account of every row; with `answers`, each row has to have one."""
    inherited = not sets.specs
    specs = [*sets.specs, *sets.examples.values()]
    reading = options if inherited else replace(options, dataset=specs, val_dataset=[])
    loaded = load_rows(reading, inherited=inherited, answers=answers)
    rows = in_file_order(loaded.val or [])
    few, limit = args.eval_few_shot, args.eval_limit
    items = make_items(rows, loaded.ledger, limit=limit, few_shot=few, examples=sets.examples)
    return [replace(item, dataset=sets.names.get(item.dataset, item.dataset)) for item in items], loaded.ledger
