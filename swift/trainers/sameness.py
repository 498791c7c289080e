"""Whether a run is that of a checkpoint: what decides its numbers, and in what two runs differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import nn
from transformers.trainer_utils import has_length

from swift import storage
from swift._version import __version__
from swift.arguments.fields import options_of, to_json
from swift.arguments.sft import SftArguments
from swift.arguments.specs import parse_specs
from swift.arguments.tuner import TunerOptions
from swift.datasets.digest import digest_of_rows
from swift.errors import ConfigError
from swift.log import get_logger
from swift.trainers.adalora import configs_of
from swift.trainers.arguments import OwnTrainingArguments
from swift.tuners import files, fingerprint
from swift.tuners.lora import folded
from swift.tuners.model import SwiftModel

logger = get_logger()
ALWAYS = ("world_size", "per_device_train_batch_size", "gradient_accumulation_steps", "rows", "seed")
OF_DATA = ("per_device_train_batch_size", "gradient_accumulation_steps", "rows", "data", "seed", "data_seed", "length")
SETTINGS = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "seed", "data_seed", "learning_rate",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha", "bf16", "fp16",
    "dataloader_drop_last", "train_sampling_strategy", "max_tokens_per_batch", "padding_free", "loss_name",
    "lisa_activated_layers", "lisa_step_interval", "galore_config", "own_optim", "fused_cross_entropy", "fused_lora",
    "layer_compiler", "layer_compiler_mode", "liger_kernels",
)  # fmt: skip
OF_MODEL = (
    "dtype", "gradient_checkpointing", "use_flash_attn", "quantization_bit", "quant_method", "bnb_4bit_comp_dtype",
    "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "hqq_axis", "hqq_dynamic_config_path",
)  # fmt: skip
SHAPELESS = {"lora_alpha", "lora_dropout", "use_rslora"}
SHOWN = 8


def facts_of(args: OwnTrainingArguments, rows: Any, world_size: int) -> dict[str, Any]:
    """What decides the numbers of a run, as JSON has it.

    Args:
        args: its arguments.
        rows: what it trains on.
        world_size: how many processes train.
    """
    said = args.to_dict()
    return {
        "world_size": world_size,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() and not args.use_cpu else "cpu",
        "rows": len(rows) if has_length(rows) else None,
        "data": digest_of_rows(rows),
        **{name: said[name] for name in SETTINGS},
        "length": f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs",
    }


def versions() -> dict[str, str]:
    """What computes."""
    return {
        "swift": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def check_same_run(
    directory: Path,
    now: Mapping[str, Any],
    *,
    tuned: bool,
    data_too: bool = True,
    options: SftArguments | None = None,
    model: nn.Module | None = None,
    allow: bool = False,
) -> None:
    """Refuse to go on from a checkpoint in a run whose numbers would be others than those of the run that wrote it.

    Args:
        directory: the checkpoint.
        now: what `facts_of` says of this run.
        tuned: whether this run trains adapters and not a whole model.
        data_too: False where the data starts anew anyway: what decides its order does not count then.
        options: the options of this run, of which those of the tuner count; None where there are none.
        model: the model with its adapters, whose base is compared; None where it is not loaded yet.
        allow: only warn. Adapters and a whole model never follow each other.

    Raises:
        ConfigError: the runs differ; every difference is named.
    """
    other_kind = "a whole model, not adapters" if tuned else "adapters, not a whole model"
    if bool(files.folders(directory)) != tuned:
        raise ConfigError(
            "CONFIG-02",
            f"{directory} cannot be gone on from: it holds {other_kind}",
            fix="use the same --sft_type, or another checkpoint",
        )
    found = differences(directory, now, data_too=data_too, options=options, model=model)
    if not found:
        return
    shown = "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    if allow:
        logger.warning(f"resume: inexact because {shown}")
        return
    begin = "--resume_only_model true" if tuned else f"--model_id_or_path {directory}"
    raise ConfigError(
        "CONFIG-02",
        f"going on from {directory} would not be exact: {shown}",
        fix=f"use the same values; --allow_inexact_resume true goes on all the same, {begin} starts a new run with its "
        "weights",
    )


def differences(
    directory: Path,
    now: Mapping[str, Any],
    *,
    data_too: bool = True,
    options: SftArguments | None = None,
    model: nn.Module | None = None,
) -> list[str]:
    """In what a run differs from the one that wrote a checkpoint, one phrase each; see `check_same_run`."""
    manifest = storage.read_manifest(directory)
    then, now = ({"tensor_parallel_size": 1} | facts for facts in (manifest.get("run", {}), _as_json(now)))
    names = [name for name in now if (name in then or name in ALWAYS) and (data_too or name not in OF_DATA)]
    if now.get("lr_scheduler_type") == "constant" and "adalora" not in _kinds(options):
        names = [name for name in names if name != "length"]  # no step depends on how many there are
    found = _unlike({name: then.get(name) for name in names}, now)
    found += _other_options(directory, options) if options is not None else []
    found += _unlike(manifest.get("versions", {}), versions())
    return found + (_other_adapters(directory, model) if model is not None else [])


def progress_of(directory: Path) -> str:
    """Where a checkpoint stands, in words: step, epoch and learning rate."""
    state = json.loads((directory / "trainer_state.json").read_text(encoding="utf-8"))
    rates = [line["learning_rate"] for line in state.get("log_history", []) if "learning_rate" in line]
    words = [f"step {state['global_step']} of {state['max_steps']}", f"epoch {state['epoch'] or 0:.2f}"]
    return ", ".join([*words, *([f"learning rate {rates[-1]:g}"] if rates else [])])


def _other_options(directory: Path, options: SftArguments) -> list[str]:
    """The options of the tuner, and of how the model computes, that the checkpoint was written with other values of."""
    path = directory / "sft_args.json"
    then = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    now = _as_json(to_json(options))
    names = [name for name in (*options_of(TunerOptions), *OF_MODEL) if name in then]
    return _unlike({name: then[name] for name in names}, now)


def _unlike(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The values of `then` that are others in `now`."""
    names = [name for name in then if name in now and then[name] != now[name]]
    return [f"{name} was {_short(then[name])}, is {_short(now[name])}" for name in names]


def _other_adapters(directory: Path, model: nn.Module) -> list[str]:
    """In what adapters differ that no shape shows: their base, and what scales or drops."""
    if not isinstance(model, SwiftModel | peft.PeftModel):
        return []
    base = model.fingerprint if isinstance(model, SwiftModel) else fingerprint.remembered(model)
    configs = configs_of(model)
    found: list[str] = []
    for name, stored in files.find(directory).items():
        differing = stored.base.differing(base) if stored.base is not None else None
        if differing and not found:
            found.append(f"the base model has other weights ({', '.join(differing[:3])})")
        then, now = vars(stored.config), vars(folded(configs[name])) if name in configs else {}
        for key in SHAPELESS & then.keys() & now.keys():
            if then[key] != now[key]:
                found.append(f"{key} of {name} was {_short(then[key])}, is {_short(now[key])}")
    return found


def _kinds(options: SftArguments | None) -> list[str]:
    return [] if options is None else [options.sft_type, *(spec.kind for spec in parse_specs(options.tuner))]


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from a file."""
    return json.loads(json.dumps(dict(values), default=repr))


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
