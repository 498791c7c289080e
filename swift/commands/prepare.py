"""From options to a model that can answer: what infer, export and the servers share."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import transformers
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from swift.arguments.data import DataOptions, LossOptions
from swift.arguments.infer import CheckpointOptions, InferArguments
from swift.arguments.model import ModelOptions, NewTokenOptions
from swift.arguments.vllm import VllmOptions
from swift.commands.chosen import find_checkpoint as find_checkpoint
from swift.commands.chosen import from_checkpoint, load_plugins
from swift.commands.chosen import read_saved as read_saved
from swift.decide import decide_infer, tidy
from swift.errors import ConfigError
from swift.heads.files import Head
from swift.inference import vllm_engine
from swift.inference.embedding import Embedder, read_recipe
from swift.inference.vllm import InferenceEngine, VllmGenerationConfig, engine_of
from swift.inference.vllm_engine import VllmModel
from swift.log import get_logger
from swift.merging.adapters import table_rows
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
OWN = "default-lora"  # the adapter of --ckpt_dir
MOST_LORAS = 4  # adapters whose rows vLLM puts into one batch; others wait


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


def prepare_vllm_engine_template(said: InferArguments, use_async: bool = False) -> tuple[InferenceEngine, Template]:
    """What `inference_vllm` takes, as `said` asks for it: a model, or a checkpoint's model with its adapter.

    Args:
        said: options; vLLM answers where it is installed, else our own engine, which is said in a line.
        use_async: means nothing: one engine answers lists and streams.
    """
    prepared = prepare_model_template(replace(said, infer_backend="vllm"))
    engine = engine_of(
        prepared.model, prepared.tokenizer, allow_lora=said.vllm_enable_lora, slots=prepared.args.batch_size
    )
    engine.generation_config = VllmGenerationConfig(
        max_new_tokens=prepared.args.max_new_tokens,
        temperature=prepared.args.temperature if prepared.args.do_sample else 0.0,
        top_k=prepared.args.top_k,
        top_p=prepared.args.top_p,
        repetition_penalty=prepared.args.repetition_penalty,
        num_beams=prepared.args.num_beams,
        stop=prepared.args.stop_words,
    )
    return engine, prepared.template


def load_template(args: DataOptions, source: ModelSource) -> Template:
    """The tokenizer, with tokens that the run or its checkpoint added, in its template; says what ends a turn."""
    tokenizer = load_trained_tokenizer(source, args.ckpt_dir if isinstance(args, CheckpointOptions) else None)
    if isinstance(args, NewTokenOptions):
        add_tokens(tokenizer, args.new_special_tokens)
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


def load_trained_tokenizer(source: ModelSource, ckpt_dir: str | Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer as a checkpoint was trained with it: its own, as scripts with PEFT save one, or the base's.

    Raises:
        DataError: the tokens that were added for the training get other ids.
    """
    if ckpt_dir and source.has_own_tokenizer(Path(ckpt_dir)):
        tokenizer = load_tokenizer(replace(source, path=Path(ckpt_dir)))
        tokenizer.model_dir = str(source.path)
        tokenizer.chat_template = tokenizer.chat_template or load_tokenizer(source).chat_template
    else:
        tokenizer = load_tokenizer(source)
    new = read(ckpt_dir)
    if new is not None:
        restore(tokenizer, new, str(ckpt_dir))
    return tokenizer


def add_saved_rows(model: Any, ckpt_dir: str | Path | None) -> None:
    """Give a base rows for the tokens that the checkpoint, an adapter's, was trained with."""
    new = read(ckpt_dir)
    if new is not None:
        make_room(model, list(new.ids.values()), rows=new.rows)
    saved = map(table_rows, files.folders(Path(ckpt_dir)).values()) if ckpt_dir else ()
    rows = next((one for one in saved if one), None)
    if rows is not None and rows != model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)


def find_decided(said: InferArguments) -> tuple[InferArguments, ModelSource]:
    """The decided options and the model they mean, with nothing loaded yet."""
    args = from_checkpoint(tidy(said))
    load_plugins(args.custom_register_path)
    source = find_source(args)
    return decide_infer(choose_backend(args), detect_hardware(), source), source


def choose_backend(said: InferArguments) -> InferArguments:
    """`said` with an engine that is there: where vLLM is asked for and absent, our own, which says so."""
    absent = vllm_engine.missing() if said.infer_backend == "vllm" else None
    if absent:
        logger.warning(f"{absent} (the extra vllm brings it): swift's own engine answers")
        return replace(said, infer_backend="pt")
    plain = InferArguments()
    names = [field.name for field in fields(VllmOptions) if getattr(said, field.name) != getattr(plain, field.name)]
    if names and said.infer_backend != "vllm":
        logger.warning(f"only --infer_backend vllm looks at {', '.join(f'--{name}' for name in names)}")
    return said


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
    """The model in its decided dtype, with the checkpoint's adapters on, ready to answer; or vLLM with it.

    Raises:
        ConfigError: it has a head of its own, and writes no text.
    """
    head = Head.read(Path(args.ckpt_dir) if args.ckpt_dir else source.path)
    if head is not None:
        what = f"{args.ckpt_dir or source.path} has a head for {head.task_type}: it writes no text"
        fix = "swift infer --dataset rows.jsonl, which says what the head says"
        if head.task_type == "embedding":
            fix += "; swift export --merge_lora true, whose model swift deploy serves"
        raise ConfigError("CONFIG-02", what, fix=fix)
    if isinstance(args, InferArguments) and args.infer_backend == "vllm":
        return start_vllm(args, source)
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


def start_vllm(args: InferArguments, source: ModelSource) -> VllmModel:
    """Start vLLM with the model, and with the checkpoint's adapter where there is one.

    Raises:
        MissingPackageError: vLLM cannot be imported.
        ConfigError: it cannot serve the model, or the adapter.
    """
    if args.ckpt_dir and read(args.ckpt_dir) is not None and files.folders(Path(args.ckpt_dir)):
        raise ConfigError("CONFIG-02", "vLLM knows no tokens that an adapter brings along", fix="--merge_lora true")
    model = vllm_engine.start(
        source, args.dtype, args, seed=args.seed or 0, max_loras=MOST_LORAS, lookup=args.prompt_lookup_num_tokens
    )
    if args.ckpt_dir and files.folders(Path(args.ckpt_dir)):
        model.engine.add_adapter(OWN, Path(args.ckpt_dir))
        model.engine.active = OWN
    return model


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
