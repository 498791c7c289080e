"""Options of `swift estimate`."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option
from swift.arguments.rlhf import GONE, GROUP, TYPES, RLHFArguments

SHARDING = ("none", "ddp", "zero1", "zero2", "zero3", "fsdp")
"""What processes split: nothing, rows alone (ddp), optimiser states too, gradients too, weights too."""


@dataclass(kw_only=True)
class EstimateArguments(RLHFArguments):
    """Predict the memory, by part, and the time that a run of `swift sft` or `rlhf` takes; no weights are loaded."""

    rlhf_type: str | None = option(  # type: ignore[assignment]
        None, group=GROUP, choices=TYPES, gone=GONE, help="The method of `swift rlhf`.", none="a run of `swift sft`"
    )

    sharding: str | None = option(
        None,
        group="Estimate",
        choices=SHARDING,
        help="What processes split: rows alone (ddp), optimiser states too (zero1), gradients too (zero2), weights "
        "too (zero3, fsdp).",
        none="as --deepspeed or --fsdp say, else ddp where there are several processes",
    )
    processes: int | None = option(
        None,
        group="Estimate",
        minimum=1,
        help="How many train together.",
        none="as many as NPROC_PER_NODE and NNODES ask for",
    )
    nodes: int | None = option(
        None,
        group="Estimate",
        minimum=1,
        help="Over how many machines the processes are spread, the same number on each.",
        none="as many as NNODES asks for",
    )
    link_bandwidth: float | None = option(
        None,
        group="Estimate",
        minimum=0,
        help="What a process sends to another on its machine, in 10^9 bytes a second.",
        none="300 between GPUs, 5 between processes on a CPU",
    )
    network_bandwidth: float = option(
        50.0,
        group="Estimate",
        minimum=0,
        help="What a machine sends to another, through all its cards together, in 10^9 bytes a second.",
    )
    memory_gib: float | None = option(
        None, group="Estimate", minimum=0, unit="GiB", help="Memory of a device.", none="what is free here"
    )
    tflops: float | None = option(
        None,
        group="Estimate",
        minimum=0,
        help="Matrix products of the device, in 10^12 operations a second.",
        none="measured here",
    )
    bandwidth: float | None = option(
        None,
        group="Estimate",
        minimum=0,
        help="Memory of the device, in 10^9 bytes a second.",
        none="measured here",
    )
    json: bool = option(False, group="Estimate", help="One line of JSON for machines instead of text.")
