"""From options to a model that can answer: what infer, export and the servers share."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swift import checkpoint, storage
from swift.arguments.data import DataOptions, LossOptions
from swift.arguments.infer import CheckpointOptions, InferArguments
from swift.arguments.model import ModelOptions, NewTokenOptions
from swift.decide import decide_infer, inherit, tidy
from swift.errors import DataError, NotFoundError, UsageError
from swift.models.quantised import quiet_quantisers
from swift.log import get_logger
from swift.models.load import TORCH_DTYPES, detect_hardware, load_model, load_tokenizer
from swift.models.new_tokens import add_tokens, read, restore
from swift.models.room import make_room
from swift.models.source import ModelSource, find_model
from swift.templates.jinja import read_source
from swift.templates.template import Template, get_template
from swift.trainers.saving import CHAT_TEMPLATE
from swift.tuners import Swift, files

logger = get_logger()
C = TypeVar("C", bound=CheckpointOptions)


@dataclass(frozen=True)
class Prepared:
    """A loaded model with its tokenizer and template, and the decided options that led to it."""

    args: InferArguments
    source: ModelSource
    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: Template


def quiet_libraries() -> None:
    """Leave talking to us: transformers draws no bars and speaks of errors only, if TRANSFORMERS_VERBOSITY is unset."""
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        transformers.logging.set_verbosity_error()
    quiet_quantisers()
        transformers.logging.disable_progress_bar()
        for noise in (".*is_gradient_checkpointing.*", ".*`broadcast_buffers` is deprecated.*"):
            warnings.filterwarnings("ignore", message=noise, category=FutureWarning)


def prepare_model_template(said: InferArguments) -> Prepared:
    """Load what `said` asks for: a model, or a checkpoint's model with its adapters on."""
    args, source = find_decided(said)
    template = load_template(args, source)
    return Prepared(args, source, load_tuned_model(args, source), template.tokenizer, template)


def load_template(args: DataOptions, source: ModelSource) -> Template:
    """The tokenizer, with tokens that the run or its checkpoint added, in its template; says what ends a turn."""
    tokenizer = load_tokenizer(source)
    if isinstance(args, NewTokenOptions):
        add_tokens(tokenizer, args.new_special_tokens)
    elif isinstance(args, CheckpointOptions):
        add_saved_tokens(tokenizer, args.ckpt_dir)
    use_chat_template(tokenizer, args.chat_template, args.ckpt_dir if isinstance(args, CheckpointOptions) else None)
    max_length = None if args.max_length < 0 else args.max_length
    template = get_template(
        args.template_type,
        tokenizer,
        args.system,
        max_length,
        args.truncation_strategy,
        loss_scale=args.loss_scale if isinstance(args, LossOptions) else "default",
        tools_prompt=args.tools_prompt,
    )
    logger.info(template.describe_end())
    return template


def use_chat_template(tokenizer: PreTrainedTokenizerBase, said: str | None, ckpt_dir: str | Path | None = None) -> None:
    """Give a tokenizer the chat template in a file, or the one that its checkpoint was trained with."""
    saved = Path(ckpt_dir, CHAT_TEMPLATE) if ckpt_dir else None
    if said:
        tokenizer.chat_template = read_source(said)
    elif saved is not None and saved.is_file():
        tokenizer.chat_template = read_source(saved)


def add_saved_tokens(tokenizer: PreTrainedTokenizerBase, ckpt_dir: str | Path | None) -> None:
    """Give a tokenizer the tokens that the checkpoint was trained with. Raises DataError when their ids are others."""
    new = read(ckpt_dir)
    if new is not None:
        restore(tokenizer, new, str(ckpt_dir))


def add_saved_rows(model: Any, ckpt_dir: str | Path | None) -> None:
    """Give a base rows for the tokens that the checkpoint, an adapter's, was trained with."""
    new = read(ckpt_dir)
    if new is not None:
        make_room(model, list(new.ids.values()), rows=new.rows)


def find_decided(said: InferArguments) -> tuple[InferArguments, ModelSource]:
    """The decided options and the model they mean, with nothing loaded yet."""
    args = from_checkpoint(tidy(said))
    load_plugins(args.custom_register_path)
    source = find_source(args)
    return decide_infer(args, detect_hardware(), source), source


def from_checkpoint(said: C) -> C:
    """`said` with what it leaves open taken from the files of its checkpoint; says what was taken.

    Raises:
        NotFoundError: there is no such checkpoint.
        DataError: the directory is neither a model nor an adapter, or its weights are not those that were written.
    """
    if said.ckpt_dir is None:
        return said
    directory = find_checkpoint(said.ckpt_dir)
    checkpoint.check_weights(directory)
    whole = not files.folders(directory)
    saved = read_saved(directory) if said.load_args_from_ckpt_dir else {}
    if whole:
        saved |= {"model_id_or_path": str(directory), "sft_type": "full"}
    args, taken = inherit(replace(said, ckpt_dir=str(directory)), saved)
    if taken:
        logger.info("from the checkpoint: " + ", ".join(f"{name}={value!r}" for name, value in taken.items()))
    if saved.get("custom_register_path") and not args.custom_register_path:
        logger.warning("the checkpoint was trained with --custom_register_path; say it again if its model needs it")
    return replace(args, model_id_or_path=str(directory)) if whole else _base_of_adapter(args, directory)


def find_checkpoint(said: str) -> Path:
    """The checkpoint that `said` names: itself, or the newest whole one below a run's or an output directory.

    Raises:
        NotFoundError: there is no such directory.
        DataError: it holds no model, no adapter and no checkpoint.
    """
    directory = Path(said).expanduser().resolve()
    if not directory.is_dir():
        raise NotFoundError("FOUND-01", f"--ckpt_dir {said} is not a directory", fix="name a checkpoint-<step>")
    if (directory / "config.json").is_file() or files.folders(directory):
        return directory
    runs = (directory, *directory.glob("*/"), *directory.glob("*/*/"))
    newest = max(filter(None, map(_last_whole, runs)), key=_written, default=None)
    if newest is None:
        raise DataError(
            "CKPT-01", f"{said} holds neither a model nor an adapter", fix="name a checkpoint-<step> directory"
        )
    logger.info(f"newest checkpoint: {newest}")
    return newest


def _last_whole(run: Path) -> Path | None:
    """The last checkpoint of a run whose weights are all there; what only training needs may be gone."""
    found = reversed(checkpoint.committed(run))
    return next((path for path in found if not storage.verify(path, fast=True, suffixes=checkpoint.WEIGHTS)), None)


def _written(path: Path) -> float:
    """When a checkpoint was committed: its directory is younger once answers lie in it."""
    return (path / storage.MANIFEST).stat().st_mtime


def _base_of_adapter(args: C, directory: Path) -> C:
    folder = next(iter(files.folders(directory).values()))
    base = files.read_json(folder / files.CONFIG_FILE).get("base_model_name_or_path")
    if args.model_id_or_path or args.model_type:
        said = Path(args.model_id_or_path or "").expanduser().resolve()
        if base and args.model_id_or_path and said != Path(base).resolve() and Path(base).is_dir():
            logger.warning(f"the adapter was trained on {base}, and is put onto {said}")
        return args
    if not base:
        raise UsageError("USAGE-03", "the adapter does not name its model", fix="--model_id_or_path <model>")
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


def find_source(args: ModelOptions) -> ModelSource:
    """The model that the options name, checked as far as can be without loading it."""
    quiet_libraries()
    return find_model(
        args.model_type,
        args.model_id_or_path,
        args.model_revision,
        check_latest=args.check_model_is_latest,
        trust_remote_code=args.trust_remote_code,
    )


def load_tuned_model(args: InferArguments, source: ModelSource) -> PreTrainedModel | Any:
    """The model in its decided dtype, with the checkpoint's adapters on, ready to answer."""
    model = load_model(
        source,
        TORCH_DTYPES[args.dtype],
        device_map="auto" if detect_hardware().accelerator else None,
        attn_implementation="flash_attention_2" if args.use_flash_attn else None,
        quantised=args,
    )
    if args.ckpt_dir and files.folders(Path(args.ckpt_dir)):
        add_saved_rows(model, args.ckpt_dir)
        allowed = args.allow_other_base
        model = Swift.from_pretrained(model, args.ckpt_dir, inference_mode=True, allow_other_base=allowed)
    return model.eval()


def load_plugins(paths: Sequence[str]) -> None:
    """Run the user's Python files, which register what they add."""
    for said in paths:
        path = Path(said).expanduser().resolve()
        if path.suffix != ".py" or not path.is_file():
            raise NotFoundError("FOUND-01", f"--custom_register_path {said} is not a Python file")
        name = f"swift_plugin_{path.stem}"
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
            continue
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
            what = f"--custom_register_path {said}: {type(error).__name__}: {error}"
            raise UsageError("USAGE-02", what, fix="mend the file, or run with --debug") from error
