"""Which rows come together: every row once, like lengths in a batch, the same order for the same seed and epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.errors import ConfigError
from swift.trainers.batches import Grouped, TokenBatches, by_length
from tests.trainers.rows import Rows, lora, losses, trainer_of, weights

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=70)


@given(lengths=LENGTHS, size=st.integers(1, 5), processes=st.integers(1, 3), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_row_comes_once_an_epoch(lengths: list[int], size: int, processes: int, seed: int) -> None:
    sampler = Grouped(lengths, size, seed, processes)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == list(range(len(lengths))) == sorted(set(orders[-1]))
    again = Grouped(lengths, size, seed, processes)
    again.set_epoch(2)
    assert list(again) == orders[2]
    assert len(sampler) == len(lengths)


def ragged(count: int) -> np.ndarray:
    return np.minimum(np.random.default_rng(0).lognormal(4.7, 0.8, count).astype(int) + 16, 512)


def padded(lengths: np.ndarray, batches: Any) -> float:
    """What goes into the model over what is no padding."""
    return sum(lengths[batch].max() * len(batch) for batch in batches) / lengths.sum()


@pytest.mark.parametrize("size", [2, 4, 16])
def test_there_is_hardly_any_padding(size: int) -> None:
    lengths = ragged(4000)
    sampler = Grouped(lengths.tolist(), size, seed=0)
    grouped = sampler.order().reshape(-1, size)
    assert padded(lengths, grouped) <= 1.02 < 1.3 < padded(lengths, np.arange(4000).reshape(-1, size))
    assert padded(lengths, TokenBatches(lengths.tolist(), 2048, seed=0).batches()) <= 1.02


def test_epochs_and_seeds_differ() -> None:
    lengths = ragged(64).tolist()
    orders = []
    for seed, epoch in ((0, 1), (0, 2), (1, 1)):
        sampler = Grouped(lengths, 4, seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_the_longest_batch_is_the_first() -> None:
    lengths = ragged(300)
    assert lengths[Grouped(lengths.tolist(), 4, seed=3).order()[:4]].max() == lengths.max()
    assert lengths[TokenBatches(lengths.tolist(), 1024, seed=3).batches()[0]].max() == lengths.max()


@given(lengths=LENGTHS, tokens=st.integers(40, 200), processes=st.integers(1, 3), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_batch_holds_so_many_tokens(lengths: list[int], tokens: int, processes: int, seed: int) -> None:
    try:
        samplers = [TokenBatches(lengths, tokens, seed, processes, process) for process in range(processes)]
    except ConfigError:
        assert processes > 1
        return
    for epoch in range(2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        drawn = [list(sampler) for sampler in samplers]
        assert len({len(batches) for batches in drawn} | {len(sampler) for sampler in samplers}) == 1
        every = [batch for batches in drawn for batch in batches]
        assert sorted(row for batch in every for row in batch) == list(range(len(lengths)))
        assert all(max(lengths[row] for row in batch) * len(batch) <= tokens for batch in every)


def test_a_row_that_no_batch_holds_is_told() -> None:
    with pytest.raises(ConfigError, match="a row has 9 tokens"):
        TokenBatches([3, 9], 8, seed=0)


def test_evaluation_goes_from_the_longest() -> None:
    assert by_length([3, 9, 4, 9]) == [1, 3, 2, 0]


class Measured(Rows):
    """Rows that know their lengths, and note which of them are drawn."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.lengths, self.drawn = [len(row["input_ids"]) for row in self.rows], []

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        self.drawn.append(index)
        return super().__getitem__(index)


@pytest.mark.parametrize("said", [{"train_sampling_strategy": "group_by_length"}, {"max_tokens_per_batch": 30}])
def test_a_run_goes_on_in_its_order(tmp_path: Path, said: dict[str, Any]) -> None:
    """Every row once an epoch; stopped in the second epoch and gone on, a run is the run that was not stopped."""
    said = {"per_device_train_batch_size": 3, "num_train_epochs": 3, "max_steps": -1, **said}
    rows, whole = Measured(20), lora(dropout=0.1)
    trainer = trainer_of(whole, tmp_path / "whole", rows, **said)
    trainer.train()
    steps = trainer.state.max_steps // 3
    assert sorted(rows.drawn) == sorted(3 * list(range(20)))

    stop = steps + 2
    half = trainer_of(
        lora(dropout=0.1), tmp_path / "half", Measured(20), **said, save_strategy="steps", save_steps=stop
    )
    half.train()
    for checkpoint in (tmp_path / "half").glob("checkpoint-*"):
        assert checkpoint.name in (f"checkpoint-{stop}", f"checkpoint-{3 * steps}", f"checkpoint-{2 * stop}")
    resumed = lora(dropout=0.1)
    again = trainer_of(resumed, tmp_path / "half", Measured(20), **said)
    again.train(resume_from_checkpoint=str(tmp_path / "half" / f"checkpoint-{stop}"))
    assert losses(again)[stop:] == losses(trainer)[stop:]
    for name, weight in weights(whole).items():
        assert weight.equal(weights(resumed)[name]), name


def test_evaluation_is_the_same_in_any_order(tmp_path: Path) -> None:
    model, rows = lora(), Measured(9)
    found = []
    for strategy in ("random", "group_by_length"):
        trainer = trainer_of(model, tmp_path, val=rows, train_sampling_strategy=strategy, per_device_eval_batch_size=2)
        rows.drawn.clear()
        metrics = trainer.evaluate()
        found.append((metrics["eval_loss"], metrics["eval_acc"], list(rows.drawn)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert found[0][1] == found[1][1]
    assert found[0][2] == list(range(9))
    assert found[1][2] == by_length(rows.lengths)


def test_predictions_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = Measured(5)
    trainer_of(lora(), tmp_path, train_sampling_strategy="group_by_length").predict(rows)
    assert rows.drawn == list(range(5))


def test_the_order_is_that_of_a_step_however_it_is_cut() -> None:
    lengths = ragged(203).tolist()
    whole = Grouped(lengths, 8, seed=1).order()
    for rows, batches in ((1, 8), (2, 4), (4, 2)):
        assert (Grouped(lengths, rows, 1, batches).order() == whole).all()
