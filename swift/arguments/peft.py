"""Options of PEFT's methods other than LoRA."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option


@dataclass(kw_only=True)
class ScalingOptions:
    """Methods that scale or turn what a layer gives: IA3, BOFT, OFT, VeRA, FourierFT."""

    ia3_target_modules: list[str] = option(
        ["DEFAULT"],
        group="IA3",
        help="Layers whose output is scaled (arXiv:2205.05638, section 3.3); DEFAULT is --lora_target_modules.",
    )
    ia3_feedforward_modules: list[str] = option(
        [], group="IA3", help="Feed-forward layers, scaled at their input; needed (arXiv:2205.05638, section 3.3)."
    )
    ia3_modules_to_save: list[str] = option([], group="IA3", help="Modules that train in full beside IA3.")
    boft_block_size: int = option(
        4, group="BOFT", minimum=0, help="Width of an orthogonal block (arXiv:2311.06243); not with --boft_block_num."
    )
    boft_block_num: int = option(
        0, group="BOFT", minimum=0, help="Number of blocks instead of their width (arXiv:2311.06243)."
    )
    boft_n_butterfly_factor: int = option(
        1,
        group="BOFT",
        minimum=1,
        help="Butterfly factors that are multiplied; 1 is OFT (arXiv:2311.06243, section 4).",
    )
    boft_target_modules: list[str] = option(
        ["DEFAULT"], group="BOFT", help="Layers that are turned; DEFAULT is --lora_target_modules."
    )
    boft_dropout: float = option(
        0.0, group="BOFT", minimum=0, maximum=1, help="Share of blocks that are the identity in a training step."
    )
    boft_modules_to_save: list[str] = option([], group="BOFT", help="Modules that train in full beside BOFT.")
    oft_block_size: int = option(
        32, group="OFT", minimum=0, help="Width of an orthogonal block (arXiv:2306.07280); not with --oft_block_num."
    )
    oft_block_num: int = option(
        0, group="OFT", minimum=0, help="Number of blocks instead of their width (arXiv:2306.07280)."
    )
    oft_dropout: float = option(
        0.0, group="OFT", minimum=0, maximum=1, help="Share of blocks that are the identity in a training step."
    )
    oft_coft: bool = option(
        False, group="OFT", help="Keep the rotation close to the identity (arXiv:2306.07280, section 3.3)."
    )
    oft_block_share: bool = option(False, group="OFT", help="Use one block for the whole layer (arXiv:2306.07280).")
    vera_rank: int = option(
        256, group="VeRA", minimum=1, help="Rank of the shared frozen matrices (arXiv:2310.11454, section 3.1)."
    )
    vera_target_modules: list[str] = option(
        ["DEFAULT"],
        group="VeRA",
        help="Layers that share them, all of one shape; DEFAULT is --lora_target_modules.",
    )
    vera_projection_prng_key: int = option(0, group="VeRA", help="Seed of the shared frozen matrices.")
    vera_dropout: float = option(0.0, group="VeRA", minimum=0, maximum=1, help="Dropout before A, while training.")
    vera_d_initial: float = option(
        0.1, group="VeRA", help="What the vector d starts as (arXiv:2310.11454, section 3.2)."
    )
    vera_modules_to_save: list[str] = option([], group="VeRA", help="Modules that train in full beside VeRA.")
    fourier_n_frequency: int = option(
        2000, group="FourierFT", minimum=1, help="Spectral coefficients of each layer (arXiv:2405.03003, section 3.1)."
    )
    fourier_scaling: float = option(
        300.0, group="FourierFT", help="Scale of the update's inverse transform (arXiv:2405.03003, equation 4)."
    )


@dataclass(kw_only=True)
class ProductOptions:
    """Updates that are products of small matrices: LoHa and LoKr."""

    loha_rank: int = option(8, group="LoHa", minimum=1, help="Rank of each of the two factors (arXiv:2108.06098).")
    loha_alpha: float = option(8, group="LoHa", help="Scale of the update: it is multiplied by alpha / rank.")
    loha_dropout: float = option(
        0.0, group="LoHa", minimum=0, maximum=1, help="Share of the update's rows left out in a training step."
    )
    lokr_rank: int = option(8, group="LoKr", minimum=1, help="Rank of the Kronecker factors (arXiv:2309.14859).")
    lokr_alpha: float = option(8, group="LoKr", help="Scale of the update: it is multiplied by alpha / rank.")
    lokr_dropout: float = option(
        0.0, group="LoKr", minimum=0, maximum=1, help="Share of the update's rows left out in a training step."
    )
    lokr_decompose_both: bool = option(
        False, group="LoKr", help="Give the left Kronecker factor a low rank too (arXiv:2309.14859)."
    )
    lokr_decompose_factor: int = option(
        -1, group="LoKr", minimum=-1, help="Size of the left Kronecker factor; -1 is near the square root."
    )


@dataclass(kw_only=True)
class VirtualTokenOptions:
    """Trained vectors before the text: prefix tuning, prompt tuning, p-tuning."""

    num_virtual_tokens: int = option(
        20,
        group="Virtual tokens",
        minimum=1,
        unit="tokens",
        help="Trained positions of prefix_tuning (arXiv:2101.00190), prompt_tuning (arXiv:2104.08691) and p_tuning "
        "(arXiv:2103.10385).",
    )
    prefix_projection: bool = option(
        False, group="Virtual tokens", help="Make the prefix with a small network (arXiv:2101.00190, section 4.3)."
    )
    prompt_init_text: str | None = option(
        None,
        group="Virtual tokens",
        help="A text whose embeddings prompt_tuning starts from (arXiv:2104.08691, section 3.2).",
        none="random embeddings",
    )
    encoder_hidden_size: int | None = option(
        None,
        group="Virtual tokens",
        minimum=1,
        help="Width of the network that makes the vectors (prefix_projection; p_tuning, arXiv:2103.10385).",
        none="the model's own",
    )
    encoder_type: str = option(
        "MLP",
        group="Virtual tokens",
        choices=("MLP", "LSTM"),
        help="The network that makes the vectors of p_tuning (arXiv:2103.10385, section 3.2).",
    )
