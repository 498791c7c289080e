"""Options -> the fields of PEFT's configs, one row for each of its methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import peft

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.log import get_logger
from swift.tuners.lora import LoraConfig
from swift.tuners.targets import find_same_shape, find_targets

Values = dict[str, Any]

logger = get_logger()
WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class Row:
    """How options become one of PEFT's configs.

    Attributes:
        config: the class.
        options: the option of each field.
        targets: the option that says where it goes; DEFAULT there is `--lora_target_modules`. None: it has no targets.
        saved: the option that says what trains in full beside it.
        finish: what is left to do to the fields.
    """

    config: type[peft.PeftConfig]
    options: Mapping[str, str]
    targets: str | None = "lora_target_modules"
    saved: str = "lora_modules_to_save"
    finish: Callable[[Values, SftArguments, Any], Values] = lambda values, args, model: values


def _lora(values: Values, args: SftArguments, model: Any) -> Values:
    start = values["init_lora_weights"]
    values["init_lora_weights"] = WORDS.get(start, start)
    values["lora_dtype"] = None if values["lora_dtype"] == "AUTO" else values["lora_dtype"]
    return {"loftq_config": peft.LoftQConfig(), **values} if start == "loftq" else values


def _adalora(values: Values, args: SftArguments, model: Any) -> Values:
    """The trainer puts the number of its steps in for `total_step`; PEFT wants one now."""
    least = values["tinit"] + values["tfinal"] + 1
    return {"total_step": max(args.max_steps, least), **values}


def _ia3(values: Values, args: SftArguments, model: Any) -> Values:
    """PEFT wants the feed-forward layers among the targets."""
    if not values["feedforward_modules"]:
        what = "ia3 needs feed-forward layers, which it scales at their input"
        raise ConfigError("CONFIG-02", what, fix="--ia3_feedforward_modules down_proj")
    said = values["feedforward_modules"]
    feedforward = find_targets(model, [said] if isinstance(said, str) else said)
    if isinstance(feedforward, str) or isinstance(values["target_modules"], str):
        raise ConfigError(
            "CONFIG-02", "ia3 takes names of modules, not regular expressions", fix="--ia3_target_modules k_proj v_proj"
        )
    targets = list(dict.fromkeys([*values["target_modules"], *feedforward]))
    return {**values, "target_modules": targets, "feedforward_modules": feedforward}


def _boft(values: Values, args: SftArguments, model: Any) -> Values:
    """Blocks are counted or sized, not both: a count that is said wins over the size nobody said."""
    return {**values, "boft_block_size": 0} if values["boft_block_num"] and values["boft_block_size"] == 4 else values


def _oft(values: Values, args: SftArguments, model: Any) -> Values:
    return {**values, "oft_block_size": 0} if values["r"] and values["oft_block_size"] == 32 else values


def _vera(values: Values, args: SftArguments, model: Any) -> Values:
    kept, dropped = find_same_shape(model, values["target_modules"])
    if dropped:
        logger.warning(f"vera: {', '.join(dropped)} are left out: their shape is not that of {', '.join(kept)}")
    return {**values, "target_modules": kept if dropped else values["target_modules"]}


def _prompt_tuning(values: Values, args: SftArguments, model: Any) -> Values:
    if values["prompt_tuning_init_text"] is None:
        return values
    path = args.model_id_or_path or model.config.name_or_path
    return {**values, "prompt_tuning_init": "TEXT", "tokenizer_name_or_path": path}


LORA = {
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout_p",
    "bias": "lora_bias_trainable",
    "use_rslora": "use_rslora",
}
PEFT: dict[str, Row] = {
    "lora": Row(
        LoraConfig,
        {
            **LORA,
            "r": "lora_rank",
            "use_dora": "use_dora",
            "init_lora_weights": "init_lora_weights",
            "lora_dtype": "lora_dtype",
            "lorap_lr_ratio": "lora_lr_ratio",
        },
        finish=_lora,
    ),
    "adalora": Row(
        peft.AdaLoraConfig,
        {
            **{field: option for field, option in LORA.items() if field != "use_rslora"},
            **{
                field: f"adalora_{field}"
                for field in ("target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight")
            },
        },
        finish=_adalora,
    ),
    "ia3": Row(
        peft.IA3Config,
        {"feedforward_modules": "ia3_feedforward_modules"},
        "ia3_target_modules",
        "ia3_modules_to_save",
        _ia3,
    ),
    "boft": Row(
        peft.BOFTConfig,
        {
            "boft_block_size": "boft_block_size",
            "boft_block_num": "boft_block_num",
            "boft_n_butterfly_factor": "boft_n_butterfly_factor",
            "boft_dropout": "boft_dropout",
            "bias": "lora_bias_trainable",
        },
        "boft_target_modules",
        "boft_modules_to_save",
        _boft,
    ),
    "oft": Row(
        peft.OFTConfig,
        {
            "r": "oft_block_num",
            "oft_block_size": "oft_block_size",
            "module_dropout": "oft_dropout",
            "coft": "oft_coft",
            "block_share": "oft_block_share",
            "bias": "lora_bias_trainable",
        },
        finish=_oft,
    ),
    "vera": Row(
        peft.VeraConfig,
        {
            "r": "vera_rank",
            "projection_prng_key": "vera_projection_prng_key",
            "vera_dropout": "vera_dropout",
            "d_initial": "vera_d_initial",
            "bias": "lora_bias_trainable",
        },
        "vera_target_modules",
        "vera_modules_to_save",
        _vera,
    ),
    "fourierft": Row(
        peft.FourierFTConfig,
        {"n_frequency": "fourier_n_frequency", "scaling": "fourier_scaling", "bias": "lora_bias_trainable"},
    ),
    "loha": Row(peft.LoHaConfig, {"r": "loha_rank", "alpha": "loha_alpha", "rank_dropout": "loha_dropout"}),
    "lokr": Row(
        peft.LoKrConfig,
        {
            "r": "lokr_rank",
            "alpha": "lokr_alpha",
            "rank_dropout": "lokr_dropout",
            "decompose_both": "lokr_decompose_both",
            "decompose_factor": "lokr_decompose_factor",
        },
    ),
    "prefix_tuning": Row(
        peft.PrefixTuningConfig,
        {
            "num_virtual_tokens": "num_virtual_tokens",
            "prefix_projection": "prefix_projection",
            "encoder_hidden_size": "encoder_hidden_size",
        },
        None,
    ),
    "prompt_tuning": Row(
        peft.PromptTuningConfig,
        {"num_virtual_tokens": "num_virtual_tokens", "prompt_tuning_init_text": "prompt_init_text"},
        None,
        finish=_prompt_tuning,
    ),
    "p_tuning": Row(
        peft.PromptEncoderConfig,
        {
            "num_virtual_tokens": "num_virtual_tokens",
            "encoder_hidden_size": "encoder_hidden_size",
            "encoder_reparameterization_type": "encoder_type",
        },
        None,
    ),
}
"""Every row is a word of `--sft_type`: those of `swift.tuners.methods.PEFT_TYPES`."""
