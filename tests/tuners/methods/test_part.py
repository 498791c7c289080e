"""Part: copies that are computed with in place of the originals, alone, together and under LoRA."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError, UnknownNameError
from swift.tuners import LoraConfig, PartConfig, Swift
from tests.tiny import tiny_model
from tests.tuners.cases import HOSTS, Mlp, run, stir

LM = HOSTS["lm"]


def changed(model, name: str) -> dict[str, torch.Tensor]:
    """The adapter's copies under the names of the originals."""
    return {
        pattern.replace(".part_{}", ""): model.base_model.state_dict()[key].clone()
        for key, pattern in model.owned(name).items()
    }


@pytest.mark.parametrize("target", [["mlp"], r"model\.layers\.0|lm_head", ["norm", "embed_tokens"]])
def test_it_computes_with_its_copies(target):
    model = Swift.prepare_model(LM.make(), {"one": PartConfig(target_modules=target)})
    stir(model)
    by_hand = LM.make()
    own = changed(model, "one")
    assert set(own) < set(by_hand.state_dict())
    by_hand.load_state_dict(own, strict=False)
    assert torch.equal(run(model, LM), run(by_hand, LM))
    assert torch.equal(model.base_model.lm_head.state_dict()["weight"], LM.make().lm_head.weight)


def test_several_add_their_differences():
    """W + (W1 - W) + (W2 - W), in float64."""
    model = Swift.prepare_model(
        LM.make().double(),
        {"one": PartConfig(target_modules=["mlp"]), "two": PartConfig(target_modules=["up_proj", "lm_head"])},
    )
    stir(model)
    by_hand = LM.make().double()
    base = {key: tensor.clone() for key, tensor in by_hand.state_dict().items()}
    sums = {key: tensor.clone() for key, tensor in base.items()}
    for name in ("one", "two"):
        for key, copy in changed(model, name).items():
            sums[key] += copy - base[key]
    by_hand.load_state_dict(sums)
    assert torch.allclose(run(model, LM), run(by_hand, LM), rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [("part", "lora"), ("lora", "part")])
def test_lora_adds_to_it(order, tmp_path):
    """(W' + s B A) x, whichever came first, saved and loaded in that order."""
    configs = {
        "part": PartConfig(target_modules=["q_proj"]),
        "lora": LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    }
    model = LM.make()
    for name in order:
        model = Swift.prepare_model(model, {name: configs[name]})
    assert set(model.owned("part").values()) == {
        f"model.layers.{layer}.self_attn.q_proj.part_{{}}.{kind}" for layer in (0, 1) for kind in ("weight", "bias")
    }
    stir(model)
    both = run(model, LM)
    by_hand = LM.make()
    by_hand.load_state_dict(
        {key.replace(".base_layer", ""): copy for key, copy in changed(model, "part").items()}, strict=False
    )
    by_hand = Swift.prepare_model(by_hand, {"lora": configs["lora"]})
    by_hand.load_state_dict(model.state_dict(adapter_name="lora"))
    assert torch.allclose(both, run(by_hand, LM), atol=1e-6)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path), LM), both)
    with pytest.raises(ConfigError, match="trains copies of the weights"):
        Swift.merge(model)
    assert torch.equal(run(model, LM), both)
    model.deactivate_adapter("part")
    alone = run(model, LM)
    Swift.merge_and_unload(model)
    assert torch.allclose(run(model, LM), alone, atol=1e-5)


def test_a_half_model_trains_it_in_float32():
    model = Swift.prepare_model(LM.make().bfloat16(), PartConfig(target_modules=["mlp", "norm"]))
    assert torch.equal(run(model, LM), run(LM.make().bfloat16(), LM))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    logits = model(input_ids=LM.inputs["input_ids"]).logits
    assert logits.dtype == torch.bfloat16
    logits.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_of_tied_weights_it_changes_only_its_own():
    model = Swift.prepare_model(
        tiny_model("llama", vocab_size=64, hidden=32, tie_word_embeddings=True), PartConfig(target_modules=["lm_head"])
    )
    seen = []
    model.base_model.model.embed_tokens.register_forward_hook(lambda _module, _args, output: seen.append(output))
    run(model, LM)
    stir(model)
    run(model, LM)
    assert torch.equal(seen[0], seen[1])


def test_it_refuses_what_it_cannot_train():
    with pytest.raises(ConfigError, match="no parameters"):
        Swift.prepare_model(LM.make(), PartConfig(target_modules=["act_fn"]))
    with pytest.raises(UnknownNameError, match="secnd"):
        Swift.prepare_model(Mlp(), PartConfig(target_modules=["secnd"]))
    quantised = nn.Sequential(nn.Linear(2, 2))
    quantised[0].weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ConfigError, match="quantised"):
        Swift.prepare_model(quantised, PartConfig(target_modules=["0"]))


def test_options_become_its_config():
    args = SftArguments(lora_target_modules=["EMBEDDING"])
    assert PartConfig.from_options(args, LM.make()).target_modules == ["embed_tokens"]
