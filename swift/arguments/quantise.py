"""Options that say how a model is written in few bits."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.data import DataOptions
from swift.arguments.fields import option

GROUP = "Quantise"
WRITTEN_METHODS = ("awq", "gptq", "bnb", "hqq", "torchao", "fp8")


@dataclass(kw_only=True)
class QuantiseOptions(DataOptions):
    """Into how many bits, how, and by which data."""

    quant_bits: int = option(
        0,
        group=GROUP,
        choices=(0, 1, 2, 3, 4, 8),
        unit="bits",
        help="Write the model in so many bits a weight; 0 does not; with --quant_method alone it is the usual.",
    )
    quant_method: str | None = option(
        None,
        group=GROUP,
        choices=WRITTEN_METHODS,
        help="How; gptq and awq look at --dataset, the others at the weights alone.",
        none="awq for 4 bits, else gptq; nothing without --quant_bits",
    )
    quant_n_samples: int = option(
        256, group=GROUP, minimum=1, unit="rows", help="Rows of --dataset that gptq and awq look at."
    )
    quant_seqlen: int = option(
        2048, group=GROUP, minimum=16, unit="tokens", help="Length of the blocks that these rows are cut into."
    )
    quant_output_dir: str | None = option(
        None,
        group=GROUP,
        help="Where the quantised model is written.",
        none="the model's name with `-<method>-int<bits>` behind: beside a checkpoint, else here",
    )
