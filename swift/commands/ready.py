"""What is got ready before anything trains: the model that is meant, its rows, what is tuned of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptEncoderConfig

from swift.arguments.sft import SftArguments
from swift.commands.prepare import find_source
from swift.commands.rows import Data as Data
from swift.commands.rows import read_data as read_data
from swift.datasets.info import register_infos
from swift.datasets.load import parse_specs
from swift.errors import ConfigError, SeveralErrors, SwiftError, raise_all
from swift.models.load import TORCH_DTYPES, finish_model, load_model
from swift.models.new_tokens import check_same, read, spelt_tokens
from swift.models.placing import check_trains, loading_options, own_devices
from swift.models.room import make_room, token_rows
from swift.models.source import ModelSource, with_weights
from swift.models.unsloth import add_unsloth_lora, load_unsloth
from swift.parallel.groups import make_group
from swift.parallel.load import load_part
from swift.templates.template import Template
from swift.trainers.saving import read_encoder
from swift.tuners import Swift, files
from swift.tuners.choose import check_tuners, choose_tuner
from swift.tuners.freeze import freeze_parameters


def spell_out(args: SftArguments) -> SftArguments:
    """`args` with the tokens that are named in files."""
    return replace(args, new_special_tokens=spelt_tokens(args.new_special_tokens))


def new_ids(args: SftArguments, template: Template) -> list[int]:
    """The ids of the new tokens, which are those that a checkpoint to go on from has.

    Raises:
        UsageError: the checkpoint was trained with other new tokens.
    """
    if args.resume_from_checkpoint:
        check_same(read(args.resume_from_checkpoint), args.new_special_tokens, args.resume_from_checkpoint)
    vocabulary = template.tokenizer.get_vocab() if args.new_special_tokens else {}
    return [vocabulary[word] for word in args.new_special_tokens]


def find_inputs(args: SftArguments) -> ModelSource:
    """The model to tune. What is wrong with its name, with those of the data sets and with tuners is said at once."""
    mistakes: list[SwiftError] = check_tuners(args)
    try:
        register_infos(args.custom_dataset_info)
        parse_specs([*args.dataset, *args.val_dataset])
    except SwiftError as error:
        mistakes.append(error)
    try:
        source = find_source(args)
    except SwiftError as error:
        if not mistakes:
            raise
        raise SeveralErrors([error, *mistakes]) from None
    raise_all(mistakes)
    return source


def load_base(args: SftArguments, source: ModelSource, new: Sequence[int] = (), **how: Any) -> torch.nn.Module:
    """The model to tune, in its decided dtype, with rows for the ids `new`; `how` is told to `load_model` besides."""
    if args.tuner_backend == "unsloth":
        model = load_unsloth(source, TORCH_DTYPES[args.dtype], _longest(args))
        finish_model(model, source)
        return model
    attention = "flash_attention_2" if args.use_flash_attn else None
    if args.tensor_parallel_size > 1:
        source, group = with_weights(source), make_group(args.tensor_parallel_size)
        model = load_part(source.path, group, dtype=TORCH_DTYPES[args.dtype], attn_implementation=attention)
        finish_model(model, source)
        return model
    model = load_model(
        source,
        TORCH_DTYPES[args.dtype],
        attn_implementation=attention,
        quantised=args,
        **loading_options(args.device_map or _spread(args)),
        **how,
    )
    check_trains(model)
    make_room(model, new, args.pad_vocab_to_multiple_of)
    return model


def _spread(args: SftArguments) -> str | None:
    """Over all GPUs of a process that is alone; an engine shares in its own way."""
    alone = own_devices() > 1 and not args.deepspeed and not args.fsdp
    return "auto" if alone else None


def add_tuner(
    args: SftArguments, model: torch.nn.Module, source: ModelSource, new: Sequence[int] = ()
) -> torch.nn.Module:
    """The model with what trains: fresh tuners, those to continue, or (a part of) itself; the rows `new` always do.

    Raises:
        ConfigError: a tuner does not fit the model's shapes.
    """
    if args.sft_type == "full":
        freeze_parameters(model, args.freeze_parameters, args.additional_trainable_parameters)
        return model
    if args.resume_only_model and args.resume_from_checkpoint:
        return _continued(model, Path(args.resume_from_checkpoint))
    chosen = _with_rows(choose_tuner(args, model, source.targets), model, new)
    if args.tuner_backend == "unsloth":
        return add_unsloth_lora(
            model,
            vars(chosen),
            seed=args.seed,
            max_length=_longest(args),
            checkpointing=bool(args.gradient_checkpointing),
        )
    try:
        return Swift.prepare_model(model, chosen, extra_state_keys=_own_head(args, chosen))
    except SwiftError:
        raise
    except ValueError as error:  # PEFT looks at shapes only now
        raise ConfigError("CONFIG-02", f"{' and '.join(args.tuner) or args.sft_type}: {error}") from error


def _own_head(args: SftArguments, chosen: Any) -> tuple[str, ...]:
    """What of the base trains beside tuners: a fresh head, which PEFT's configs name themselves."""
    has_head = args.task_type in ("seq_cls", "reranker")
    return () if isinstance(chosen, PeftConfig) or not has_head else (r"score\.weight",)


def _with_rows(chosen: Any, model: torch.nn.Module, new: Sequence[int]) -> Any:
    """The tuners' configs, of which the first LoRA also trains the rows `new`."""
    configs = chosen.values() if isinstance(chosen, dict) else [chosen]
    if new:
        first = next(config for config in configs if isinstance(config, LoraConfig))
        first.trainable_token_indices = token_rows(model, new)
    return chosen


def _continued(model: torch.nn.Module, directory: Path) -> torch.nn.Module:
    """The model with the tuners of a checkpoint, to train them further."""
    first = next(iter(files.find(directory).values()))
    config = first.config
    if isinstance(config, PromptEncoderConfig) or (isinstance(config, PrefixTuningConfig) and config.prefix_projection):
        config.inference_mode = False
        tuned = Swift.prepare_model(model, config)
        read_encoder(tuned, directory)
        return tuned
    return Swift.from_pretrained(model, directory, is_trainable=True)


def _longest(args: SftArguments) -> int | None:
    return args.max_length if args.max_length > 0 else None
