"""A LoRA layer in one function is PEFT's layer, in what it gives, in every gradient and in the random draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swift.trainers.fused_lora import fused_lora
from swift.tuners import LoRAConfig, Swift
from tests.trainers.rows import Rows, collate, lora, losses, trainer_of, weights


class Two(nn.Module):
    """A layer with a bias and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 10), nn.Linear(10, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def tuned(dtype: torch.dtype = torch.float64, **config: Any) -> Any:
    torch.manual_seed(0)
    said = {"r": 3, "lora_alpha": 5, "target_modules": ["first", "second"], "init_lora_weights": False, **config}
    return get_peft_model(Two(), LoraConfig(**said)).to(dtype)


def learnt(model: Any, fused: bool, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """What comes out, and every gradient."""
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    model.zero_grad()
    torch.manual_seed(2)
    if fused:
        with fused_lora(model):
            y = model(x)
            y.float().square().sum().backward()
    else:
        y = model(x)
        y.float().square().sum().backward()
    named = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, **named}


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"lora_dropout": 0.4},
    "rslora": {"use_rslora": True},
    "base bias": {"bias": "lora_only"},
}
PLAIN: dict[str, dict[str, Any]] = {"dora": {"use_dora": True}, "bias of the update": {"lora_bias": True}}


@pytest.mark.parametrize("name", [*CASES, *PLAIN])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_pefts_layer(name: str, training: bool) -> None:
    model = tuned(**(CASES | PLAIN)[name]).train(training)
    with fused_lora(model) as count:
        assert count == (2 if name in CASES else 0)
    got, expected = learnt(model, fused=True), learnt(model, fused=False)
    assert got.keys() == expected.keys()
    for key in expected:
        assert (got[key] - expected[key]).abs().max() <= 1e-12, key


def test_it_is_pefts_layer_in_float32() -> None:
    model = tuned(torch.float32)
    got, expected = learnt(model, True, torch.float32), learnt(model, False, torch.float32)
    for key in expected:
        assert (got[key] - expected[key]).abs().max() <= 1e-6 * expected[key].abs().max(), key


@pytest.mark.parametrize("wide", [torch.float32, torch.bfloat16])
def test_half_precision_is_as_near_to_the_truth(wide: torch.dtype) -> None:
    """A and B in float32 or in bfloat16 over a bfloat16 base, against PEFT's own distance from float64."""
    model = tuned(torch.bfloat16)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = parameter.data.to(wide)
    got, expected = learnt(model, True, torch.bfloat16), learnt(model, False, torch.bfloat16)
    truth = learnt(model.double(), False)
    for key in truth:
        size = truth[key].abs().max()
        assert got[key].dtype == expected[key].dtype, key
        assert (got[key] - truth[key]).abs().max() <= 2 * (expected[key] - truth[key]).abs().max() + 0.02 * size, key


def test_autocast_decides_the_precision() -> None:
    model = tuned(torch.float32)
    x = torch.randn(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
        with fused_lora(model):
            got = model(x)
    assert got.dtype == expected.dtype == torch.bfloat16
    assert torch.allclose(got, expected, atol=5e-2)


@pytest.mark.parametrize("how", ["disabled", "merged", "two adapters", "per row"])
def test_what_else_peft_can_do_stays(how: str) -> None:
    model, x, options = tuned(), torch.randn(2, 6, dtype=torch.float64), {}
    if how in ("two adapters", "per row"):
        model.add_adapter("other", LoraConfig(r=2, target_modules=["first"], init_lora_weights=False))
        model.double()
    if how == "two adapters":
        model.base_model.set_adapter(["default", "other"])
    if how == "per row":
        model.eval()
        options = {"adapter_names": ["other", "__base__"]}
    if how == "merged":
        model.merge_adapter()

    def run() -> Tensor:
        if how == "disabled":
            with model.disable_adapter():
                return model(x)
        return model(x, **options)

    expected = run()
    with fused_lora(model):
        assert torch.equal(run(), expected)


def test_checkpointed_layers_draw_the_same_dropout() -> None:
    model, x = tuned(lora_dropout=0.5), torch.randn(4, 6, dtype=torch.float64)
    found = []
    for through in (False, True):
        model.zero_grad()
        torch.manual_seed(3)
        with fused_lora(model):
            y: Any = checkpoint(model, x, use_reentrant=False) if through else model(x)
            y.sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for key, gradient in found[0].items():
        assert torch.equal(gradient, found[1][key])


def test_layers_are_themselves_again() -> None:
    model = tuned()
    with fused_lora(model):
        assert "forward" in vars(model.base_model.model.first)
    assert "forward" not in vars(model.base_model.model.first)


def test_a_quantised_or_hooked_base_is_left_alone() -> None:
    model = tuned()
    model.base_model.model.first.base_layer.register_forward_hook(lambda *_: None)
    model.base_model.model.second.base_layer.__class__ = type("Linear4bit", (nn.Linear,), {})
    with fused_lora(model) as count:
        assert count == 0


def test_a_tuner_of_ours_is_one_too() -> None:
    """The layers of a SwiftModel are PEFT's."""
    config = LoRAConfig(r=3, target_modules=["first", "second"], init_lora_weights=False)
    model = Swift.prepare_model(Two(), config).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    expected = model(x)
    with fused_lora(model) as count:
        assert count == 2
        assert torch.allclose(model(x), expected, rtol=0, atol=1e-12)


def test_a_run_takes_the_same_way(tmp_path: Path) -> None:
    found = []
    for fused in (False, True):
        model = lora(dropout=0.1)
        trainer = trainer_of(model, tmp_path / str(fused), Rows(16), fused_lora=fused, collator=collate)
        trainer.train()
        found.append((losses(trainer), weights(model)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    for key, weight in found[0][1].items():
        assert (weight - found[1][1][key]).abs().max() <= 1e-5, key
