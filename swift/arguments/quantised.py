"""Options that say in how many bits a base is held while adapters train on it, or answer with it."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option
from swift.arguments.model import DTYPES

GROUP = "Quantised base"
QUANT_METHODS = ("bnb", "gptq", "awq", "hqq", "torchao", "eetq")
QUANT_BITS = (0, 1, 2, 3, 4, 8)
STORAGE = ("uint8", "float16", "bfloat16", "float32")


@dataclass(kw_only=True)
class QuantisedOptions:
    """How the base is quantised while it is loaded."""

    quant_method: str | None = option(
        None,
        group=GROUP,
        choices=QUANT_METHODS,
        help="What holds the base in few bits; nothing needs saying where it is saved so, as gptq and awq always are.",
        none="bnb for 4 and 8 bits, hqq for 1, 2 and 3; nothing without --quantization_bit",
    )
    quantization_bit: int = option(
        0,
        group=GROUP,
        choices=QUANT_BITS,
        unit="bits",
        help="Bits of each weight of the base; 0 is as it is saved, or with --quant_method alone the method's usual.",
    )
    bnb_4bit_comp_dtype: str = option(
        "AUTO", group=GROUP, choices=DTYPES, help="What bnb's 4 bits are computed in; AUTO is --dtype."
    )
    bnb_4bit_quant_type: str = option(
        "nf4", group=GROUP, choices=("nf4", "fp4"), help="The sixteen values that bnb's 4 bits stand for."
    )
    bnb_4bit_use_double_quant: bool = option(
        True, group=GROUP, help="Quantise the scales of bnb's 4 bits too, which saves 0.4 bits a weight."
    )
    bnb_4bit_quant_storage: str | None = option(
        None,
        group=GROUP,
        choices=STORAGE,
        help="What bnb's 4 bits are kept in; FSDP needs that of --dtype.",
        none="uint8",
    )
    hqq_axis: int = option(
        1, group=GROUP, choices=(0, 1), help="Which way hqq makes its groups: 0 is more exact, 1 has faster kernels."
    )
    hqq_dynamic_config_path: str | None = option(
        None,
        group=GROUP,
        help='JSON file of other bits for some layers of hqq: {"mlp.down_proj": {"bits": 8, "group_size": 128}}.',
        none="all alike",
    )
