"""Merging and unmerging: the outputs stay, the base comes back bit for bit, and nothing is added twice."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from peft import PeftModel

from swift.errors import ConfigError
from swift.tuners import Swift
from tests.tuners.cases import HOSTS, run, stir
from tests.tuners.test_facade import adapter, lora

LM = HOSTS["lm"]
TARGETS = {"target_modules": ["q_proj", "v_proj"]}
MERGEABLE = {
    "lora": lora(),
    "bias": peft.LoraConfig(r=2, lora_bias=True, **TARGETS),
    "dora": lora(use_dora=True),
    "embedding": lora(target_modules=["embed_tokens", "q_proj"]),
    "tokens": lora(trainable_token_indices=[1, 2]),
    "ia3": peft.IA3Config(feedforward_modules=["down_proj"], target_modules=["v_proj", "down_proj"]),
    "loha": peft.LoHaConfig(r=2, **TARGETS),
    "lokr": peft.LoKrConfig(r=2, **TARGETS),
    "oft": peft.OFTConfig(r=0, oft_block_size=8, use_cayley_neumann=False, **TARGETS),
    "boft": peft.BOFTConfig(boft_block_size=4, **TARGETS),
    "vera": peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "fourierft": peft.FourierFTConfig(n_frequency=16, **TARGETS),
    "adalora": peft.AdaLoraConfig(r=4, total_step=10, **TARGETS),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("in_ours", [True, False])
@pytest.mark.parametrize("method", MERGEABLE)
def test_merged_is_tuned_and_unmerged_is_as_before(method, in_ours, dtype):
    config = MERGEABLE[method]
    model = Swift.prepare_model(LM.make().to(dtype), {"a": config} if in_ours else config)
    stir(model)
    tuned, weights = run(model, LM), {key: value.clone() for key, value in model.get_base_model().state_dict().items()}
    for _ in range(2):
        Swift.merge(model)
        Swift.merge(model)  # a second time adds nothing
        near = 1e-4 if dtype == torch.float32 else 0.1
        assert torch.allclose(run(model, LM), tuned, atol=near * tuned.abs().max().item())
        Swift.unmerge(model)
        Swift.unmerge(model)
        after = model.get_base_model().state_dict()
        assert after.keys() == weights.keys()
        assert all(torch.equal(after[key], weights[key]) for key in weights)
        assert torch.equal(run(model, LM), tuned)
    assert not any("kept_by_merge" in vars(module) for module in model.modules())


def test_several_at_once_a_copy_and_one_of_them_for_good():
    configs = {"a": lora(), "b": MERGEABLE["ia3"], "c": adapter(), "d": lora(r=2)}
    model = Swift.prepare_model(LM.make(), configs)
    stir(model)
    tuned = run(model, LM)
    Swift.merge(model)
    twin = copy.deepcopy(model)
    Swift.unmerge(twin)
    assert torch.equal(run(twin, LM), tuned)
    assert torch.allclose(run(model, LM), tuned, atol=1e-5)
    Swift.merge_and_unload(model, "a")
    assert set(model.adapters) == {"b", "c", "d"}
    assert torch.allclose(run(model, LM), tuned, atol=1e-5)  # the others are still merged
    Swift.unmerge(model)
    model.set_active_adapters([])
    alone = Swift.prepare_model(LM.make(), {"a": lora()})
    alone.load_state_dict(twin.state_dict(adapter_name="a"))
    assert torch.allclose(run(model, LM), run(alone, LM), atol=1e-5)


def test_what_cannot_be_merged_leaves_all_as_it_was():
    model = Swift.prepare_model(LM.make(), {"a": lora(), "b": MERGEABLE["ia3"], "c": lora(r=2)})
    stir(model)
    Swift.merge(model)
    merged = run(model, LM)
    with pytest.raises(ConfigError, match="cannot be merged without"):
        Swift.merge_and_unload(model, "c")
    assert torch.equal(run(model, LM), merged)
    prompt = Swift.prepare_model(LM.make(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    assert isinstance(prompt, PeftModel)
    for act in (Swift.merge, Swift.unmerge, Swift.merge_and_unload):
        with pytest.raises(ConfigError, match="changes no weights"):
            act(prompt)


def test_what_peft_merged_is_unmerged_as_peft_does():
    model = Swift.prepare_model(LM.make(), lora())
    stir(model)
    tuned = run(model, LM)
    model.merge_adapter()
    Swift.unmerge(model)
    assert torch.allclose(run(model, LM), tuned, atol=1e-5)
