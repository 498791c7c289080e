"""Options of LoRA and of the tuners that are LoRA with something more."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option


@dataclass(kw_only=True)
class LoraOptions:
    """Where a tuner goes, and LoRA with its variants: LoRA+, rsLoRA, DoRA, LongLoRA, AdaLoRA."""

    lora_target_modules: list[str] = option(
        ["DEFAULT"],
        group="LoRA",
        help="Where the tuner goes: DEFAULT (the model's attention projections), ALL linear layers, EMBEDDING, "
        "module names, or one regular expression.",
    )
    lora_rank: int = option(8, group="LoRA", minimum=1, help="Rank r of the update BA (arXiv:2106.09685, section 4.1).")
    lora_alpha: float = option(32, group="LoRA", help="Scale of the update: it is multiplied by alpha / r.")
    lora_dropout_p: float = option(0.05, group="LoRA", minimum=0, maximum=1, help="Dropout before A, while training.")
    lora_bias_trainable: str = option(
        "none", group="LoRA", choices=("none", "all"), help="Whether the biases of the model train too."
    )
    lora_modules_to_save: list[str] = option(
        [], group="LoRA", help="Modules that train in full and are saved whole: names, EMBEDDING or LN."
    )
    lora_dtype: str = option(
        "AUTO",
        group="LoRA",
        choices=("AUTO", "fp16", "bf16", "fp32"),
        help="Precision of A and B; AUTO is the layer's, or float32 where that is half.",
    )
    lora_lr_ratio: float | None = option(
        None,
        group="LoRA",
        help="LoRA+: learning rate of B over that of A (arXiv:2402.12354); 16 is usual.",
        none="off",
    )
    use_rslora: bool = option(False, group="LoRA", help="Scale by alpha / sqrt(r) (arXiv:2312.03732).")
    use_dora: bool = option(False, group="LoRA", help="Train magnitude and direction apart (arXiv:2402.09353).")
    init_lora_weights: str = option(
        "true",
        group="LoRA",
        help="How A and B start: true (B zero), false, gaussian, pissa or pissa_niter_N (arXiv:2404.02948), "
        "olora (arXiv:2406.01775), loftq (arXiv:2310.08659).",
    )
    longlora_group_size_ratio: float = option(
        0.25,
        group="LongLoRA",
        minimum=0,
        maximum=1,
        help="Share of the sequence that one group of the shifted attention sees (arXiv:2309.12307, section 3.2).",
    )
    adalora_target_r: int = option(
        8, group="AdaLoRA", minimum=1, help="Mean rank at the end of training (arXiv:2303.10512, section 3.3)."
    )
    adalora_init_r: int = option(
        12, group="AdaLoRA", minimum=1, help="Rank of every update at the start (arXiv:2303.10512, section 3.3)."
    )
    adalora_tinit: int = option(
        0, group="AdaLoRA", minimum=0, unit="steps", help="Steps before ranks shrink (arXiv:2303.10512, section 3.3)."
    )
    adalora_tfinal: int = option(
        0,
        group="AdaLoRA",
        minimum=0,
        unit="steps",
        help="Last steps, with ranks fixed (arXiv:2303.10512, section 3.3).",
    )
    adalora_deltaT: int = option(
        1, group="AdaLoRA", minimum=1, unit="steps", help="Steps from one choice of ranks to the next."
    )
    adalora_beta1: float = option(
        0.85, group="AdaLoRA", minimum=0, maximum=1, help="Decay of the importance (arXiv:2303.10512, equation 9)."
    )
    adalora_beta2: float = option(
        0.85, group="AdaLoRA", minimum=0, maximum=1, help="Decay of its uncertainty (arXiv:2303.10512, equation 10)."
    )
    adalora_orth_reg_weight: float = option(
        0.5,
        group="AdaLoRA",
        minimum=0,
        help="Weight of the loss that keeps P and Q orthogonal (arXiv:2303.10512, equation 4).",
    )
