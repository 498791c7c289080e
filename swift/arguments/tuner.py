"""Options of the tuning methods: which ones, and by inheritance those of each."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option
from swift.arguments.lora import LoraOptions
from swift.arguments.methods import FullOptions, MethodOptions
from swift.arguments.peft import ProductOptions, ScalingOptions, VirtualTokenOptions


@dataclass(kw_only=True)
class ChoiceOptions:
    """Which tuner, or which ones."""

    sft_type: str = option(
        "lora",
        group="Tuner",
        help="What trains: the `full` model, or a tuner: lora, longlora, adalora, ia3, boft, oft, vera, fourierft, "
        "loha, lokr, prefix_tuning, prompt_tuning, p_tuning, adapter, llamapro, reft, prompt, part or side.",
    )
    tuner: list[str] = option(
        [],
        group="Tuner",
        help="Several tuners at once instead of --sft_type, such as `lora:rank=8,targets=ALL adapter:length=64`; "
        "`name=` names an adapter, which is called by its kind otherwise.",
    )
    tuner_backend: str = option(
        "peft",
        group="Tuner",
        choices=("peft", "swift", "unsloth"),
        help="Who makes the tuner: PEFT in its own layout, swift with one folder per tuner, or UnSloth on a GPU.",
    )


@dataclass(kw_only=True)
class TunerOptions(
    FullOptions, VirtualTokenOptions, ProductOptions, ScalingOptions, MethodOptions, LoraOptions, ChoiceOptions
):
    """Which parameters train: those of a tuner, of several, or of the whole model."""
