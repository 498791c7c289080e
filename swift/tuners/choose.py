"""From the options to what `Swift.prepare_model` is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import peft
from torch import nn

from swift.arguments.sft import SftArguments
from swift.arguments.specs import Spec, parse_specs
from swift.errors import ConfigError, MissingPackageError, SwiftError
from swift.registry import unknown
from swift.tuners.config import SwiftConfig, find_kind
from swift.tuners.keys import typed_values
from swift.tuners.lora import OURS, LoRAConfig
from swift.tuners.methods import available_sft_types, available_tuners, method_names
from swift.tuners.peft_options import PEFT, Values
from swift.tuners.targets import find_modules_to_save, find_targets

Config = peft.PeftConfig | SwiftConfig
TASKS = {"causal_lm": "CAUSAL_LM", "embedding": "FEATURE_EXTRACTION", "seq_cls": "SEQ_CLS", "reranker": "SEQ_CLS"}
"""What PEFT calls what a model gives; with SEQ_CLS it trains and saves the head `score` too."""
Choice = Config | dict[str, Config]


def choose_tuner(args: SftArguments, model: nn.Module, default_targets: Sequence[str] = ()) -> Choice:
    """The config that the options ask for; a dict when there are several, or when each is to have its own folder.

    Args:
        args: the decided options; `sft_type` is not "full".
        model: the base model, whose modules the targets are looked up in.
        default_targets: what DEFAULT stands for; empty means all linear layers.

    Raises:
        UnknownNameError: there is no such `sft_type`, tuner, or setting of a tuner.
        ConfigError: the targets contradict each other, or the model has no such part.
    """
    specs = parse_specs(args.tuner) or [Spec(args.sft_type, "default", {})]
    configs = {spec.name: config_of(spec, args, model, default_targets) for spec in specs}
    if args.neftune_noise_alpha and args.neftune_backend == "swift":
        configs["neftune"] = find_kind("neftune").from_dict({"noise_alpha": args.neftune_noise_alpha})
    first = next(iter(configs.values()))
    in_folders = isinstance(first, peft.PeftConfig) and args.tuner_backend == "swift"
    return configs if args.tuner or len(configs) > 1 or in_folders else first


def check_tuners(args: SftArguments) -> list[SwiftError]:
    """What is wrong with the values of `--tuner`, as far as can be seen without a model."""
    errors: list[SwiftError] = []
    try:
        specs = parse_specs(args.tuner)
    except SwiftError as error:
        return [error]
    for spec in specs:
        try:
            typed_values(spec.kind, _class_of(spec.kind), spec.values)
        except SwiftError as error:
            errors.append(error)
    return errors


def config_of(spec: Spec, args: SftArguments, model: nn.Module, default_targets: Sequence[str]) -> Config:
    """The config of one tuner: what the options say, but for what `spec` says of it."""
    said = typed_values(spec.kind, _class_of(spec.kind), spec.values) if spec.values else {}
    if "target_modules" in said:
        words = said["target_modules"]
        args = replace(args, lora_target_modules=[words] if isinstance(words, str) else list(words))
        said["target_modules"] = find_targets(model, args.lora_target_modules, default_targets)
    if spec.kind in PEFT:
        return _peft_config(spec.kind, said, args, model, default_targets)
    if spec.kind not in method_names():
        raise unknown("sft_type", spec.kind, available_sft_types())
    kind = find_kind(spec.kind)
    if spec.kind in available_sft_types():
        return replace(kind.from_options(args, model, default_targets), **said)
    try:
        return kind(**said)
    except TypeError as error:
        raise ConfigError(
            "CONFIG-02",
            f"--tuner {spec.kind} is incomplete: {error}",
            fix=f"say what is missing: --tuner {spec.kind}:<field>=<value>",
        ) from error


def _class_of(kind: str) -> type:
    if kind not in available_tuners():
        raise unknown("tuner", kind, available_tuners())
    if kind == LoRAConfig.kind:
        return LoRAConfig  # which has more fields than the one for a tuner alone
    return PEFT[kind].config if kind in PEFT else find_kind(kind)


def _peft_config(
    kind: str, said: Values, args: SftArguments, model: nn.Module, default_targets: Sequence[str]
) -> peft.PeftConfig:
    row = PEFT[kind]
    values: Values = {field: _whole(getattr(args, option)) for field, option in row.options.items()}
    values["task_type"] = TASKS[args.task_type]
    if row.targets is not None:
        targets = getattr(args, row.targets)
        targets = args.lora_target_modules if targets == ["DEFAULT"] else targets
        values["target_modules"] = find_targets(model, targets, default_targets)
        values["modules_to_save"] = getattr(args, row.saved) or args.lora_modules_to_save
    values = row.finish({**values, **said}, args, model)
    if row.targets is not None:
        values["modules_to_save"] = find_modules_to_save(model, values["modules_to_save"] or []) or None
    config = LoRAConfig if kind == LoRAConfig.kind and set(said) & set(OURS) else row.config
    try:
        return config(**values)
    except SwiftError:
        raise
    except ImportError as error:
        raise MissingPackageError("PACKAGE-01", f"{kind}: {error}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError("CONFIG-02", f"{kind}: {error}") from error


def _whole(value: Any) -> Any:
    """A number without a fraction as an int: PEFT writes it so."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
