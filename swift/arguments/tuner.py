"""Options of the tuning methods."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option


@dataclass(kw_only=True)
class TunerOptions:
    """Which parameters train: LoRA, an adapter, or the whole model."""

    sft_type: str = option("lora", group="Tuner", help="What trains: `lora`, `adapter` or the `full` model.")
    tuner_backend: str = option(
        "peft",
        group="Tuner",
        choices=("peft", "swift"),
        help="Layout of a LoRA checkpoint: PEFT's own, or one folder per tuner.",
    )
    lora_target_modules: list[str] = option(
        ["DEFAULT"],
        group="Tuner",
        help="Where LoRA goes: DEFAULT (the model's attention projections), ALL linear layers, EMBEDDING, "
        "module names, or one regular expression.",
    )
    lora_rank: int = option(
        8, group="Tuner", minimum=1, help="Rank r of the update BA (arXiv:2106.09685, section 4.1)."
    )
    lora_alpha: float = option(32, group="Tuner", help="Scale of the update: it is multiplied by alpha / r.")
    lora_dropout_p: float = option(0.05, group="Tuner", minimum=0, maximum=1, help="Dropout before A, while training.")
    lora_bias_trainable: str = option(
        "none", group="Tuner", choices=("none", "all"), help="Whether the biases of the model train too."
    )
    lora_modules_to_save: list[str] = option(
        [], group="Tuner", help="Modules that train in full and are saved whole: names, EMBEDDING or LN."
    )
    lora_dtype: str = option(
        "AUTO",
        group="Tuner",
        choices=("AUTO", "fp16", "bf16", "fp32"),
        help="Precision of A and B; AUTO is the layer's, or float32 where that is half.",
    )
    lora_lr_ratio: float | None = option(
        None,
        group="Tuner",
        help="LoRA+: learning rate of B over that of A (arXiv:2402.12354); 16 is usual.",
        none="off",
    )
    use_rslora: bool = option(False, group="Tuner", help="Scale by alpha / sqrt(r) (arXiv:2312.03732).")
    use_dora: bool = option(False, group="Tuner", help="Train magnitude and direction apart (arXiv:2402.09353).")
    init_lora_weights: str = option(
        "true", group="Tuner", help="How A and B start: true (B zero), false, gaussian, pissa, pissa_niter_N or olora."
    )
    adapter_length: int = option(128, group="Tuner", minimum=1, help="Width of the adapter's bottleneck.")
    adapter_act: str = option("gelu", group="Tuner", help="Activation inside the adapter, by its transformers name.")
    freeze_parameters: float = option(
        0.0,
        group="Tuner",
        minimum=0,
        maximum=1,
        help="Share of the model's first parameters that full training freezes.",
    )
    additional_trainable_parameters: list[str] = option(
        [], group="Tuner", help="Prefixes of frozen parameters that full training trains after all."
    )
