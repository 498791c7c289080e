"""Options of the tuners of our own, and of the ways to train the whole model with less memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from swift.arguments.fields import option

INTERVENTIONS = tuple(
    f"{name}Intervention" for name in ("Noreft", "Loreft", "Consreft", "Lobireft", "Direft", "Nodireft")
)


@dataclass(kw_only=True)
class MethodOptions:
    """Adapter, LLaMA-Pro, ReFT, NEFTune."""

    adapter_length: int = option(
        128, group="Adapter", minimum=1, help="Width of the adapter's bottleneck (arXiv:1902.00751, section 2.1)."
    )
    adapter_act: str = option("gelu", group="Adapter", help="Activation inside the adapter, by its transformers name.")
    llamapro_num_new_blocks: int = option(
        4, group="LLaMA-Pro", minimum=1, help="Blocks that are added and train (arXiv:2401.02415, section 3.2)."
    )
    llamapro_num_groups: int | None = option(
        None,
        group="LLaMA-Pro",
        minimum=1,
        help="Groups of layers that get an equal share of the new blocks (arXiv:2401.02415, section 3.2).",
        none="as many as new blocks",
    )
    reft_layer_key: str | None = option(
        None, group="ReFT", help="The path of the list of layers (arXiv:2404.03592).", none="the model's decoder layers"
    )
    reft_layers: list[int] | None = option(
        None, group="ReFT", minimum=0, help="Indices of the layers that are edited (arXiv:2404.03592).", none="all"
    )
    reft_rank: int = option(
        4, group="ReFT", minimum=1, help="Dimensions of the edited subspace (arXiv:2404.03592, section 3.2)."
    )
    reft_intervention_type: str = option(
        "LoreftIntervention",
        group="ReFT",
        choices=INTERVENTIONS,
        help="Which edit of the hidden states is learnt (arXiv:2404.03592, section 3.2 and appendix).",
    )
    reft_args: dict[str, Any] | None = option(
        None, group="ReFT", help="Further settings of the edit, as JSON.", none="its own"
    )
    neftune_noise_alpha: float | None = option(
        None,
        group="NEFTune",
        minimum=0,
        help="Noise on the embeddings while training (arXiv:2310.05914, section 2); 5, 10 or 15 is usual.",
        none="off",
    )
    neftune_backend: str | None = option(
        None,
        group="NEFTune",
        choices=("transformers", "swift"),
        help="Who adds that noise: transformers' trainer, or a tuner saved beside the others.",
        none="transformers",
    )


@dataclass(kw_only=True)
class FullOptions:
    """Training the model itself: a part of it, layer by layer (LISA), or with projected gradients (GaLore)."""

    freeze_parameters: float = option(
        0.0,
        group="Full training",
        minimum=0,
        maximum=1,
        help="Share of the model's first parameters that full training freezes.",
    )
    additional_trainable_parameters: list[str] = option(
        [], group="Full training", help="Prefixes of frozen parameters that full training trains after all."
    )
    lisa_activated_layers: int = option(
        0, group="LISA", minimum=0, help="Layers that train at a time (arXiv:2403.17919); 2 or 8 is usual, 0 is off."
    )
    lisa_step_interval: int = option(
        20, group="LISA", minimum=1, unit="steps", help="Steps from one draw of layers to the next (arXiv:2403.17919)."
    )
    use_galore: bool = option(
        False, group="GaLore", help="Keep the optimiser's state in a low-rank space of the gradient (arXiv:2403.03507)."
    )
    galore_rank: int = option(128, group="GaLore", minimum=1, help="Rank of that space (arXiv:2403.03507, section 4).")
    galore_target_modules: list[str] | None = option(
        None, group="GaLore", help="Layers whose gradients are projected (arXiv:2403.03507).", none="all linear layers"
    )
    galore_update_proj_gap: int = option(
        50, group="GaLore", minimum=1, unit="steps", help="Steps from one projection to the next (arXiv:2403.03507)."
    )
    galore_scale: float = option(1.0, group="GaLore", help="Scale of the projected update (arXiv:2403.03507).")
    galore_proj_type: str = option(
        "std",
        group="GaLore",
        choices=("std", "reverse_std", "left", "right", "full"),
        help="Which side of the gradient is projected: std is the shorter one (arXiv:2403.03507).",
    )
    galore_optim_per_parameter: bool = option(
        False, group="GaLore", help="Update each layer during the backward pass, then drop its gradient."
    )
    galore_with_embedding: bool = option(False, group="GaLore", help="Project the embedding's gradient too.")
    galore_quantization: bool = option(
        False,
        group="GaLore",
        help="Q-GaLore: renew subspaces that stay alike more seldom, and round bf16 weights by chance "
        "(arXiv:2407.08296).",
    )
    galore_proj_quant: bool = option(False, group="GaLore", help="Keep the projection quantised (arXiv:2407.08296).")
    galore_proj_bits: int = option(
        4, group="GaLore", choices=(4, 8), help="Bits of a quantised projection (arXiv:2407.08296)."
    )
    galore_proj_group_size: int = option(
        256, group="GaLore", minimum=1, help="Numbers that share one scale in it (arXiv:2407.08296)."
    )
    galore_cos_threshold: float = option(
        0.4,
        group="GaLore",
        minimum=0,
        maximum=1,
        help="Likeness of successive projections from which they are renewed more seldom (arXiv:2407.08296).",
    )
    galore_gamma_proj: int = option(
        2, group="GaLore", minimum=1, help="Factor by which their interval grows then (arXiv:2407.08296)."
    )
    galore_queue_size: int = option(
        5, group="GaLore", minimum=1, help="Projections over which the likeness is averaged (arXiv:2407.08296)."
    )
