"""Every method of PEFT's, alone and inside a SwiftModel, is what it is in PEFT: outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import peft
import pytest
import torch
from torch import nn

from swift.tuners import AdapterConfig, LoraConfig, Swift, SwiftModel
from swift.tuners.lora import is_relative
from tests.tuners.cases import HOSTS, run, stir

LM = HOSTS["lm"]
LINEARS = {"target_modules": ["q_proj", "v_proj"]}
LORA = {**LINEARS, "r": 4, "lora_alpha": 8}
PROMPT = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}

FORMS: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: peft.LoraConfig(**LORA),
    "rslora": lambda: peft.LoraConfig(**LORA, use_rslora=True),
    "dora": lambda: peft.LoraConfig(**LORA, use_dora=True),
    "gaussian": lambda: peft.LoraConfig(**LORA, init_lora_weights="gaussian"),
    "ranks": lambda: peft.LoraConfig(**LORA, rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}),
    "bias": lambda: peft.LoraConfig(**LORA, bias="all", lora_bias=True),
    "whole": lambda: peft.LoraConfig(**LORA, modules_to_save=["lm_head"]),
    "embedding": lambda: peft.LoraConfig(r=4, target_modules=["embed_tokens", "up_proj"]),
    "some layers": lambda: peft.LoraConfig(**LORA, layers_to_transform=[1]),
    "ours": lambda: LoraConfig(**LORA),
    "pissa": lambda: peft.LoraConfig(**LORA, init_lora_weights="pissa"),
    "pissa rslora": lambda: peft.LoraConfig(**LORA, init_lora_weights="pissa", use_rslora=True),
    "pissa niter": lambda: peft.LoraConfig(**LORA, init_lora_weights="pissa_niter_4"),
    "olora": lambda: peft.LoraConfig(**LORA, init_lora_weights="olora"),
    "adalora": lambda: peft.AdaLoraConfig(**LINEARS, init_r=6, target_r=4, total_step=100),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": lambda: peft.LoHaConfig(**LINEARS, r=4),
    "lokr": lambda: peft.LoKrConfig(**LINEARS, r=4),
    "oft": lambda: peft.OFTConfig(**LINEARS, r=0, oft_block_size=4),
    "boft": lambda: peft.BOFTConfig(**LINEARS, boft_block_size=4, boft_n_butterfly_factor=1),
    "vera": lambda: peft.VeraConfig(target_modules=["q_proj"], r=8),
    "fourierft": lambda: peft.FourierFTConfig(**LINEARS, n_frequency=20),
    "hra": lambda: peft.HRAConfig(**LINEARS, r=4),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "randlora": lambda: peft.RandLoraConfig(target_modules=["q_proj"], r=4),
    "prefix": lambda: peft.PrefixTuningConfig(**PROMPT),
    "prefix projected": lambda: peft.PrefixTuningConfig(**PROMPT, prefix_projection=True, encoder_hidden_size=16),
    "prompt": lambda: peft.PromptTuningConfig(**PROMPT),
    "p-tuning": lambda: peft.PromptEncoderConfig(**PROMPT, encoder_hidden_size=16),
}


def theirs(form: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """PEFT's model, moved off its start, and where its trained parameters started."""
    torch.manual_seed(3)
    model = peft.get_peft_model(LM.make(), FORMS[form]())
    start = {key: value.detach().clone() for key, value in trained(model).items()}
    stir(model)
    return model, start


def by_peft_s_names(model: nn.Module, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """`tensors` of a model of ours by the names that they have in PEFT's."""
    named = {}
    for key, tensor in tensors:
        name = key.removesuffix("trained") + "weight" if key.endswith(".trained") else key
        if isinstance(model, SwiftModel):
            name = "base_model.model." + name.removeprefix("base_model.")
            name = name.replace("base_model.model.prompt_learning_default.encoder", "prompt_encoder.default")
        named[name] = tensor
    return named


def trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """What trains, by PEFT's names."""
    return by_peft_s_names(model, ((key, one) for key, one in model.named_parameters() if one.requires_grad))


def give(model: nn.Module, values: dict[str, torch.Tensor], start: dict[str, torch.Tensor], random: bool) -> None:
    """Give `model` the parameters of PEFT's, and those that start inside the weight the same start where it is drawn.

    The signs of a decomposition's vectors are those of one run, which cancel out.
    """
    own = trained(model)
    assert set(own) == set(values)
    with torch.no_grad():
        for key, tensor in by_peft_s_names(model, model.named_buffers()).items():
            if key.endswith(".start"):
                theirs = start[key.removesuffix("start") + "weight"] * (-1 if "lora_B" in key else 1)
                assert random or torch.allclose(tensor, theirs, atol=1e-6)
                tensor.copy_(theirs)
        for key, tensor in own.items():
            assert tensor.shape == values[key].shape
            tensor.copy_(values[key])


def outcome(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits, and the gradients of a loss made of them."""
    logits = run(model, LM)
    model(**{key: value for key, value in LM.inputs.items() if key != "labels"})["logits"].square().mean().backward()
    grads = {key: parameter.grad for key, parameter in trained(model).items()}
    assert all(grad is not None for grad in grads.values())
    return logits, cast(dict[str, torch.Tensor], grads)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("single", [True, False], ids=["alone", "in_a_dict"])
@pytest.mark.filterwarnings("ignore")
def test_outputs_and_gradients_are_those_of_peft(form, single):
    reference, start = theirs(form)
    torch.manual_seed(3)
    config = FORMS[form]()
    ours = Swift.prepare_model(LM.make(), config if single else {"default": config})
    assert isinstance(ours, peft.PeftModel if single else SwiftModel)
    give(ours, trained(reference), start, random="niter" in form)
    logits, grads = outcome(ours)
    wanted, wanted_grads = outcome(reference)
    assert torch.allclose(logits, wanted, atol=1e-6 if is_relative(config) else 0, rtol=0)
    for key, grad in wanted_grads.items():
        assert torch.allclose(grads[key], grad, atol=1e-6, rtol=1e-5), key


@pytest.mark.parametrize("form", ["lora", "ia3", "adalora", "loha", "boft", "prefix"])
@pytest.mark.filterwarnings("ignore")
def test_beside_another_that_is_off_it_is_still_peft_s(form):
    reference, start = theirs(form)
    other = AdapterConfig(dim=LM.dim, target_modules=[LM.wide], adapter_length=6)
    ours = Swift.prepare_model(LM.make(), {"other": other, "default": FORMS[form]()})
    stir(ours, 5)
    ours.set_active_adapters("default")
    for key, parameter in ours.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and "adapter_other" not in key)
    give(ours, trained(reference), start, random=False)
    (logits, grads), (wanted, wanted_grads) = outcome(ours), outcome(reference)
    assert torch.equal(logits, wanted)
    assert all(torch.allclose(grads[key], grad, atol=1e-6, rtol=1e-5) for key, grad in wanted_grads.items())
