"""Every switch of a step, alone and with the others: the gradients of one step are those of the plain path."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from swift.trainers.order import order_of
from tests.trainers.rows import Rows, lora, trainer_of

ROWS = 8
PLAIN = {
    "fused_cross_entropy": False,
    "use_logits_to_keep": False,
    "fused_lora": False,
    "train_sampling_strategy": "random",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": ROWS,  # a step is over all rows, however they fall into batches
    "max_steps": 1,
    "max_grad_norm": 0.0,
}
LIKE_LENGTHS = {"train_sampling_strategy": "group_by_length"}
AGAIN = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
SWITCHES: dict[str, dict[str, Any]] = {
    "--fused_cross_entropy": {"fused_cross_entropy": True},
    "--use_logits_to_keep": {"use_logits_to_keep": True},
    "--fused_lora": {"fused_lora": True},
    "--group_by_length": LIKE_LENGTHS,
    "--max_tokens_per_batch": {"max_tokens_per_batch": 30},
    "--padding_free": {"padding_free": True},
    "--gradient_checkpointing": AGAIN,
}
DEFAULTS = {"fused_cross_entropy": True, "fused_lora": True, **LIKE_LENGTHS}


class Gradients(TrainerCallback):
    """Keeps the gradients that the optimiser is given."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def gradients(place: Path, **said: Any) -> dict[str, Tensor]:
    seen, model = Gradients(), lora()
    nn.init.normal_(model.base_model.model.model.layers[0].self_attn.q_proj.lora_B["default"].weight, std=0.1)
    trainer_of(model, place, Rows(ROWS), callbacks=[seen], **{**PLAIN, **said}).train()
    return seen.seen


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return gradients(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name", [*SWITCHES, "all by default", "all by default, checkpointing, tokens"])
def test_a_switch_changes_no_gradient(name: str, plain: dict[str, Tensor], tmp_path: Path) -> None:
    more = {**AGAIN, "max_tokens_per_batch": 30} if "tokens" in name and name not in SWITCHES else {}
    torch.manual_seed(3)
    found = gradients(tmp_path, **SWITCHES.get(name, {**DEFAULTS, **more}))
    assert found.keys() == plain.keys()
    for key, value in plain.items():
        assert (found[key] - value).abs().max() <= 1e-6 + 1e-5 * value.abs().max(), key


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({}, "rows at random, in an order of the seed"),
        (LIKE_LENGTHS, "rows of like length, in an order of the seed; --group_by_length false mixes lengths"),
        ({"max_tokens_per_batch": 30}, "rows of like length, at most 30 tokens with padding"),
    ],
)
def test_the_order_of_batches_is_said(
    said: dict[str, Any], line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer_of(lora(), tmp_path, Rows(ROWS), **{**PLAIN, **said}).get_train_dataloader()
    assert [record.getMessage() for record in caplog.records if line in record.getMessage()]


def test_looking_at_the_order_copies_no_row(tmp_path: Path) -> None:
    class Large(Rows):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("the rows are copied")

    loader = trainer_of(lora(), tmp_path, Large(ROWS), **PLAIN).get_train_dataloader()
    assert order_of(loader) == order_of(loader)


def test_a_model_in_training_is_told_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each of its batches; and again after an evaluation, which takes it out of training."""
    told: list[bool] = []
    model = lora(dropout=0.5)
    inner = model.base_model.model.model.layers[0]
    whole = type(inner).train
    monkeypatch.setattr(type(inner), "train", lambda self, mode=True: told.append(mode) or whole(self, mode))
    said = {"max_steps": 4, "gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    seen: list[bool] = []
    inner.register_forward_pre_hook(lambda layer, _: seen.append(layer.self_attn.training and layer.training))
    trainer_of(model, tmp_path, Rows(16), Rows(4), **{**PLAIN, **said}).train()
    layers = len(model.base_model.model.model.layers)
    assert told.count(True) <= 3 * layers, "once at the start, twice after evaluations"
    assert [sum(seen), len(seen) - sum(seen)] == [8, 2]
