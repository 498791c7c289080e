"""`swift estimate`: the memory and the time of a run, from its options alone, and what would make them less."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from swift import dist
from swift.arguments.estimate import EstimateArguments
from swift.arguments.fields import options_of
from swift.arguments.rlhf import RLHFArguments
from swift.arguments.sft import SftArguments
from swift.commands.chat import say
from swift.commands.estimate_text import describe
from swift.commands.estimates import Batches, Schedule, Size, batches_of, schedule, size_of
from swift.commands.prepare import load_plugins, load_template
from swift.commands.ready import find_inputs, new_ids, spell_out
from swift.commands.task import task_of
from swift.decide import tidy
from swift.dist import Hardware
from swift.errors import ConfigError, UsageError
from swift.estimate import Speed, seconds_of
from swift.models.load import TORCH_DTYPES, detect_hardware
from swift.models.source import ModelSource
from swift.scaling import Cluster, Cost, Link, Traffic, tensor_traffic, traffic_of
from swift.trainers import zero
from swift.trainers.arguments import Seq2SeqTrainingArguments, training_arguments
from swift.trainers.speed import measure_speed

GIB = 1 << 30
ALTERNATIVES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--gradient_checkpointing true", {"gradient_checkpointing": True}),
    ("--dtype bf16", {"dtype": "bf16"}),
    ("--sft_type lora", {"sft_type": "lora"}),
    ("--optim adafactor", {"optim": "adafactor"}),
    ("--fused_cross_entropy true", {"fused_cross_entropy": True}),
    ("--fused_lora true", {"fused_lora": True}),
)
"""Flags that need less memory, with what they set."""
MOST_SHOWN = 3
LATENCY = 1e-5  # seconds until a message is there


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        size: parameters, and memory by part.
        batches: how large they are.
        seconds: of an optimiser step, None where that is not known.
        speed: what it was computed with.
        plan: how many steps; None without data.
        processes: how many train together.
        degree: how many of them hold one model (`--tensor_parallel_size`).
        sharding: how those with rows of their own share.
        free: bytes of memory that a process can have; None where that is not known.
        cluster: where the processes are, and what joins them.
        traffic: what each of them sends in a step; None where that is not known.
        within: what it sends in addition to those with which it holds a model; None likewise.
    """

    size: Size
    batches: Batches
    seconds: float | None
    speed: Speed
    plan: Schedule | None
    processes: int
    degree: int
    sharding: str
    free: int | None
    cluster: Cluster
    traffic: Traffic | None
    within: Traffic | None

    @property
    def cost(self) -> Cost | None:
        """Seconds of a step, of which some go to sending; None where that is not known."""
        if self.seconds is None or self.traffic is None or self.within is None:
            return None
        model, models = self.cluster.split(self.degree)
        return Cost(self.seconds, self.traffic.seconds(models), self.within.seconds(model))

    @property
    def fits(self) -> bool:
        """Whether the memory is enough, as far as that is known."""
        return self.free is None or self.size.memory is None or self.size.memory.total <= self.free

    @property
    def sent(self) -> int | None:
        """Bytes that each process sends in a step."""
        return None if self.traffic is None or self.within is None else self.traffic.bytes + self.within.bytes

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        memory = self.size.memory
        parts = {**memory.parts(), "total": memory.total} if memory else None
        return {
            "parameters": self.size.parameters,
            "trainable": self.size.trainable,
            "memory": parts,
            "not_estimated": self.size.unknown,
            "free": self.free,
            "processes": self.processes,
            "tensor_parallel_size": self.degree,
            "sharding": self.sharding,
            "batch": asdict(self.batches),
            "step": asdict(self.size.step) if self.size.step else None,
            "speed": asdict(self.speed),
            "seconds_per_step": self.seconds,
            "nodes": self.cluster.nodes,
            "sent_bytes_per_step": self.sent,
            "seconds_of_sending": self.cost.send + self.cost.wait if self.cost else None,
            "schedule": asdict(self.plan) if self.plan else None,
            "checkpoint_bytes": self.size.checkpoint_bytes,
        }


def estimate_main(said: EstimateArguments) -> dict[str, Any]:
    """Print what a run would take, as text or as one line of JSON, and return it.

    Raises:
        SwiftError: the options, the model or the data are not such that a run could start.
    """
    load_plugins(said.custom_register_path)
    kind = RLHFArguments if said.rlhf_type else SftArguments
    _check_kind(said)
    asked = tidy(kind(**{name: getattr(said, name) for name in options_of(kind)}))
    task = task_of(asked)
    source = find_inputs(asked)
    processes = said.processes or processes_asked(said.tensor_parallel_size)
    hardware = replace(detect_hardware(), world_size=processes)
    args = task.decide(spell_out(asked), hardware, source)
    unknown = task.unsized(args, source)
    if unknown is not None:
        raise ConfigError("CONFIG-02", f"nothing is estimated here: {unknown}")
    found = estimate_run(args, source, hardware, said)
    others = [] if said.json or found.fits else list(advice(args, source, found))
    say(json.dumps(found.to_json()) if said.json else "\n".join(describe(found, args, others)))
    return found.to_json()


def _check_kind(said: EstimateArguments) -> None:
    """Refuse options of `swift rlhf` where none of its methods is named: nothing would come of them."""
    if said.rlhf_type:
        return
    plain = EstimateArguments()
    more = options_of(RLHFArguments).keys() - options_of(SftArguments).keys()
    lost = sorted(name for name in more if getattr(said, name) != getattr(plain, name))
    if lost:
        names = ", ".join(f"--{name}" for name in lost)
        raise ConfigError("CONFIG-02", f"{names}: only swift rlhf has that", fix="--rlhf_type dpo, or another method")


def processes_asked(least: int = 1) -> int:
    """How many processes the environment asks for; `least` where it does not say."""
    plan = dist.plan_launch(os.environ)
    return plan.processes * plan.nodes if plan else least


def nodes_asked() -> int:
    """How many machines the environment asks for."""
    plan = dist.plan_launch(os.environ)
    return plan.nodes if plan else 1


def sharding_of(args: SftArguments, said: str | None, processes: int) -> str:
    """What processes split, by what the options say.

    Args:
        args: the decided options.
        said: what is said instead; None leaves it to the options.
        processes: how many there are with rows of their own.

    Raises:
        ConfigError: parts of models that are cut cannot be split further.
    """
    if args.tensor_parallel_size > 1 and said not in (None, "none", "ddp"):
        what = f"--tensor_parallel_size {args.tensor_parallel_size} does not go with --sharding {said}"
        raise ConfigError("CONFIG-02", what, fix="drop one of the two")
    if said is not None:
        return said
    if args.deepspeed:  # alone too: it keeps copies in float32
        return f"zero{zero.stage_of(zero.read_config(args.deepspeed))}"
    if processes < 2:
        return "none"
    return "fsdp" if args.fsdp else "ddp"


def estimate_run(
    args: SftArguments, source: ModelSource, hardware: Hardware, said: EstimateArguments | None = None
) -> Estimate:
    """Go through a step of a run with these decided options, and time it.

    Args:
        args: what is trained, and how.
        source: the model.
        hardware: how many train together, and the memory that is free.
        said: how they share, and what device it is, where that is another one than here.
    """
    degree = args.tensor_parallel_size
    models = hardware.world_size // degree
    training = training_arguments(args)
    batches, plan = _batches(args, source, training, models)
    sharding = sharding_of(args, said.sharding if said else None, models)
    found = _size(args, source, training, batches, sharding, models)
    speed = _speed(args, hardware, said)
    seconds = None
    if found.step is not None:
        seconds = seconds_of(found.step, speed, training.gradient_accumulation_steps, batches.share)
    free = round(said.memory_gib * GIB) if said and said.memory_gib else hardware.memory
    cluster = cluster_of(hardware, said or EstimateArguments())
    traffic = within = None
    if found.step is not None:
        parts = -(-found.step.weights // max(found.step.layer, 1))
        accumulated = training.gradient_accumulation_steps
        traffic = traffic_of(found.step, sharding, models, accumulated, parts)
        within = tensor_traffic(found.step, accumulated)
    processes = hardware.world_size
    return Estimate(found, batches, seconds, speed, plan, processes, degree, sharding, free, cluster, traffic, within)


def _size(
    args: SftArguments,
    source: ModelSource,
    training: Seq2SeqTrainingArguments,
    batches: Batches,
    sharding: str,
    models: int,
) -> Size:
    """What the largest batch needs, as it goes through the model."""
    task = task_of(args)
    return size_of(args, source, training, task.batch(args, batches), sharding, models, task.lesson(args, source))


def cluster_of(hardware: Hardware, said: EstimateArguments) -> Cluster:
    """Where the processes are.

    Raises:
        UsageError: they cannot be spread evenly, or nothing joins them.
    """
    processes, nodes = hardware.world_size, said.nodes or nodes_asked()
    if processes % nodes:
        what = f"{processes} processes cannot be spread evenly over --nodes {nodes}"
        raise UsageError("USAGE-02", what, fix=f"--processes {nodes * (processes // nodes + 1)}")
    if nodes > 1 and not said.network_bandwidth:
        what = "--network_bandwidth 0: machines that send nothing cannot train together"
        raise UsageError("USAGE-02", what, fix="--network_bandwidth 50")
    inside = said.link_bandwidth or (300.0 if hardware.accelerator else 5.0)
    return Cluster(processes, nodes, Link(inside * 1e9, LATENCY), Link(said.network_bandwidth * 1e9, LATENCY))


def _batches(
    args: SftArguments, source: ModelSource, training: Seq2SeqTrainingArguments, processes: int
) -> tuple[Batches, Schedule | None]:
    """The batches, and how many steps they make; without data those that the options allow."""
    if not args.dataset or args.streaming:
        return batches_of(args, source, training, None), None
    template = load_template(args, source)
    new_ids(args, template)
    train = task_of(args).read(replace(args, dry_run=True), template).train
    return batches_of(args, source, training, train), schedule(training, train, processes)


def _speed(args: SftArguments, hardware: Hardware, said: EstimateArguments | None) -> Speed:
    """The device's speed: what is said of it, else what it shows."""
    tflops, bandwidth = (said.tflops, said.bandwidth) if said else (None, None)
    if tflops and bandwidth:
        return Speed(tflops * 1e12, bandwidth * 1e9)
    here = measure_speed(TORCH_DTYPES[args.dtype], torch.device(hardware.accelerator or "cpu"))
    return Speed(tflops * 1e12 if tflops else here.flops, bandwidth * 1e9 if bandwidth else here.bytes)


def advice(args: SftArguments, source: ModelSource, found: Estimate) -> Iterator[tuple[str, int, float]]:
    """The flags that save most memory, at most three: each with the bytes it leaves and the seconds of a step."""
    assert found.size.memory is not None
    tried: list[tuple[str, int, float]] = []
    for flag, changed, batches in _changes(args, found.batches):
        training = training_arguments(changed)
        models = found.processes // found.degree
        other = _size(changed, source, training, batches, found.sharding, models)
        if other.step is None or other.memory is None or other.memory.total >= found.size.memory.total:
            continue
        seconds = seconds_of(other.step, found.speed, training.gradient_accumulation_steps, batches.share)
        tried.append((flag, other.memory.total, seconds))
    yield from sorted(tried, key=lambda one: one[1])[:MOST_SHOWN]


def _changes(args: SftArguments, batches: Batches) -> Iterator[tuple[str, SftArguments, Batches]]:
    """Options that need less, and the batches that they make."""
    for flag, values in ALTERNATIVES:
        wanted = {name: value for name, value in values.items() if getattr(args, name) != value}
        if wanted and not ("optim" in wanted and args.sft_type != "full"):
            yield flag, replace(args, **wanted), batches
    largest = batches.largest
    if largest.rows > 1 and not args.max_tokens_per_batch:
        accumulation = (args.gradient_accumulation_steps or 1) * largest.rows
        flag = f"--batch_size 1 --gradient_accumulation_steps {accumulation}"
        one = replace(largest, rows=1, supervised=max(largest.supervised // largest.rows, 1), padded=False)
        changed = replace(args, batch_size=1, gradient_accumulation_steps=accumulation)
        yield flag, changed, replace(batches, largest=one)
    if args.max_tokens_per_batch and args.max_tokens_per_batch > largest.tokens:
        one = replace(largest, rows=1, supervised=max(largest.supervised // largest.rows, 1), padded=False)
        changed = replace(args, max_tokens_per_batch=largest.tokens)
        yield f"--max_tokens_per_batch {largest.tokens}", changed, replace(batches, largest=one)
    half = largest.tokens // 2
    if half:
        shorter = replace(largest, tokens=half, supervised=max(largest.supervised // 2, 1))
        yield f"--max_length {half}", replace(args, max_length=half), replace(batches, largest=shorter)
