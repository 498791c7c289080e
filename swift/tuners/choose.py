"""From the options to what `Swift.prepare_model` is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peft
from torch import nn

from swift.arguments.sft import SftArguments
from swift.registry import unknown
from swift.tuners.config import SwiftConfig, find_kind
from swift.tuners.lora import LoraConfig
from swift.tuners.methods import available_sft_types, method_names
from swift.tuners.targets import find_modules_to_save, find_targets

Choice = peft.PeftConfig | SwiftConfig | dict[str, peft.PeftConfig | SwiftConfig]


def choose_tuner(args: SftArguments, model: nn.Module, default_targets: Sequence[str] = ()) -> Choice:
    """The config that the options ask for; in a dict when a LoRA checkpoint is to have our layout.

    Args:
        args: the decided options; `sft_type` is not "full".
        model: the base model, whose modules the targets are looked up in.
        default_targets: what DEFAULT stands for; empty means all linear layers.

    Raises:
        UnknownNameError: there is no such `sft_type`.
        ConfigError: the targets contradict each other, or the model has no such part.
    """
    if args.sft_type == "lora":
        config = _lora(args, model, default_targets)
        return {"default": config} if args.tuner_backend == "swift" else config
    if args.sft_type not in method_names():
        raise unknown("sft_type", args.sft_type, available_sft_types())
    return find_kind(args.sft_type).from_options(args, model, default_targets)


def _lora(args: SftArguments, model: nn.Module, default_targets: Sequence[str]) -> LoraConfig:
    options: dict[str, Any] = {
        "task_type": "CAUSAL_LM",
        "r": args.lora_rank,
        "lora_alpha": int(args.lora_alpha) if float(args.lora_alpha).is_integer() else args.lora_alpha,
        "lora_dropout": args.lora_dropout_p,
        "target_modules": find_targets(model, args.lora_target_modules, default_targets),
        "modules_to_save": find_modules_to_save(model, args.lora_modules_to_save) or None,
        "bias": args.lora_bias_trainable,
        "use_rslora": args.use_rslora,
        "use_dora": args.use_dora,
        "init_lora_weights": {"true": True, "false": False}.get(args.init_lora_weights, args.init_lora_weights),
        "lora_dtype": None if args.lora_dtype == "AUTO" else args.lora_dtype,
        "lorap_lr_ratio": args.lora_lr_ratio,
    }
    return LoraConfig(**options)
