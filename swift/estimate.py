"""What training takes of memory and time: arithmetic over what one step needs, which `swift.trainers.simulated` sees.

Everything here is a function of numbers: shards over any number of processes, and seconds at any speed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

SPLIT_WEIGHTS = ("zero3", "fsdp")
GAPS = 0.22  # of activations and logits: what an allocator keeps between tensors of different sizes
SCATTERED = 128 << 20  # of logits: more of them are blocks of their own, which go back to the system at once
BUFFERS = 20 << 20  # of the kernels
LOST = 1.15  # times as long as the fastest turns of products and copies alone
GATHERED = 2  # layers whose weights are whole at a time: one computes while the next one comes


@dataclass(frozen=True)
class Moment:
    """Bytes beside weights and optimiser states at one moment of a step: its highest, or the optimiser's own."""

    gradients: int
    activations: int
    logits: int


@dataclass(frozen=True)
class Step:
    """What a step of one process on its own needs; memory in bytes.

    Attributes:
        weights: all parameters and buffers.
        trained: gradients of all that trains.
        masters: float32 copies of half-precision weights that train, which only DeepSpeed's optimisers keep.
        optimiser: the optimiser's states; None where they are not known.
        layer: the weights of the largest layer.
        moments: how gradients, activations and logits go with each other.
        flops: multiplications and additions of matrix products, of one batch, forward and backward.
        moved: bytes that all other operations of a batch read and write.
        updated: bytes that the optimiser reads and writes.
        sent: bytes that processes which hold one model send each other for a batch.
        calls: in how many calls.
    """

    weights: int
    trained: int
    masters: int
    optimiser: int | None
    layer: int
    moments: tuple[Moment, ...]
    flops: int
    moved: int
    updated: int
    sent: int = 0
    calls: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the height of a step, by what they are for.

    `communication` is what processes gather and send: gradients in buckets, weights of layers that are whole. `gaps` is
    what allocator and kernels hold beside tensors.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    logits: int
    communication: int
    gaps: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Bytes by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Speed:
    """What a machine does in a second: operations of matrix products, and bytes that are read or written."""

    flops: float
    bytes: float


def memory_of(step: Step, sharding: str = "none", processes: int = 1) -> Memory:
    """The memory of each of `processes` that train together, at the height of a step.

    ZeRO's stages split optimiser states (1), gradients too (2), weights too (3); FSDP is stage 3.

    Paper: ZeRO, https://arxiv.org/abs/1910.02054, section 5; PyTorch FSDP, https://arxiv.org/abs/2304.11277, section 3.

    Args:
        step: what one process needs on its own.
        sharding: none, ddp, zero1, zero2, zero3 or fsdp.
        processes: how many there are.
    """
    return max((_at(step, moment, sharding, processes) for moment in step.moments), key=lambda memory: memory.total)


def _at(step: Step, moment: Moment, sharding: str, processes: int) -> Memory:
    states = step.optimiser or 0
    gaps = round(GAPS * (moment.activations + min(moment.logits, SCATTERED))) + BUFFERS
    whole = Memory(step.weights, moment.gradients, states, moment.activations, moment.logits, 0, gaps)
    if sharding == "none" or (processes < 2 and not sharding.startswith("zero")):  # DeepSpeed alone is DeepSpeed, too
        return whole
    if sharding == "ddp":
        return replace(whole, communication=step.trained)
    if sharding != "fsdp":  # DeepSpeed's moments are those of its float32 copies
        states = round(states * (1 + step.masters / max(2 * step.trained, 1))) + step.masters
    split = replace(whole, optimiser=_share(states, processes))
    if sharding == "zero1":
        return split
    split = replace(split, gradients=_share(whole.gradients, processes), communication=min(step.trained, step.layer))
    if sharding in SPLIT_WEIGHTS:
        gathered = min(GATHERED * step.layer, step.weights)
        split = replace(split, weights=_share(step.weights, processes), communication=gathered)
    return split


def _share(count: int, processes: int) -> int:
    return -(-count // processes)


def seconds_of(step: Step, speed: Speed, batches: int = 1, share: float = 1.0) -> float:
    """How long an optimiser step takes a process, without what processes say to each other.

    Args:
        step: what one batch needs.
        speed: the machine's.
        batches: how many make a step.
        share: how large a batch is on average, next to that of `step`.
    """
    one = step.flops / speed.flops + step.moved / speed.bytes
    return LOST * (batches * share * one + step.updated / speed.bytes)
