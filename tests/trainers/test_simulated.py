"""A step without numbers needs what the same step with numbers needs: tensors are counted in both."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from swift.trainers.arguments import Seq2SeqTrainingArguments
from swift.trainers.loss import TokenLoss, cross_entropy
from swift.trainers.simulated import Batch, UnknownStepError, simulate
from tests.tiny import tiny_model

BATCH = Batch(rows=3, tokens=32, supervised=60)
SHAPE = {"vocab_size": 400, "hidden": 64, "layers": 2}


def model(lora: bool, on: str = "meta", **more: Any) -> nn.Module:
    with torch.device(on):
        made = tiny_model(**{**SHAPE, **more})
    return get_peft_model(made, LoraConfig(r=4, target_modules=["q_proj", "up_proj"])) if lora else made


def arguments(**said: Any) -> Seq2SeqTrainingArguments:
    return Seq2SeqTrainingArguments(output_dir="unused", report_to="none", **said)


def adamw(tuned: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad])


def plain_step(loss: TokenLoss = cross_entropy, lora: bool = False, batch: Batch = BATCH, **said: Any) -> Any:
    return simulate(model(lora), batch, arguments(**said), loss, adamw)


def test_weights_gradients_and_states_are_counted_exactly() -> None:
    with_numbers = model(lora=True, on="cpu")
    trained = sum(p.numel() * 4 for p in with_numbers.parameters() if p.requires_grad)
    step = plain_step(lora=True, gradient_accumulation_steps=2)
    buffers = sum(b.numel() * b.element_size() for b in with_numbers.buffers())
    assert step.weights == sum(p.numel() * 4 for p in with_numbers.parameters()) + buffers
    assert step.trained == trained
    parameters = sum(1 for p in with_numbers.parameters() if p.requires_grad)
    assert step.optimiser == 2 * trained + 4 * parameters
    assert step.moments[0].gradients == trained
    assert step.moments[1].gradients == trained
    assert step.masters == 0


def test_matrix_products_are_counted_as_they_are_known() -> None:
    """Six operations for each weight of a linear layer and token; the head only where something is learnt."""
    batch = Batch(rows=2, tokens=16, supervised=20, padded=False)
    step = simulate(model(False), batch, arguments(), cross_entropy, adamw)
    plain = tiny_model(**SHAPE)
    linear = [m for name, m in plain.named_modules() if isinstance(m, nn.Linear) and name != "lm_head"]
    layers = 6 * 32 * sum(m.weight.numel() for m in linear)
    head = 6 * 20 * plain.lm_head.weight.numel()
    attention = 3.5 * SHAPE["layers"] * 4 * 2 * 16 * 16 * 64
    assert step.flops == pytest.approx(layers + head + attention, rel=0.01)


def test_activations_are_what_autograd_keeps() -> None:
    """What a real forward pass saves for its backward pass is a lower bound of the height, and near it."""
    kept: dict[int, int] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    shape = {"hidden": 128, "layers": 4}
    real = model(False, on="cpu", **shape)
    weights = {p.untyped_storage().data_ptr() for p in [*real.parameters(), *real.buffers()]}
    batch = Batch(rows=4, tokens=64, supervised=4, padded=False)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        hidden = real.model(input_ids=torch.ones(4, 64, dtype=torch.long), use_cache=False).last_hidden_state
    saved = sum(count for key, count in kept.items() if key not in weights)
    del hidden
    step = simulate(model(False, **shape), batch, arguments(), cross_entropy, adamw)
    assert saved <= step.moments[0].activations < 1.35 * saved


def test_what_saves_memory_needs_less() -> None:
    batch = Batch(rows=8, tokens=64, supervised=512)
    whole = plain_step(batch=batch, fused_cross_entropy=False)
    plain, again = plain_step(batch=batch), plain_step(batch=batch, gradient_checkpointing=True)
    assert again.moments[0].activations < plain.moments[0].activations
    assert again.flops > plain.flops
    assert plain.moments[0].logits < whole.moments[0].logits
    logits = 8 * 63 * 400 * 4
    assert whole.moments[0].logits >= 2 * logits


def test_a_plug_in_loss_is_gone_through_too() -> None:
    step = plain_step(loss=lambda logits_NV, targets_N: logits_NV.logsumexp(-1) - targets_N)
    assert step.moments[0].logits > 0


def test_an_optimiser_that_reads_numbers_is_not_known() -> None:
    class Reads(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return self.param_groups[0]["params"][0].grad.sum().item()

    step = simulate(model(False), BATCH, arguments(), cross_entropy, lambda m: Reads(m.parameters(), lr=1.0))
    assert step.optimiser is None


def test_a_model_that_reads_numbers_is_not_known() -> None:
    made: Any = model(False)
    made.register_forward_pre_hook(lambda module, args: made.lm_head.weight.sum().item())
    with pytest.raises(UnknownStepError):
        simulate(made, BATCH, arguments(), cross_entropy, adamw)
    gc.collect()
