"""From options to a model that can answer: what infer, export and the servers share."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import transformers
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from swift.arguments.data import DataOptions, LossOptions
from swift.arguments.infer import CheckpointOptions, InferArguments
from swift.arguments.model import ModelOptions, NewTokenOptions
from swift.commands.chosen import find_checkpoint as find_checkpoint
from swift.commands.chosen import from_checkpoint, load_plugins
from swift.commands.chosen import read_saved as read_saved
from swift.decide import decide_infer, tidy
from swift.errors import ConfigError
from swift.inference.embedding import Embedder, read_recipe
from swift.log import get_logger
from swift.models.load import TORCH_DTYPES, detect_hardware, get_max_model_len, load_model, load_tokenizer
from swift.models.new_tokens import add_tokens, read, restore
from swift.models.placing import loading_options
from swift.models.quantised import quiet_quantisers
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
        transformers.logging.disable_progress_bar()
        for noise in (".*is_gradient_checkpointing.*", ".*`broadcast_buffers` is deprecated.*"):
            warnings.filterwarnings("ignore", message=noise, category=FutureWarning)
    quiet_quantisers()


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
        **loading_options(args.device_map or ("auto" if detect_hardware().accelerator else None)),
        attn_implementation="flash_attention_2" if args.use_flash_attn else None,
        quantised=args,
    )
    if args.ckpt_dir and files.folders(Path(args.ckpt_dir)):
        add_saved_rows(model, args.ckpt_dir)
        allowed = args.allow_other_base
        model = Swift.from_pretrained(model, args.ckpt_dir, inference_mode=True, allow_other_base=allowed)
    return model.eval()


def load_embedder(args: InferArguments, source: ModelSource) -> Embedder:
    """What gives vectors, in its decided dtype.

    Raises:
        ConfigError: an adapter was asked for.
        DataError: what makes vectors of hidden states is damaged, or has steps that are not known.
    """
    if args.ckpt_dir:
        what = f"--ckpt_dir {args.ckpt_dir}: adapters of models that give vectors are served merged"
        raise ConfigError("CONFIG-02", what, fix=f"--merge_lora true, or --model_id_or_path {args.ckpt_dir}-merged")
    recipe = read_recipe(source.path)
    model = load_model(
        source,
        TORCH_DTYPES[args.dtype],
        **loading_options(args.device_map or ("auto" if detect_hardware().accelerator else None)),
        attn_implementation="flash_attention_2" if args.use_flash_attn else None,
        quantised=args,
        auto_class=AutoModel,
    )
    return Embedder(model, load_tokenizer(source, answers=False), recipe, get_max_model_len(source.config))
