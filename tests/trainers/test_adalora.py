"""AdaLoRA's loss is PEFT's, its ranks end at the target, and a schedule that cannot be is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig

from swift.errors import ConfigError
from swift.trainers.adalora import Ranks, find_ranks, whole_ranks
from swift.tuners import Swift
from tests.tiny import tiny_model


def tuned(in_folder: bool = False, **fields: Any) -> tuple[Any, Ranks]:
    torch.manual_seed(0)
    config = AdaLoraConfig(target_modules=["q_proj", "v_proj"], init_r=6, target_r=2, total_step=99, **fields)
    model = Swift.prepare_model(tiny_model(), {"one": config} if in_folder else config)
    ranks = find_ranks(model)
    assert ranks is not None
    return model, ranks


def train(model: Any, ranks: Ranks, steps: int) -> None:
    ids_BT = torch.arange(12).reshape(2, 6)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    state: Any = SimpleNamespace(global_step=0, max_steps=steps)
    args: Any = None
    ranks.on_train_begin(args, state, args)
    for state.global_step in range(steps):
        model(input_ids=ids_BT, labels=ids_BT).loss.backward()
        optimizer.step()
        ranks.on_optimizer_step(args, state, args)
        optimizer.zero_grad()


def live(model: Any) -> int:
    return sum(int((p != 0).sum()) for name, p in model.named_parameters() if "lora_E" in name)


def test_the_loss_is_that_of_peft() -> None:
    model, ranks = tuned(task_type="CAUSAL_LM")
    ids_BT = torch.arange(12).reshape(2, 6)
    with_it = model(input_ids=ids_BT, labels=ids_BT).loss
    without = model.get_base_model()(input_ids=ids_BT, labels=ids_BT).loss
    torch.testing.assert_close(ranks.orthogonality(), with_it - without)


@pytest.mark.parametrize("in_folder", [False, True])
@pytest.mark.parametrize("tfinal", [0, 3])
def test_ranks_end_at_the_target(in_folder: bool, tfinal: int) -> None:
    model, ranks = tuned(in_folder, tfinal=tfinal)
    layers = sum("lora_E" in name for name, _ in model.named_parameters())
    train(model, ranks, 8)
    assert live(model) <= 2 * layers
    assert ranks.config.rank_pattern
    with whole_ranks(model):
        assert ranks.config.rank_pattern is None
    assert sum(map(sum, ranks.config.rank_pattern.values())) == 2 * layers


def test_an_overflow_of_fp16_leaves_the_importance_finite() -> None:
    model, ranks = tuned()
    state: Any = SimpleNamespace(global_step=0, max_steps=8)
    ranks.on_train_begin(state, state, state)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan")) if parameter.requires_grad else None
    ranks.on_optimizer_step(state, state, state)
    assert all(torch.isfinite(tensor).all() for tensor in ranks.allocator.exp_avg_ipt.values())


def test_a_run_of_one_step() -> None:
    model, ranks = tuned()
    train(model, ranks, 1)
    assert ranks.config.rank_pattern


def test_a_schedule_that_leaves_no_step() -> None:
    model, ranks = tuned(tinit=5)
    with pytest.raises(ConfigError, match="leave none of 5 steps"):
        train(model, ranks, 5)


def test_a_frozen_adapter_has_none() -> None:
    config = AdaLoraConfig(target_modules=["q_proj"], total_step=9)
    assert find_ranks(Swift.prepare_model(tiny_model(), config, inference_mode=True)) is None
    assert find_ranks(tiny_model()) is None
