"""Which tensor-parallel degrees a model allows, and what does not go with one; light, to be asked before anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from swift.arguments.sft import SftArguments
from swift.dist import Hardware
from swift.errors import ConfigError, SwiftError

OPTIMISERS = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop", "adagrad")  # to which each number is by itself
HEADS = {"num_attention_heads": "attention heads", "num_key_value_heads": "heads of keys and values"}


def check_degree(degree: int, sizes: Mapping[str, int]) -> None:
    """Raise ConfigError, with the degrees that are allowed, where one does not divide all `sizes`."""
    wrong = [f"{size} {name}" for name, size in sizes.items() if size % degree]
    if wrong:
        common = math.gcd(*sizes.values())
        allowed = [str(number) for number in range(1, common + 1) if common % number == 0]
        what = f"a tensor-parallel degree of {degree} does not divide the model's {', '.join(wrong)}"
        why = "every process holds as many whole heads, of keys and values too, as the others"
        raise ConfigError("CONFIG-02", what, why=why, fix=f"one of {', '.join(allowed)}")


def contradictions(args: SftArguments, hardware: Hardware, config: Mapping[str, Any]) -> list[SwiftError]:
    """Why a run's model cannot be cut as `--tensor_parallel_size` says; nothing where that is 1.

    Args:
        args: the options.
        hardware: how many processes there are.
        config: the model's config.json.
    """
    degree = args.tensor_parallel_size
    if degree == 1:
        return []
    errors: list[SwiftError] = []
    if hardware.world_size % degree:
        what = f"--tensor_parallel_size {degree} with {hardware.world_size} processes"
        why = "every model is held by as many processes"
        errors.append(ConfigError("CONFIG-02", what, why=why, fix=f"NPROC_PER_NODE={degree} swift sft …"))
    try:
        check_degree(degree, {said: config[name] for name, said in HEADS.items() if isinstance(config.get(name), int)})
    except ConfigError as error:
        errors.append(error)
    found = [said for said, holds in _clashes(args, config).items() if holds]
    if found:
        what = f"--tensor_parallel_size {degree} does not go with {', '.join(found)}"
        errors.append(ConfigError("CONFIG-02", what, fix="drop one of the two"))
    return errors


def _clashes(args: SftArguments, config: Mapping[str, Any]) -> dict[str, bool]:
    """What is said that each process would do to its part alone, or that wants the whole model in one place."""
    lora = args.sft_type == "lora"
    return {
        "--deepspeed": bool(args.deepspeed),
        "--fsdp": bool(args.fsdp),
        "--device_map": bool(args.device_map),
        "a quantised base": bool(args.quantization_bit or args.quant_method or config.get("quantization_config")),
        f"--sft_type {args.sft_type}: only lora and full": args.sft_type not in ("lora", "full"),
        "--tuner": bool(args.tuner),
        f"--tuner_backend {args.tuner_backend}": args.tuner_backend != "peft",
        "--use_galore": args.use_galore,
        "--lisa_activated_layers": bool(args.lisa_activated_layers),
        f"--optim {args.optim}: only {', '.join(OPTIMISERS)}": args.optim not in OPTIMISERS,
        "--use_dora": lora and args.use_dora,
        f"--init_lora_weights {args.init_lora_weights}": lora
        and args.init_lora_weights.lower() not in ("true", "false", "gaussian"),
        "--lora_modules_to_save": lora and bool(args.lora_modules_to_save),
        "--lora_target_modules EMBEDDING": lora and "EMBEDDING" in args.lora_target_modules,
        "--new_special_tokens": bool(args.new_special_tokens),
        "--dtype fp16: its loss scale would differ between processes": args.dtype == "fp16",
        "--streaming": args.streaming,
    }
