"""`swift schema`: the JSON schema (draft 2020-12) of a command's configuration file, read from its options.

Editors check and complete a YAML file that names it: `# yaml-language-server: $schema=<path or address>`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from swift.arguments.aliases import ALIASES, SAMPLES, VALUES
from swift.arguments.app_ui import AppUIArguments
from swift.arguments.data_verbs import DataArguments
from swift.arguments.deploy import DeployArguments
from swift.arguments.estimate import EstimateArguments
from swift.arguments.eval import EvalArguments
from swift.arguments.export import ExportArguments
from swift.arguments.fields import OptionInfo, options_of
from swift.arguments.help import first_line
from swift.arguments.hub import PullArguments, PushArguments
from swift.arguments.infer import InferArguments
from swift.arguments.pt import PtArguments
from swift.arguments.rlhf import RLHFArguments
from swift.arguments.sft import SftArguments
from swift.arguments.verbs import SchemaArguments
from swift.arguments.web_ui import WebUIArguments
from swift.commands.names import ONLY_THESE, known_names

DIALECT = "https://json-schema.org/draft/2020-12/schema"
CLASSES: dict[str, type] = {
    "sft": SftArguments,
    "rlhf": RLHFArguments,
    "pt": PtArguments,
    "infer": InferArguments,
    "eval": EvalArguments,
    "app-ui": AppUIArguments,
    "web-ui": WebUIArguments,
    "deploy": DeployArguments,
    "export": ExportArguments,
    "push": PushArguments,
    "pull": PullArguments,
    "data": DataArguments,
    "estimate": EstimateArguments,
}
SAME = {"val_dataset": "dataset", "eval_dataset": "dataset"}
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}


def schema_main(args: SchemaArguments) -> None:
    """Print the schema that is asked for."""
    assert args.command is not None
    sys.stdout.write(to_text(schema_of(args.command)))


def to_text(schema: dict[str, Any]) -> str:
    """A schema as it stands in a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def schema_of(command: str) -> dict[str, Any]:
    """The schema of one command's options; a name that no option has is refused.

    Raises:
        KeyError: a command that has none.
    """
    cls, options = CLASSES[command], options_of(CLASSES[command])
    names = {name: known for name, known in known_names().items() if name in options}
    old = {alias: _old(name) for alias, name in ALIASES.items() if name in options and alias not in options}
    if "dataset" in options:
        counts = {"type": "integer", "description": "Read as #<count> behind the data set.", "deprecated": True}
        old |= dict.fromkeys((*SAMPLES, "self_cognition_sample"), counts)
    for alias, (name, meanings) in VALUES.items():
        if name in options and alias not in options:
            old[alias] = {"enum": list(meanings), "description": f"Read as {name}.", "deprecated": True}
    itself = {"$schema": {"type": "string", "description": "This schema."}}
    return {
        "$schema": DIALECT,
        "title": f"swift {command}",
        "description": first_line(cls),
        "type": "object",
        "properties": {**itself, **{name: property_of(info) for name, info in options.items()}, **old},
        "additionalProperties": False,
        "$defs": {name: {"enum": known} for name, known in names.items() if name not in SAME},
    }


def _old(name: str) -> dict[str, Any]:
    return {"$ref": f"#/properties/{name}", "description": f"Read as {name}.", "deprecated": True}


def property_of(info: OptionInfo) -> dict[str, Any]:
    """What one option's value may be, with its sentence and default."""
    unit = f" In {info.unit}." if info.unit else ""
    none = f" null: {info.none}." if info.none else ""
    described = {"title": info.group, "description": f"{info.help}{unit}{none}", "default": info.default}
    return {**_values(info), **described}


def _values(info: OptionInfo) -> dict[str, Any]:
    one: dict[str, Any] = {"type": TYPES[info.kind]}
    if info.choices:
        one = {"enum": list(info.choices)}
    elif info.name in known_names():
        known = {"$ref": f"#/$defs/{SAME.get(info.name, info.name)}"}
        one = known if info.name in ONLY_THESE else {"anyOf": [known, one]}
    one |= {key: limit for key, limit in (("minimum", info.minimum), ("maximum", info.maximum)) if limit is not None}
    if info.optional and not info.is_list and isinstance(one.get("type"), str):
        return {**one, "type": [one["type"], "null"]}
    if info.name == "tuner":
        one = {"anyOf": [one, {"type": "object"}]}
    allowed = [{"type": "array", "items": one}, one] if info.is_list else [one]
    allowed += [{"type": "null"}] if info.optional else []
    return one if allowed == [one] else {"anyOf": allowed}
