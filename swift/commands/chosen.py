"""From what was said to a checkpoint and the options that are in it, with nothing loaded yet."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from swift import checkpoint, storage
from swift.arguments.infer import CheckpointOptions
from swift.decide import OF_BASE, inherit
from swift.errors import DataError, NotFoundError, UsageError
from swift.log import get_logger
from swift.models.quantisation import either_spelling
from swift.tuners import layout

logger = get_logger()
C = TypeVar("C", bound=CheckpointOptions)


def from_checkpoint(said: C, told: bool = True) -> C:
    """`said` with what it leaves open taken from the files of its checkpoint; says what was taken where `told`.

    Raises:
        NotFoundError: there is no such checkpoint.
        DataError: the directory is neither a model nor an adapter, or its weights are not those that were written.
    """
    if said.ckpt_dir is None:
        return said
    directory = find_checkpoint(said.ckpt_dir, told)
    checkpoint.check_weights(directory)
    whole = not layout.folders(directory)
    saved = read_saved(directory) if said.load_args_from_ckpt_dir else {}
    if whole:
        saved = {name: value for name, value in saved.items() if name not in OF_BASE}
        saved |= {"model_id_or_path": str(directory), "sft_type": "full"}
    args, taken = inherit(replace(said, ckpt_dir=str(directory)), saved)
    if taken and told:
        logger.info("from the checkpoint: " + ", ".join(f"{name}={value!r}" for name, value in taken.items()))
    if told and saved.get("custom_register_path") and not args.custom_register_path:
        logger.warning("the checkpoint was trained with --custom_register_path; say it again if its model needs it")
    return replace(args, model_id_or_path=str(directory)) if whole else _base_of_adapter(args, directory, told)


def find_checkpoint(said: str, told: bool = True) -> Path:
    """The checkpoint that `said` names: itself, or the newest whole one of a run or output directory, which is `told`.

    Raises:
        NotFoundError: there is no such directory.
        DataError: it holds no model, no adapter and no checkpoint.
    """
    directory = either_spelling(Path(said).expanduser().resolve())
    if not directory.is_dir():
        raise NotFoundError("FOUND-01", f"--ckpt_dir {said} is not a directory", fix="name a checkpoint-<step>")
    if checkpoint.weights_in_shards(directory):
        fix = f"swift export --from_sharded {directory}, then --ckpt_dir {directory}-model"
        raise DataError("CKPT-01", f"{directory} holds its model in shards", fix=fix)
    if (directory / "config.json").is_file() or layout.folders(directory):
        return directory
    runs = (directory, *directory.glob("*/"), *directory.glob("*/*/"))
    newest = max(filter(None, map(_last_whole, runs)), key=_written, default=None)
    if newest is None:
        raise DataError(
            "CKPT-01", f"{said} holds neither a model nor an adapter", fix="name a checkpoint-<step> directory"
        )
    if told:
        logger.info(f"newest checkpoint: {newest}")
    return newest


def _last_whole(run: Path) -> Path | None:
    """The last checkpoint of a run whose weights are all there; what only training needs may be gone."""
    found = reversed(checkpoint.committed(run))
    return next((path for path in found if not storage.verify(path, fast=True, suffixes=checkpoint.WEIGHTS)), None)


def _written(path: Path) -> float:
    """When a checkpoint was committed: its directory is younger once answers lie in it."""
    return (path / storage.MANIFEST).stat().st_mtime


def _base_of_adapter(args: C, directory: Path, told: bool) -> C:
    folder = next(iter(layout.folders(directory).values()))
    base = layout.read_json(folder / layout.CONFIG_FILE).get("base_model_name_or_path")
    if args.model_id_or_path or args.model_type:
        said = Path(args.model_id_or_path or "").expanduser().resolve()
        if told and base and args.model_id_or_path and said != Path(base).resolve() and Path(base).is_dir():
            logger.warning(f"the adapter was trained on {base}, and is put onto {said}")
        return args
    if not base:
        raise UsageError("USAGE-03", "the adapter does not name its model", fix="--model_id_or_path <model>")
    if told:
        logger.info(f"from the adapter: model_id_or_path={base!r}")
    return replace(args, model_id_or_path=base)


def read_saved(directory: Path) -> dict[str, Any]:
    """The options a checkpoint was trained with, {} where there are none."""
    path = directory / "sft_args.json"
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError("CKPT-01", f"{path} is not JSON: {error}", fix="--load_args_from_ckpt_dir false") from None


def load_plugins(paths: Sequence[str]) -> None:
    """Run the user's Python files, which register what they add."""
    for said in paths:
        load_plugin(said)


def load_plugin(said: str, option: str = "custom_register_path") -> ModuleType:
    """The module that a user's Python file is, run once; `option` is what named it.

    Raises:
        NotFoundError: it is no Python file.
        UsageError: it cannot be run.
    """
    path = Path(said).expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise NotFoundError("FOUND-01", f"--{option} {said} is not a Python file")
    name = f"swift_plugin_{path.stem}"
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError, ValueError, TypeError, AttributeError) as error:
        del sys.modules[name]
        what = f"--{option} {said}: {type(error).__name__}: {error}"
        raise UsageError("USAGE-02", what, fix="mend the file, or run with --debug") from error
    return module
