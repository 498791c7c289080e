"""Where adapters lie in a directory: names of files, folders of adapters, and JSON that is read with care."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swift.errors import DataError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE, SAFE_WEIGHTS_FILE = "adapter_model.bin", "adapter_model.safetensors"
DIRECTORY_FILE = "configuration.json"
EXTRA_STATES = "extra_states"
RUN_FILE = "trainer_state.json"
AGAIN = "copy it again from where it was made"
LARGEST_JSON = 8 << 20  # bytes; the config of a model with a thousand layers, each named, is a tenth of it


def folders(directory: Path) -> dict[str, Path]:
    """The folder of each adapter that a checkpoint holds, by the adapter's name; empty where it holds none."""
    children = {path.parent.name: path.parent for path in sorted(directory.glob(f"*/{CONFIG_FILE}"))}
    found = {name: folder for name, folder in children.items() if _may_hold_one(folder)}
    return {**found, "default": directory} if (directory / CONFIG_FILE).is_file() else found


def read_order(directory: Path) -> list[str]:
    """The order of the adapters that configuration.json states; empty when it states none."""
    file = directory / DIRECTORY_FILE
    order = read_json(file).get("adapters", []) if file.is_file() else []
    return order if isinstance(order, list) else []


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError when there is none, or more than 8 MB of it."""
    try:
        with file.open("rb") as opened:
            text = opened.read(LARGEST_JSON + 1)
        if len(text) > LARGEST_JSON:
            raise DataError("CKPT-01", f"{file} is larger than {LARGEST_JSON >> 20} MB", fix=AGAIN)
        values = json.loads(text.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_once)
    except DataError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        raise DataError("CKPT-01", f"{file} is not JSON: {error}", fix=AGAIN) from error
    if not isinstance(values, dict):
        raise DataError("CKPT-01", f"{file} is not a JSON object", fix=AGAIN)
    return values


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Raises ValueError when a key comes twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is said twice")
    return values


def _may_hold_one(folder: Path) -> bool:
    """Whether a folder may be an adapter of its parent: it is not a checkpoint of its own, nor one half written."""
    return folder.name != EXTRA_STATES and not folder.name.startswith(".") and not (folder / RUN_FILE).is_file()
