"""Which tuner looks at which option: what `without_effect` tells the others by."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import fields

from swift.arguments.tuner import ChoiceOptions, TunerOptions

WHERE = ("lora_target_modules", "lora_modules_to_save")
PEFT_LIKE = (*WHERE, "lora_bias_trainable")
LORA = (*PEFT_LIKE, "lora_rank", "lora_alpha", "lora_dropout_p", "lora_dtype", "lora_lr_ratio", "use_*ora")
LOOKED_AT = {
    "lora": (*LORA, "init_lora_weights"),
    "longlora": (*LORA, "longlora_*"),
    "adalora": (*PEFT_LIKE, "lora_alpha", "lora_dropout_p", "adalora_*"),
    "ia3": (*WHERE, "ia3_*"),
    "boft": (*PEFT_LIKE, "boft_*"),
    "oft": (*PEFT_LIKE, "oft_*"),
    "vera": (*PEFT_LIKE, "vera_*"),
    "fourierft": (*PEFT_LIKE, "fourier_*"),
    "loha": (*WHERE, "loha_*"),
    "lokr": (*WHERE, "lokr_*"),
    "prefix_tuning": ("num_virtual_tokens", "prefix_*", "encoder_hidden_size"),
    "prompt_tuning": ("num_virtual_tokens", "prompt_*"),
    "p_tuning": ("num_virtual_tokens", "encoder_*"),
    "adapter": ("lora_target_modules", "adapter_*"),
    "side": (),
    "prompt": (),
    "llamapro": ("llamapro_*",),
    "reft": ("reft_*",),
    "full": ("freeze_parameters", "additional_trainable_parameters", "use_galore", "lisa_activated_layers"),
}
"""Patterns of names; a tuner without a row looks at `lora_target_modules` alone."""
SWITCHES = {"use_galore": "galore_*", "lisa_activated_layers": "lisa_*", "neftune_noise_alpha": "neftune_*"}
"""Options that others are told nothing without, whatever trains."""


def looked_at(kinds: Iterable[str], said: Iterable[str]) -> set[str]:
    """The options of tuners that count when `kinds` train and the options `said` are other than by default."""
    patterns = [pattern for kind in kinds for pattern in LOOKED_AT.get(kind, ("lora_target_modules",))]
    patterns += [pattern for switch, pattern in SWITCHES.items() if switch in said]
    patterns += ["neftune_noise_alpha", *(field.name for field in fields(ChoiceOptions))]
    names = [field.name for field in fields(TunerOptions)]
    return {name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
