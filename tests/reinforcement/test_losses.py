"""Losses and advantages are their formulas in float64, and what TRL makes of the same batch."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from swift.arguments.reinforcement import METHODS
from swift.reinforcement.advantages import alike, leave_one_out, relative_to_group, spread
from swift.reinforcement.loss import Settings, Table, counts_of, losses, share_of_step

A, T, LONGEST = 6, 7, 11
BETA, LOW, HIGH = 0.3, 0.15, 0.25
LOSSES = [name for names in METHODS.values() for name in names]


@pytest.fixture(scope="module")
def said() -> dict[str, Tensor]:
    """Log-probabilities of answers now, when they were written, and of the reference; one counts no token."""
    draw = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    lengths = torch.randint(1, T, (A,), generator=draw)
    mask = (torch.arange(T) < lengths[:, None]).double()
    mask[2] = 0
    now = -normal(A, T).abs()
    return {
        "now": now, "old": now + 0.3 * normal(A, T), "known": now + normal(A, T), "mask": mask, "gain": normal(A)
    }  # fmt: skip


def settings(name: str) -> Settings:
    return Settings(name, BETA, LOW, HIGH, LONGEST)


def ours(said: dict[str, Tensor], name: str) -> Tensor:
    table = {key: said[key] * said["mask"] for key in ("now", "old", "known")}
    found = losses(table["now"], table["old"], table["known"], said["mask"], said["gain"], settings(name))
    counts = torch.tensor([A, float(said["mask"].sum()), 1.0], dtype=torch.float64)
    return share_of_step(found, said["mask"], torch.ones(A, dtype=torch.float64), counts, settings(name))


def clipped(ratio: float, gain: float) -> float:
    return -min(ratio * gain, min(max(ratio, 1 - LOW), 1 + HIGH) * gain)


def formula(said: dict[str, Tensor], name: str) -> float:
    """The loss written out, number by number."""
    rows = [[t for t in range(T) if said["mask"][a, t]] for a in range(A)]
    value = {key: said[key].tolist() for key in ("now", "old", "known", "gain")}
    if name == "rloo":
        sums = [sum(value["now"][a][t] - value["old"][a][t] for t in rows[a]) for a in range(A)]
        return sum(clipped(math.exp(sums[a]), value["gain"][a]) for a in range(A) if rows[a]) / A

    def token(a: int, t: int) -> float:
        away = value["known"][a][t] - value["now"][a][t]
        ratio = math.exp(value["now"][a][t] - value["old"][a][t])
        return clipped(ratio, value["gain"][a]) + BETA * (math.exp(away) - away - 1)

    sums, count = [sum(token(a, t) for t in rows[a]) for a in range(A)], sum(map(len, rows))
    if name == "grpo":
        return sum(each / max(len(row), 1) for each, row in zip(sums, rows, strict=True)) / A
    return sum(sums) / (A * LONGEST if name == "dr_grpo" else count)


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_its_formula(name: str, said: dict[str, Tensor]) -> None:
    assert float(ours(said, name)) == pytest.approx(formula(said, name), rel=1e-12)


class Alone:
    """One process, as TRL asks for it."""

    num_processes, process_index, sync_gradients, device = 1, 0, True, torch.device("cpu")

    def gather(self, value: Tensor) -> Tensor:
        return value

    def reduce(self, value: Tensor, reduction: str) -> Tensor:
        return value


def as_trl(said: dict[str, Tensor], name: str) -> float:
    """What TRL's own trainer makes of the batch."""
    trl = pytest.importorskip("trl")
    mask = said["mask"]
    args = SimpleNamespace(
        delta=None, use_bias_correction_kl=False, steps_per_generation=1, sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.0,
    )  # fmt: skip
    trainer: Any = SimpleNamespace(
        accelerator=Alone(), args=args, aux_loss_enabled=False, top_entropy_quantile=1.0, loss_type=name, beta=BETA,
        off_policy_mask_threshold=None, importance_sampling_level="token", epsilon_low=LOW, epsilon_high=HIGH,
        use_vllm=False, vllm_importance_sampling_correction=False, _entropy_bonus_enabled=False,
        max_completion_length=LONGEST, current_gradient_accumulation_steps=1, model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (said["now"], torch.zeros(A, T), None),
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(A, 2), "prompt_mask": torch.ones(A, 2), "completion_ids": torch.zeros(A, T),
        "completion_mask": mask, "advantages": said["gain"], "old_per_token_logps": said["old"],
        "old_logps": (said["old"] * mask).sum(1), "ref_per_token_logps": said["known"],
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    kind = trl.RLOOTrainer if name == "rloo" else trl.GRPOTrainer
    return float(kind._compute_loss(trainer, None, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_it_is_as_in_trl(name: str, said: dict[str, Tensor]) -> None:
    whole = dict(said)
    if name == "rloo":  # TRL gives an answer without a token its advantage as a loss, which moves nothing
        whole["gain"] = said["gain"].clone()
        whole["gain"][2] = 0
    assert float(ours(whole, name)) == pytest.approx(as_trl(whole, name), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_batches_add_up_and_fillers_weigh_nothing(name: str, said: dict[str, Tensor]) -> None:
    counts = torch.tensor([A, float(said["mask"].sum()), 2.0], dtype=torch.float64)
    whole, parts = ours(said, name), torch.zeros((), dtype=torch.float64)
    for start, end, filling in ((0, 4, 0), (4, 6, 1)):
        rows = [*range(start, end), *[0] * filling]
        part = {key: value[rows] for key, value in said.items()}
        weight = torch.tensor([1.0] * (end - start) + [0.0] * filling, dtype=torch.float64)
        table = {key: part[key] * part["mask"] for key in ("now", "old", "known")}
        found = losses(table["now"], table["old"], table["known"], part["mask"], part["gain"], settings(name))
        parts = parts + share_of_step(found, part["mask"], weight, counts, settings(name))
    if name == "bnpo":  # each batch by its own tokens: that is what it is
        assert float(parts) != pytest.approx(float(whole), rel=1e-6)
    else:
        assert float(parts) == pytest.approx(float(whole), rel=1e-12)


def test_a_table_has_every_token_at_its_place() -> None:
    answer = torch.tensor([0, 0, 2, 2, 2])
    table = Table.of(answer, 3)
    assert table.mask_AT.tolist() == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert table.put(torch.arange(1.0, 6)).tolist() == [[1, 2, 0], [0, 0, 0], [3, 4, 5]]


NAN = math.nan
REWARDS = [[1.0, 0.0, 0.5, 1.0], [2.0, 2.0, 2.0, 2.0], [NAN, 3.0, 1.0, NAN], [NAN, NAN, 7.0, NAN]]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def deviation(values: list[float]) -> float:
    return math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0.0


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_of_grpo(scale: str) -> None:
    rewards = torch.tensor(REWARDS, dtype=torch.float64)
    known = [[r for r in row if r == r] for row in REWARDS]
    whole = deviation([r for row in known for r in row])
    found = relative_to_group(rewards, scale, spread(rewards))
    for row, group, told in zip(REWARDS, known, found.tolist(), strict=True):
        by = {"group": deviation(group) + 1e-4, "batch": whole + 1e-4, "none": 1.0}[scale]
        assert told == pytest.approx([(r - mean(group)) / by if r == r else 0.0 for r in row], abs=1e-12)
    assert alike(rewards).tolist() == [False, True, False, True]


def test_advantages_of_rloo() -> None:
    found = leave_one_out(torch.tensor(REWARDS, dtype=torch.float64)).tolist()
    for row, told in zip(REWARDS, found, strict=True):
        for k, advantage in enumerate(told):
            others = [r for j, r in enumerate(row) if j != k and r == r]
            expected = row[k] - mean(others) if others and row[k] == row[k] else 0.0
            assert advantage == pytest.approx(expected, abs=1e-12)


def test_a_batch_without_tokens_to_learn_is_not_counted() -> None:
    assert counts_of(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.0])).tolist() == [1.0, 3.0, 1.0]
    assert counts_of(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])).tolist() == [1.0, 0.0, 0.0]
