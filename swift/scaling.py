"""What processes say to each other in a step, and what that costs: formulas over bytes, processes and links.

Letters: N processes, W bytes of weights, G bytes of gradients, B batches that make a step. A ring of N passes on
(N-1)/N of a tensor when all gather it or reduce it to shards, and twice that when all get the whole sum. See
https://arxiv.org/abs/1910.02054 section 7 (ZeRO) and https://arxiv.org/abs/2304.11277 section 3 (FSDP).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from swift.estimate import Memory, Moment, Step, memory_of

BUCKET = 25 << 20  # bytes of gradients that DDP sends at once
SHARDED = ("zero1", "zero2", "zero3", "fsdp")
CHUNK = 1024  # tokens whose logits are there at a time
INNER = 34  # bytes of activations of one layer for a token and a hidden unit, in half precision, with fused attention
"""See https://arxiv.org/abs/2205.05198, section 4.1."""


@dataclass(frozen=True)
class Link:
    """A connection: bytes a second, and seconds until a message is there."""

    bandwidth: float
    latency: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """`processes` in all, spread evenly over `nodes` machines; links inside of one and between them."""

    processes: int
    nodes: int
    inside: Link
    between: Link

    @property
    def slowest(self) -> Link:
        """The link that a ring waits for: on its way round it leaves every machine once."""
        if self.nodes == 1:
            return self.inside
        return min(self.inside, self.between, key=lambda link: link.bandwidth)

    def split(self, degree: int) -> tuple[Cluster, Cluster]:
        """Where one model's `degree` processes are, and where those of all models are that have the same part of it.

        Processes in a row hold a model. As many rings as a machine has parts leave it together, and share its cards.
        """
        each = self.processes // self.nodes
        model = replace(self, processes=degree, nodes=-(-degree // each))
        shared = replace(self.between, bandwidth=self.between.bandwidth / min(degree, each))
        return model, replace(self, processes=self.processes // degree, between=shared)


@dataclass(frozen=True)
class Traffic:
    """What each process sends in a step: bytes, in so many calls of all; and how often a call goes round the ring."""

    bytes: int
    calls: int
    rounds: int

    def seconds(self, cluster: Cluster) -> float:
        """How long that takes, when nothing is computed meanwhile."""
        link = cluster.slowest
        return self.bytes / link.bandwidth + self.calls * self.rounds * (cluster.processes - 1) * link.latency


def traffic_of(step: Step, sharding: str, processes: int, batches: int = 1, layers: int = 1) -> Traffic:
    """What each of `processes` sends in an optimiser step.

        ddp            2 (N-1)/N G                  the sum of gradients, once a step
        zero1          2 (N-1)/N G                  their shards, and the weights that were updated
        zero2          (N-1)/N (B G + G)            the same, with gradients sent after every batch
        zero3, fsdp    (N-1)/N B (2 W + G)          weights before each forward and each backward pass

    Args:
        step: what one process needs on its own; `trained` are the bytes of gradients.
        sharding: none, ddp, zero1, zero2, zero3 or fsdp.
        processes: how many there are.
        batches: how many make a step.
        layers: in how many parts weights are gathered.
    """
    if processes < 2 or sharding == "none":
        return Traffic(0, 0, 0)
    part = (processes - 1) / processes
    gradients, buckets = step.trained, -(-step.trained // BUCKET)
    if sharding == "ddp":
        return Traffic(round(2 * part * gradients), buckets, 2)
    if sharding == "zero1":
        return Traffic(round(2 * part * gradients), 2 * buckets, 1)
    if sharding == "zero2":
        return Traffic(round(part * (batches * gradients + gradients)), (batches + 1) * buckets, 1)
    return Traffic(round(part * batches * (2 * step.weights + gradients)), 3 * batches * layers, 1)


def tensor_traffic(step: Step, batches: int = 1) -> Traffic:
    """What each of the processes that hold one model sends to the others in an optimiser step of so many batches.

    For a batch of b bytes of hidden states that is 2 (P-1)/P b for each sum: two going forward and two going back in a
    layer, and with gradient checkpointing up to two more, one each for embedding and head; and (P-1)/P of all logits.
    See https://arxiv.org/abs/1909.08053, section 3.
    """
    return Traffic(batches * step.sent, batches * step.calls, 2)


@dataclass(frozen=True)
class Cost:
    """Seconds of a step: computing, and sending, of which none or all may go on while it computes.

    `wait` is sending that computing waits for: what processes that hold one model tell each other in its midst.
    """

    compute: float
    send: float
    wait: float = 0.0

    @property
    def best(self) -> float:
        """When all is sent while it computes."""
        return self.wait + max(self.compute, self.send)

    @property
    def worst(self) -> float:
        """When nothing is."""
        return self.wait + self.compute + self.send

    @property
    def efficiency(self) -> tuple[float, float]:
        """The share of the time that is computing, at worst and at best."""
        return self.compute / self.worst, self.compute / self.best


# Models of which only the shape is known


@dataclass(frozen=True)
class Decoder:
    """The shape of a decoder with gated feed-forward layers and an output head of its own."""

    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        keys = self.hidden * self.hidden * self.kv_heads // self.heads
        return 2 * self.hidden**2 + 2 * keys + 3 * self.hidden * self.inner + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.layer + 2 * self.vocabulary * self.hidden + self.hidden

    def lora(self, rank: int) -> int:
        """Parameters of LoRA on every linear layer but the head."""
        keys = self.hidden * self.kv_heads // self.heads
        attention = 4 * self.hidden + 2 * (self.hidden + keys)
        return self.layers * rank * (attention + 3 * (self.hidden + self.inner))


DECODERS = (
    Decoder("7B", 32, 4096, 11008, 32, 32, 32000),
    Decoder("70B", 80, 8192, 28672, 64, 8, 32000),
    Decoder("405B", 126, 16384, 53248, 128, 8, 128256),
)


def step_of(model: Decoder, tokens: int, sharding: str, rank: int | None = None, bits: int = 16) -> Step:
    """What a step of one process needs, in bfloat16 with gradient checkpointing.

    Weights that do not train take `bits`. The optimiser is Adam: DeepSpeed's keeps float32 copies and moments (12
    bytes), others the weights' own precision (4 bytes); LoRA's parameters are float32 (4, 4 and 8 bytes).

    Args:
        model: its shape.
        tokens: of a batch.
        sharding: as `traffic_of` has it.
        rank: LoRA's; None trains everything.
        bits: of each weight that does not train.
    """
    full = rank is None
    trained = model.parameters if full else model.lora(rank)
    sharded = sharding in SHARDED
    weights = 2 * model.parameters if full else model.parameters * bits // 8 + 4 * trained
    states = 4 if full else 8
    kept = 2 * tokens * model.hidden * model.layers + INNER * tokens * model.hidden
    logits = 4 * min(tokens, CHUNK) * model.vocabulary
    gradients = (2 if full else 4) * trained
    passes = 8 if full else 6  # 2 forward, 2 again, 2 for inputs, 2 for weights, operations for each weight and token
    return Step(
        weights=weights,
        trained=gradients,
        masters=4 * trained if full else 0,
        optimiser=states * trained,
        layer=2 * model.layer,
        moments=(Moment(gradients, kept, logits),),
        flops=passes * model.parameters * tokens,
        moved=0,
        updated=0,
    )


@dataclass(frozen=True)
class Row:
    """A line of the tables: who shares how, and what each process needs and sends."""

    sharding: str
    processes: int
    memory: Memory
    traffic: Traffic
    cost: Cost


def row(
    model: Decoder, sharding: str, cluster: Cluster, tokens: int, flops: float, rank: int | None = None, bits: int = 16
) -> Row:
    """What training a model takes on a cluster, with one batch of `tokens` to a process and step.

    Args:
        model: its shape.
        sharding: as `traffic_of` has it.
        cluster: where.
        tokens: of a batch.
        flops: that a process does in a second, as it is in training.
        rank: LoRA's; None trains everything.
        bits: of each weight that does not train.
    """
    step = step_of(model, tokens, sharding, rank, bits)
    traffic = traffic_of(step, sharding, cluster.processes, layers=model.layers)
    cost = Cost(step.flops / flops, traffic.seconds(cluster))
    return Row(sharding, cluster.processes, memory_of(step, sharding, cluster.processes), traffic, cost)


def fewest(
    model: Decoder, sharding: str, memory: int, tokens: int, rank: int | None = None, bits: int = 16
) -> int | None:
    """The smallest power of two of processes, up to 1024, in whose `memory` bytes each a step fits; None for none."""
    for power in range(11):
        step = step_of(model, tokens, sharding, rank, bits)
        if memory_of(step, sharding, 2**power).total <= memory:
            return 2**power
    return None
