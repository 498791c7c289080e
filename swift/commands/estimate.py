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
from swift.arguments.sft import SftArguments
from swift.commands.chat import say
from swift.commands.estimates import Batches, Schedule, Size, batches_of, schedule, size_of, unknown_size
from swift.commands.pictures import size, table
from swift.commands.prepare import load_plugins, load_template
from swift.commands.ready import find_inputs, new_ids, read_data, spell_out
from swift.decide import decide_sft, tidy
from swift.dist import Hardware
from swift.errors import ConfigError, UsageError
from swift.estimate import Speed, seconds_of
from swift.models.load import TORCH_DTYPES, detect_hardware
from swift.models.source import ModelSource
from swift.scaling import Cluster, Cost, Link, Traffic, traffic_of
from swift.trainers import zero
from swift.trainers.arguments import Seq2SeqTrainingArguments, training_arguments
from swift.trainers.speed import measure_speed

GIB = 1 << 30
PROCESS_BYTES = 600 << 20  # of a CPU's process without any model: Python and its libraries
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
        sharding: how they share.
        free: bytes of memory that a process can have; None where that is not known.
        cluster: where the processes are, and what joins them.
        traffic: what each of them sends in a step; None where that is not known.
    """

    size: Size
    batches: Batches
    seconds: float | None
    speed: Speed
    plan: Schedule | None
    processes: int
    sharding: str
    free: int | None
    cluster: Cluster
    traffic: Traffic | None

    @property
    def cost(self) -> Cost | None:
        """Seconds of a step, of which some go to sending; None where that is not known."""
        if self.seconds is None or self.traffic is None:
            return None
        return Cost(self.seconds, self.traffic.seconds(self.cluster))

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
            "sharding": self.sharding,
            "batch": asdict(self.batches),
            "step": asdict(self.size.step) if self.size.step else None,
            "speed": asdict(self.speed),
            "seconds_per_step": self.seconds,
            "nodes": self.cluster.nodes,
            "sent_bytes_per_step": self.traffic.bytes if self.traffic else None,
            "seconds_of_sending": self.cost.send if self.cost else None,
            "schedule": asdict(self.plan) if self.plan else None,
            "checkpoint_bytes": self.size.checkpoint_bytes,
        }


def estimate_main(said: EstimateArguments) -> dict[str, Any]:
    """Print what a run would take, as text or as one line of JSON, and return it.

    Raises:
        SwiftError: the options, the model or the data are not such that a run could start.
    """
    load_plugins(said.custom_register_path)
    names = options_of(SftArguments)
    asked = tidy(SftArguments(**{name: getattr(said, name) for name in names}))
    source = find_inputs(asked)
    processes = said.processes or processes_asked()
    hardware = replace(detect_hardware(), world_size=processes)
    args = decide_sft(spell_out(asked), hardware, source)
    unknown = unknown_size(args, source)
    if unknown is not None:
        raise ConfigError("CONFIG-02", f"nothing is estimated here: {unknown}")
    found = estimate_run(args, source, hardware, said)
    others = [] if said.json or fits(found) else list(advice(args, source, found))
    say(json.dumps(found.to_json()) if said.json else "\n".join(describe(found, args, others)))
    return found.to_json()


def processes_asked() -> int:
    """How many processes the environment asks for."""
    plan = dist.plan_launch(os.environ)
    return plan.processes * plan.nodes if plan else 1


def nodes_asked() -> int:
    """How many machines the environment asks for."""
    plan = dist.plan_launch(os.environ)
    return plan.nodes if plan else 1


def sharding_of(args: SftArguments, said: str | None, processes: int) -> str:
    """What processes split, by what the options say."""
    if said is not None or processes < 2:
        return said or "none"
    if args.fsdp:
        return "fsdp"
    return f"zero{zero.stage_of(zero.read_config(args.deepspeed))}" if args.deepspeed else "ddp"


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
    processes = hardware.world_size
    training = training_arguments(args)
    batches, plan = _batches(args, source, training, processes)
    sharding = sharding_of(args, said.sharding if said else None, processes)
    found = size_of(args, source, training, batches.largest, sharding, processes)
    speed = _speed(args, hardware, said)
    seconds = None
    if found.step is not None:
        seconds = seconds_of(found.step, speed, training.gradient_accumulation_steps, batches.share)
    free = round(said.memory_gib * GIB) if said and said.memory_gib else hardware.memory
    cluster = cluster_of(hardware, said or EstimateArguments())
    traffic = None
    if found.step is not None:
        parts = -(-found.step.weights // max(found.step.layer, 1))
        traffic = traffic_of(found.step, sharding, processes, training.gradient_accumulation_steps, parts)
    return Estimate(found, batches, seconds, speed, plan, processes, sharding, free, cluster, traffic)


def cluster_of(hardware: Hardware, said: EstimateArguments) -> Cluster:
    """Where the processes are.

    Raises:
        UsageError: they cannot be spread evenly.
    """
    processes, nodes = hardware.world_size, said.nodes or nodes_asked()
    if processes % nodes:
        what = f"{processes} processes cannot be spread evenly over --nodes {nodes}"
        raise UsageError("USAGE-02", what, fix=f"--processes {nodes * (processes // nodes + 1)}")
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
    train = read_data(replace(args, dry_run=True), template).train
    return batches_of(args, source, training, train), schedule(training, train, processes)


def _speed(args: SftArguments, hardware: Hardware, said: EstimateArguments | None) -> Speed:
    """The device's speed: what is said of it, else what it shows."""
    tflops, bandwidth = (said.tflops, said.bandwidth) if said else (None, None)
    if tflops and bandwidth:
        return Speed(tflops * 1e12, bandwidth * 1e9)
    here = measure_speed(TORCH_DTYPES[args.dtype], torch.device(hardware.accelerator or "cpu"))
    return Speed(tflops * 1e12 if tflops else here.flops, bandwidth * 1e9 if bandwidth else here.bytes)


def fits(found: Estimate) -> bool:
    """Whether the memory is enough, as far as that is known."""
    return found.free is None or found.size.memory is None or found.size.memory.total <= found.free


def advice(args: SftArguments, source: ModelSource, found: Estimate) -> Iterator[tuple[str, int, float]]:
    """The flags that save most memory, at most three: each with the bytes it leaves and the seconds of a step."""
    assert found.size.memory is not None
    tried: list[tuple[str, int, float]] = []
    for flag, changed, batches in _changes(args, found.batches):
        training = training_arguments(changed)
        other = size_of(changed, source, training, batches.largest, found.sharding, found.processes)
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


# In words


def describe(found: Estimate, args: SftArguments, others: list[tuple[str, int, float]]) -> list[str]:
    """What was found, for a terminal or a pipe."""
    sizes = found.size
    share = 100 * sizes.trainable / max(sizes.parameters, 1)
    lines = [f"parameters: {sizes.parameters:,}, of which {sizes.trainable:,} train ({share:.3g} %)"]
    lines += memory_lines(found, args)
    lines += time_lines(found)
    if others:
        lines += ["what would need least memory:", *advice_lines(found, others)]
    return lines


def memory_lines(found: Estimate, args: SftArguments) -> list[str]:
    """Memory by part, for the largest batch."""
    memory, largest = found.size.memory, found.batches.largest
    if memory is None:
        return [f"memory: not estimated, {found.size.unknown}"]
    many = f"each of {found.processes} processes ({found.sharding})" if found.processes > 1 else "the process"
    looked = "the largest batch" if found.batches.known else "a batch as large as the options allow"
    rows = f"{largest.rows} {'row' if largest.rows == 1 else 'rows'} of {largest.tokens:,} tokens"
    again = "computed twice" if args.gradient_checkpointing else "kept"
    lines = [f"memory of {many} at the height of a step, for {looked}: {rows}; activations are {again}"]
    parts = [(name, size(count)) for name, count in memory.parts().items() if count]
    lines += table([*parts, ("in all", size(memory.total))])
    if not torch.cuda.is_available():
        lines.append(f"  and about {size(PROCESS_BYTES)} for Python and its libraries")
    if found.free is not None:
        lines.append(f"  free: {size(found.free)}" + ("" if fits(found) else ", which is not enough"))
    return lines


def time_lines(found: Estimate) -> list[str]:
    """Time of a step and of the run."""
    step, speed = found.size.step, found.speed
    if step is None or found.seconds is None:
        return ["time: not estimated"]
    work = f"{step.flops / 1e9:,.0f} GFLOP at {speed.flops / 1e9:,.0f} a second"
    moved = f"{step.moved / 1e9:.3g} GB moved at {speed.bytes / 1e9:.3g} a second"
    apart = " of computing" if found.processes > 1 else ""
    lines = [f"time of a step: {clock(found.seconds)}{apart} (of the largest batch {work}, {moved})"]
    if found.processes > 1:
        lines += sending_lines(found)
    if found.plan is not None:
        lines.append(f"time of the run: {clock(found.seconds * found.plan.steps)} for {found.plan.steps:,} steps")
    return lines


def sending_lines(found: Estimate) -> list[str]:
    """What processes send in a step, and what it makes of its time."""
    cost, traffic, cluster = found.cost, found.traffic, found.cluster
    assert cost is not None
    assert traffic is not None
    where = f"over {cluster.nodes} machines" if cluster.nodes > 1 else "on one machine"
    low, high = (f"{100 * share:.0f}" for share in cost.efficiency)
    return [
        f"each of {found.processes} processes {where} sends {traffic.bytes / 1e9:.3g} GB in a step: "
        f"{clock(cost.send)} at {cluster.slowest.bandwidth / 1e9:.3g} GB a second",
        f"  a step takes {clock(cost.best)} where that goes on meanwhile, {clock(cost.worst)} where it does not: "
        f"{low} to {high} % of the time is computing",
    ]


def advice_lines(found: Estimate, others: list[tuple[str, int, float]]) -> list[str]:
    """Flags with what they leave of memory and make of time."""
    return table([(flag, size(count), f"{clock(seconds)} a step") for flag, count, seconds in others])


def clock(seconds: float) -> str:
    """A time, as people say it."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
