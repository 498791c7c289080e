"""What an estimate says, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from swift.arguments.sft import SftArguments
from swift.commands.pictures import size, table

if TYPE_CHECKING:
    from swift.commands.estimate import Estimate

PROCESS_BYTES = 600 << 20  # of a CPU's process without any model: Python and its libraries


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
    memory, largest = found.size.memory, found.size.batch
    if memory is None or largest is None:
        return [f"memory: not estimated, {found.size.unknown}"]
    many = f"each of {found.processes} processes ({shares(found)})" if found.processes > 1 else "the process"
    looked = "the largest batch" if found.batches.known else "a batch as large as the options allow"
    rows = f"{largest.rows} {'row' if largest.rows == 1 else 'rows'} of {largest.tokens:,} tokens"
    again = "computed twice" if args.gradient_checkpointing else "kept"
    lines = [f"memory of {many} at the height of a step, for {looked}: {rows}; activations are {again}"]
    parts = [(name, size(count)) for name, count in memory.parts().items() if count]
    lines += table([*parts, ("in all", size(memory.total))])
    if not torch.cuda.is_available():
        lines.append(f"  and about {size(PROCESS_BYTES)} for Python and its libraries")
    if found.free is not None:
        lines.append(f"  free: {size(found.free)}" + ("" if found.fits else ", which is not enough"))
    return lines


def shares(found: Estimate) -> str:
    """How processes share, in words."""
    if found.degree == 1:
        return found.sharding
    models = found.processes // found.degree
    return f"{models} models of {found.degree}, {found.sharding}" if models > 1 else "every layer cut"


def time_lines(found: Estimate) -> list[str]:
    """Time of a step and of the run."""
    step, speed = found.size.step, found.speed
    if step is None or found.seconds is None:
        return ["time: not estimated"]
    work = f"{step.flops / 1e9:,.0f} GFLOP at {speed.flops / 1e9:,.0f} a second"
    moved = f"{giga(step.moved)} GB moved at {giga(speed.bytes)} a second"
    apart = " of computing" if found.processes > 1 else ""
    lines = [f"time of a step: {clock(found.seconds)}{apart} (of the largest batch {work}, {moved})"]
    if found.processes > 1:
        lines += sending_lines(found)
    if found.plan is not None:
        lines.append(f"time of the run: {clock(found.seconds * found.plan.steps)} for {found.plan.steps:,} steps")
    return lines


def sending_lines(found: Estimate) -> list[str]:
    """What processes send in a step, and what it makes of its time."""
    cost, traffic, within, cluster = found.cost, found.traffic, found.within, found.cluster
    assert cost is not None
    assert traffic is not None
    assert within is not None
    where = f"over {cluster.nodes} machines" if cluster.nodes > 1 else "on one machine"
    low, high = (f"{100 * share:.0f}" for share in cost.efficiency)
    model, models = cluster.split(found.degree)
    lines = []
    if found.degree > 1:
        many = f"each of {found.degree} processes that hold a model"
        said = f"sends {giga(within.bytes)} GB in a step, and waits for it: {clock(cost.wait)}"
        lines.append(f"{many} {said} at {giga(model.slowest.bandwidth)} GB a second")
    if found.processes > found.degree:
        said = f"sends {giga(traffic.bytes)} GB in a step: {clock(cost.send)}"
        lines.append(
            f"each of {found.processes} processes {where} {said} at {giga(models.slowest.bandwidth)} GB a second"
        )
    return [
        *lines,
        f"  a step takes {clock(cost.best)} where that goes on meanwhile, {clock(cost.worst)} where it does not: "
        f"{low} to {high} % of the time is computing",
    ]


def advice_lines(found: Estimate, others: list[tuple[str, int, float]]) -> list[str]:
    """Flags with what they leave of memory and make of time."""
    return table([(flag, size(count), f"{clock(seconds)} a step") for flag, count, seconds in others])


def giga(count: float) -> str:
    """So many thousand millions, to three digits or to the last one before the point."""
    return f"{count / 1e9:,.0f}" if count >= 1e11 else f"{count / 1e9:.3g}"


def clock(seconds: float) -> str:
    """A time, as people say it."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
