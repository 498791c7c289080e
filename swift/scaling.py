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
ALL_LOGITS = 12  # bytes of each logit where none are left out: themselves and their gradients, in both precisions
INNER, INNER_CUT = 10, 24
"""Bytes of activations of one layer for a token and a hidden unit, in half precision, with fused attention: what every
process has, and what those that hold the layer divide. See https://arxiv.org/abs/2205.05198, section 4.2.1."""


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
    def keys(self) -> int:
        """The width of all keys of a token."""
        return self.hidden * self.kv_heads // self.heads

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        return self.hidden * (2 * self.hidden + 2 * self.keys + 3 * self.inner + 2)

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.layers * self.layer + 2 * self.vocabulary * self.hidden + self.hidden

    def held(self, degree: int) -> int:
        """Parameters of each of so many processes that hold it together: all but norms are cut."""
        norms = (2 * self.layers + 1) * self.hidden
        return norms + (self.parameters - norms) // degree

    def lora(self, rank: int, degree: int = 1) -> int:
        """Parameters of LoRA on every linear layer but the head, of which one side of each layer is cut."""
        cut = 2 * self.hidden + 2 * self.keys + 3 * self.inner
        return self.layers * rank * (7 * self.hidden + cut // degree)


DECODERS = (
    Decoder("7B", 32, 4096, 11008, 32, 32, 32000),
    Decoder("70B", 80, 8192, 28672, 64, 8, 32000),
    Decoder("405B", 126, 16384, 53248, 128, 8, 128256),
)


@dataclass(frozen=True)
class Way:
    """What trains, and how processes share it.

    Attributes:
        sharding: as `traffic_of` has it.
        rank: LoRA's; None trains everything.
        bits: of each weight that does not train.
        degree: how many processes hold one model, with each layer cut between them.
    """

    sharding: str
    rank: int | None = None
    bits: int = 16
    degree: int = 1


def step_of(model: Decoder, tokens: int, way: Way) -> Step:
    """What a step of one process needs, in bfloat16 with gradient checkpointing.

    Weights that do not train take `way.bits`. The optimiser is Adam: DeepSpeed's keeps float32 copies and moments (12
    bytes), others the weights' own precision (4 bytes); LoRA's parameters are float32 (4, 4 and 8 bytes).
    """
    held, full = model.held(way.degree), way.rank is None
    trained = held if way.rank is None else model.lora(way.rank, way.degree)
    gradients = (2 if full else 4) * trained
    passes = 8 if full else 6  # 2 forward, 2 again, 2 for inputs, 2 for weights, operations for each weight and token
    sent, calls = _sums(model, tokens, way)
    return Step(
        weights=2 * held if full else held * way.bits // 8 + 4 * trained,
        trained=gradients,
        masters=4 * trained if full else 0,
        optimiser=(4 if full else 8) * trained,
        layer=2 * model.layer // way.degree,
        moments=_moments(model, tokens, gradients, way.degree),
        flops=passes * model.parameters * tokens // way.degree,
        moved=0,
        updated=0,
        sent=sent,
        calls=calls,
    )


def _moments(model: Decoder, tokens: int, gradients: int, degree: int) -> tuple[Moment, ...]:
    """When memory is fullest: in the last layer's backward pass; where all logits are there, with them too."""
    inputs = 2 * tokens * model.hidden * model.layers
    inside = (INNER + INNER_CUT // degree) * tokens * model.hidden
    if degree == 1:
        return (Moment(gradients, inputs + inside, 4 * min(tokens, CHUNK) * model.vocabulary),)
    return Moment(gradients, inputs + inside, 0), Moment(0, inputs, ALL_LOGITS * tokens * model.vocabulary)


def _sums(model: Decoder, tokens: int, way: Way) -> tuple[int, int]:
    """Bytes and calls of what the processes that hold one model send each other for a batch.

    A layer waits for two sums forward, two back, and again for those of the second forward pass of which something
    needs to be known: not the last, where everything trains. LoRA sums its `rank` numbers of a token likewise.
    """
    if way.degree == 1:
        return 0, 0
    part, sums, small = (way.degree - 1) / way.degree, (5 if way.rank is None else 6), (9 if way.rank else 0)
    hidden = 2 * tokens * model.hidden * (model.layers * sums + 2)
    ranks = 2 * tokens * (way.rank or 0) * model.layers * small
    logits = 2 * tokens * model.vocabulary
    return round(part * (2 * (hidden + ranks) + logits)), model.layers * (sums + small) + 3


@dataclass(frozen=True)
class Row:
    """A line of the tables: who shares how, and what each process needs and sends."""

    way: Way
    processes: int
    memory: Memory
    sent: int
    cost: Cost


def row(model: Decoder, way: Way, cluster: Cluster, tokens: int, flops: float) -> Row:
    """What training a model takes on a cluster, with one batch of `tokens` to a process and step.

    Args:
        model: its shape.
        way: what trains, and how it is shared.
        cluster: where; the processes that hold a model are next to each other.
        tokens: of a batch.
        flops: that a process does in a second, as it is in training.
    """
    step, models = step_of(model, tokens, way), cluster.processes // way.degree
    one, others = cluster.split(way.degree)
    traffic, within = traffic_of(step, way.sharding, models, layers=model.layers), tensor_traffic(step)
    cost = Cost(step.flops / flops, traffic.seconds(others), within.seconds(one))
    return Row(way, cluster.processes, memory_of(step, way.sharding, models), traffic.bytes + within.bytes, cost)


def fewest(model: Decoder, way: Way, memory: int, tokens: int) -> int | None:
    """The smallest power of two of processes, up to 1024, in whose `memory` bytes each a step fits; None for none."""
    step = step_of(model, tokens, way)
    counts = (2**power for power in range(11))
    fitting = (n for n in counts if n >= way.degree and memory_of(step, way.sharding, n // way.degree).total <= memory)
    return next(fitting, None)
