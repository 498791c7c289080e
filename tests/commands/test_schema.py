"""The schema of a configuration file: what the command line takes it allows, what it refuses it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from swift.arguments.aliases import ALIASES
from swift.arguments.fields import options_of
from swift.arguments.reading import parse
from swift.cli import main
from swift.commands.schema import CLASSES, schema_of
from swift.errors import SwiftError
from swift.models import MODELS

ROOT = Path(__file__).parents[2]
KINDS = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None), "array": list,
    "object": dict,
}  # fmt: skip
KEYWORDS = {
    "$schema", "$defs", "$ref", "title", "description", "default", "deprecated", "type", "properties", "enum", "anyOf",
    "items", "minimum", "maximum", "additionalProperties",
}  # fmt: skip


def fits(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Whether a value is valid, for the keywords that our schemas use (draft 2020-12)."""
    assert set(schema) <= KEYWORDS
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        if not fits(value, target, root):
            return False
    kinds = schema.get("type", [])
    kinds = kinds if isinstance(kinds, list) else [kinds]
    is_flag = isinstance(value, bool)
    if kinds and not any(isinstance(value, KINDS[k]) and (not is_flag or k == "boolean") for k in kinds):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "anyOf" in schema and not any(fits(value, other, root) for other in schema["anyOf"]):
        return False
    if (
        isinstance(value, (int, float))
        and not is_flag
        and not (schema.get("minimum", value) <= value <= schema.get("maximum", value))
    ):
        return False
    if isinstance(value, list) and not all(fits(item, schema.get("items", {}), root) for item in value):
        return False
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        return all(name in known and fits(item, known[name], root) for name, item in value.items())
    return True


@pytest.mark.parametrize("command", CLASSES)
def test_every_option_has_its_sentence_and_default(command: str) -> None:
    schema = schema_of(command)
    for name, info in options_of(CLASSES[command]).items():
        row = schema["properties"][name]
        assert row["description"].startswith(info.help)
        assert row["default"] == info.default
        assert fits(info.default, row, schema), name
        for choice in info.choices or ():
            assert fits(choice, row, schema)


def reads(command: str, tree: dict[str, Any], place: Path) -> bool:
    """Whether the command line takes such a file."""
    path = place / "run.json"
    path.write_text(json.dumps(tree))
    try:
        parse(CLASSES[command], [str(path)], quiet=True)
    except SwiftError:
        return False
    return True


@pytest.mark.parametrize(
    ("tree", "good"),
    [
        ({"$schema": "docs/schema/sft.json", "lora_rank": 4}, True),
        ({"dataset": "a.jsonl", "val_dataset": ["b", "alpaca-en"]}, True),
        ({"model_type": next(iter(MODELS)), "system": None, "report_to": ["none"]}, True),
        ({"per_device_train_batch_size": 2, "lr": 1e-4}, True),
        ({"training_options": {"a": 1}, "lora_lr_ratio": 16, "dry_run": True}, True),
        ({"lora_rank": 0}, False),
        ({"lora_rank": "four"}, False),
        ({"lora_rank": None}, False),
        ({"dtype": "fp8"}, False),
        ({"report_to": ["nobody"]}, False),
        ({"dataset_test_ratio": 1.5}, False),
        ({"lora_rnak": 4}, False),
        ({"dry_run": "perhaps"}, False),
        ({"training_options": 3}, False),
    ],
)
def test_it_allows_what_is_read(tree: dict[str, Any], good: bool, tmp_path: Path) -> None:
    schema = schema_of("sft")
    assert fits(tree, schema, schema) is good
    assert reads("sft", tree, tmp_path) is good


def test_a_tuner_that_is_none_is_refused_and_a_model_of_ones_own_is_not() -> None:
    schema = schema_of("sft")
    assert not fits({"sft_type": "lroa"}, schema, schema)
    assert fits({"model_type": "my-own", "dataset": ["mine"], "template_type": "my-own"}, schema, schema)


def test_old_names_are_marked_and_mean_the_new() -> None:
    schema = schema_of("infer")
    for old, new in ALIASES.items():
        if new in schema["properties"] and old not in options_of(CLASSES["infer"]):
            assert schema["properties"][old]["deprecated"]
            assert schema["properties"][old]["$ref"] == f"#/properties/{new}"
    assert "target_modules" not in schema["properties"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_our_configs_name_a_schema_that_they_fit(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = next(line for line in text.splitlines() if line.startswith("# yaml-language-server: $schema="))
    file = (path.parent / named.partition("=")[2]).resolve()
    command = "sft" if path.parent.name in ("large", "heads") else path.parent.name
    assert file == ROOT / "docs" / "schema" / f"{command}.json"
    schema = json.loads(file.read_text(encoding="utf-8"))
    assert fits(yaml.safe_load(text), schema, schema)


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "export"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == schema_of("export")
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
