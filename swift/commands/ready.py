"""What is got ready before anything trains: the model that is meant, its rows, what is tuned of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PrefixTuningConfig, PromptEncoderConfig

from swift.arguments.sft import SftArguments
from swift.commands.prepare import find_source
from swift.datasets.encode import EncodedDataset, encode
from swift.datasets.ledger import Ledger
from swift.datasets.load import load_datasets, parse_specs
from swift.errors import ConfigError, SeveralErrors, SwiftError, raise_all
from swift.models.load import TORCH_DTYPES, finish_model, load_model
from swift.models.source import ModelSource
from swift.models.unsloth import add_unsloth_lora, load_unsloth
from swift.templates.template import Template
from swift.trainers.saving import read_encoder
from swift.tuners import Swift, files
from swift.tuners.choose import check_tuners, choose_tuner
from swift.tuners.freeze import freeze_parameters


@dataclass(frozen=True)
class Data:
    """Encoded rows and the account of every row read; `val` is None without evaluation."""

    train: EncodedDataset
    val: EncodedDataset | None
    ledger: Ledger


def find_inputs(args: SftArguments) -> ModelSource:
    """The model to tune. What is wrong with its name, with those of the data sets and with tuners is said at once."""
    mistakes: list[SwiftError] = check_tuners(args)
    try:
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


def read_data(args: SftArguments, template: Template) -> Data:
    """Read, split and encode the data sets."""
    loaded = load_datasets(
        args.dataset,
        val_specs=args.val_dataset,
        test_ratio=args.dataset_test_ratio if args.evaluation_strategy != "no" else 0.0,
        seed=args.dataset_seed,
        columns=args.columns,
        model_name=args.model_name,
        model_author=args.model_author,
        max_bad_rows=args.max_bad_rows,
    )
    train = encode(loaded.train, template, loaded.ledger)
    val = encode(loaded.val, template, loaded.ledger, split="validation") if loaded.val else None
    return Data(train, val, loaded.ledger)


def load_base(args: SftArguments, source: ModelSource) -> torch.nn.Module:
    """The model to tune, in its decided dtype."""
    if args.tuner_backend == "unsloth":
        model = load_unsloth(source, TORCH_DTYPES[args.dtype], _longest(args))
        finish_model(model, source)
        return model
    return load_model(
        source,
        TORCH_DTYPES[args.dtype],
        attn_implementation="flash_attention_2" if args.use_flash_attn else None,
    )


def add_tuner(args: SftArguments, model: torch.nn.Module, source: ModelSource) -> torch.nn.Module:
    """The model with what trains: fresh tuners, those to continue, or (a part of) itself.

    Raises:
        ConfigError: a tuner does not fit the model's shapes.
    """
    if args.sft_type == "full":
        freeze_parameters(model, args.freeze_parameters, args.additional_trainable_parameters)
        return model
    if args.resume_only_model and args.resume_from_checkpoint:
        return _continued(model, Path(args.resume_from_checkpoint))
    chosen = choose_tuner(args, model, source.targets)
    if args.tuner_backend == "unsloth":
        return add_unsloth_lora(
            model,
            vars(chosen),
            seed=args.seed,
            max_length=_longest(args),
            checkpointing=bool(args.gradient_checkpointing),
        )
    try:
        return Swift.prepare_model(model, chosen)
    except SwiftError:
        raise
    except ValueError as error:  # PEFT looks at shapes only now
        raise ConfigError("CONFIG-02", f"{' and '.join(args.tuner) or args.sft_type}: {error}") from error


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
