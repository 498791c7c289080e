"""The arithmetic of an estimate: shards, times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swift.estimate import BUFFERS, Moment, Speed, Step, memory_of, seconds_of

STEP = Step(
    weights=1000,
    trained=800,
    masters=400,
    optimiser=1600,
    layer=100,
    moments=(Moment(0, 5000, 50), Moment(800, 0, 0)),
    flops=10**12,
    moved=10**9,
    updated=10**8,
)


def test_the_height_is_the_larger_of_the_two_moments() -> None:
    assert memory_of(STEP).activations == 5000
    high = replace(STEP, moments=(Moment(0, 100, 50), Moment(80_000, 0, 0)))
    assert (memory_of(high).gradients, memory_of(high).activations) == (80_000, 0)
    parts = memory_of(STEP).parts()
    assert sum(parts.values()) == memory_of(STEP).total
    assert parts["gaps"] >= BUFFERS


@pytest.mark.parametrize("sharding", ["none", "ddp", "fsdp"])
def test_one_process_shares_nothing(sharding: str) -> None:
    assert memory_of(STEP, sharding, 1) == memory_of(STEP)


def test_each_stage_splits_what_it_says() -> None:
    step = replace(STEP, moments=(Moment(800, 5000, 50),))
    whole, ddp, one, two, three, fsdp = (
        memory_of(step, sharding, 4) for sharding in ("none", "ddp", "zero1", "zero2", "zero3", "fsdp")
    )
    assert (whole.weights, whole.gradients, whole.optimiser, whole.communication) == (1000, 800, 1600, 0)
    assert ddp == replace(whole, communication=800)
    assert (one.weights, one.gradients, one.optimiser) == (1000, 800, (1600 * 1.25 + 400) / 4)
    assert (two.weights, two.gradients, two.optimiser) == (1000, 200, 600)
    assert (three.weights, three.gradients, three.optimiser, three.communication) == (250, 200, 600, 200)
    assert three == replace(fsdp, optimiser=600)
    assert fsdp.optimiser == 1600 / 4
    assert {memory.activations for memory in (whole, ddp, one, two, three)} == {5000}


@pytest.mark.parametrize(("sharding", "of_each"), [("none", 4), ("ddp", 4), ("zero1", 12), ("zero3", 12), ("fsdp", 4)])
def test_only_deepspeed_keeps_half_precision_weights_in_float32(sharding: str, of_each: int) -> None:
    step = replace(STEP, trained=2 * 10**6, masters=4 * 10**6, optimiser=4 * 10**6)
    shares = 1 if sharding in ("none", "ddp") else 4
    assert memory_of(step, sharding, 4).optimiser == of_each * 10**6 / shares
    assert memory_of(step, sharding, 1).optimiser == of_each * 10**6


def test_time_is_work_over_speed() -> None:
    speed = Speed(flops=1e12, bytes=1e9)
    once = seconds_of(STEP, speed)
    assert once == pytest.approx(1.15 * (1 + 1 + 0.1))
    assert seconds_of(STEP, Speed(2e12, 2e9)) == pytest.approx(once / 2)
    assert seconds_of(STEP, speed, batches=3, share=0.5) == pytest.approx(1.15 * (3 + 0.1))
