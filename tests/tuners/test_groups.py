"""LoRA+: each parameter in one group, at the rate that the paper's rule gives it."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import nn

from swift.errors import ConfigError, UsageError
from swift.tuners import AdapterConfig, LoRAConfig, LoraConfig, Swift
from swift.tuners.groups import param_groups
from tests.tuners.cases import HOSTS

LM, GPT2 = HOSTS["lm"], HOSTS["gpt2"]
LR, DECAY = 1e-4, 0.1


def lora(cls=LoraConfig, **options):
    return cls(**{"r": 4, "target_modules": ["q_proj", "v_proj"], **options})


def found(model: nn.Module, groups: list[dict]) -> dict[str, tuple[float, float]]:
    """Learning rate and decay of each parameter; no parameter is in two groups."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [names[id(parameter)] for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed))
    rates = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert set(rates) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return rates


# Section 4 of the paper: eta_B = ratio * eta_A; all that is not B, and not of an embedding, learns at the run's rate.
CASES = {
    "plain": (lora(), LM, {"lora_A": LR, "lora_B": 16 * LR}),
    "ratio": (lora(lorap_lr_ratio=4.0), LM, {"lora_A": LR, "lora_B": 4 * LR}),
    "off": (lora(lorap_lr_ratio=None), LM, {"lora_A": LR, "lora_B": LR}),
    "dora": (lora(use_dora=True), LM, {"lora_A": LR, "lora_B": 16 * LR, "lora_magnitude_vector": LR}),
    "bias": (lora(bias="all", lora_bias=True), LM, {"lora_A": LR, "lora_B": 16 * LR, "base_layer.bias": LR}),
    "embedding": (
        lora(target_modules=["q_proj", "embed_tokens"], lorap_emb_lr=5e-6),
        LM,
        {"lora_A": LR, "lora_B": 16 * LR, "lora_embedding_A": 5e-6, "lora_embedding_B": 5e-6},
    ),
    "whole": (lora(modules_to_save=["lm_head"]), LM, {"lora_A": LR, "lora_B": 16 * LR, "lm_head": LR}),
    "pissa": (lora(init_lora_weights="pissa"), LM, {"lora_A": LR, "lora_B": 16 * LR}),
    "fused": (
        lora(LoRAConfig, target_modules=["c_attn"], use_merged_linear=True, enable_lora=[True, False, True]),
        GPT2,
        {"lora_A": LR, "lora_B": 16 * LR},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("single", [True, False], ids=["alone", "in a dict"])
def test_each_parameter_learns_at_its_rate(case, single):
    config, host, wanted = CASES[case]
    model = Swift.prepare_model(host.make(), copy.deepcopy(config) if single else {"default": config})
    configs = model.peft_config if isinstance(model, peft.PeftModel) else model.adapters
    rates = found(model, param_groups(model, configs, lr=LR, weight_decay=DECAY))
    for name, (rate, decay) in rates.items():
        part = next((part for part in wanted if f".{part}." in f".{name}."), None)
        expected = wanted[part] if part else LR
        assert rate == pytest.approx(expected, rel=1e-12), name
        vector = model.get_parameter(name).ndim <= 1
        assert decay == (0.0 if vector else DECAY), name
    for part in wanted:
        assert any(f".{part}." in f".{name}." for name in rates), part


def test_one_step_of_sgd_moves_b_by_the_ratio():
    moved = {}
    for ratio in (None, 8.0):
        torch.manual_seed(0)
        model = Swift.prepare_model(LM.make(), {"a": lora(lorap_lr_ratio=ratio)})
        before = {key: value.clone() for key, value in model.state_dict().items()}
        optimizer = torch.optim.SGD(model.create_optimizer_param_groups(lr=0.01))
        model(**LM.inputs)["loss"].backward()
        optimizer.step()
        moved[ratio] = {key: value - before[key] for key, value in model.state_dict().items() if ".lora_B." in key}
    for key, step in moved[None].items():
        assert step.any()
        assert torch.allclose(moved[8.0][key], 8 * step, rtol=1e-4)


def test_adapters_have_their_own_ratios():
    model = Swift.prepare_model(
        LM.make(),
        {
            "a": lora(lorap_lr_ratio=2.0),
            "a0": lora(lorap_lr_ratio=None),
            "mlp": AdapterConfig(dim=32, target_modules=["mlp"], adapter_length=4),
        },
    )
    rates = found(model, model.create_optimizer_param_groups(lr=LR, weight_decay=DECAY))
    for name, (rate, _) in rates.items():
        assert rate == pytest.approx(2 * LR if ".lora_B.a." in name else LR), name


def test_what_cannot_be_grouped_is_refused():
    model = Swift.prepare_model(LM.make(), {"a": lora(), "b": lora(lorap_lr_ratio=2.0)})
    with pytest.raises(UsageError, match="LoRA\\+ needs lr"):
        model.create_optimizer_param_groups(weight_decay=DECAY)
    layer = model.base_model.model.layers[0].self_attn.q_proj
    layer.lora_B["b"].weight = layer.lora_B["a"].weight
    with pytest.raises(ConfigError, match="'b' shares a parameter") as caught:
        model.create_optimizer_param_groups(lr=LR)
    assert isinstance(caught.value, ValueError)
