"""PEFT's prompt methods, alone and beside other tuners."""

from __future__ import annotations

import copy
import inspect

import peft
import pytest
import torch
from peft import PeftModel

from swift.errors import ConfigError, DataError
from swift.tuners import Swift, SwiftModel
from tests.tuners.cases import HOSTS, run, stir, train
from tests.tuners.test_facade import adapter, lora

LM = HOSTS["lm"]
LENGTH = LM.inputs["input_ids"].shape[1]
COMMON = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
PROMPTS = {
    "prompt": peft.PromptTuningConfig(**COMMON),
    "prefix": peft.PrefixTuningConfig(**COMMON),
    "projected": peft.PrefixTuningConfig(**COMMON, prefix_projection=True, encoder_hidden_size=8),
    "p_tuning": peft.PromptEncoderConfig(**COMMON, encoder_hidden_size=8),
    "cartridge": peft.CartridgeConfig(**COMMON),
}


@pytest.fixture(params=PROMPTS)
def config(request):
    return PROMPTS[request.param]


def three(config) -> SwiftModel:
    configs = {"l": lora(target_modules=["q_proj", "embed_tokens"]), "p": config, "a": adapter()}
    model = Swift.prepare_model(LM.make(), configs)
    stir(model)
    return model


def test_alone_in_a_dict_it_is_peft_s(config):
    ours, theirs = Swift.prepare_model(LM.make(), {"p": config}), Swift.prepare_model(LM.make(), config)
    assert isinstance(ours, SwiftModel)
    assert isinstance(theirs, PeftModel)
    stir(theirs)
    theirs_state = theirs.prompt_encoder["default"].state_dict()
    ours.load_state_dict({f"prompt_learning_p.encoder.{key}": value for key, value in theirs_state.items()})
    assert torch.equal(run(ours, LM), run(theirs, LM))
    prompt = {"input_ids": torch.arange(4)[None], "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(ours.generate(**prompt), theirs.generate(**prompt))
    for model in (ours, theirs):
        model.train()(**LM.inputs)["loss"].backward()
    grads = [[p.grad for p in model.parameters() if p.requires_grad] for model in (ours, theirs)]
    assert len(grads[0]) == len(grads[1]) > 0
    assert sum(grad.abs().sum() for grad in grads[0]) > 0
    assert sum(grad.abs().sum() for grad in grads[0]) == sum(grad.abs().sum() for grad in grads[1])


def test_beside_others_it_is_switched_saved_and_copied(config, tmp_path):
    model = three(config)
    tuned = run(model, LM)
    assert "labels" in inspect.signature(model.forward).parameters
    model.save_pretrained(tmp_path)
    for name in ("p", "q"):
        loaded = Swift.from_pretrained(LM.make(), tmp_path, {"l": "l", "p": name, "a": "a"})
        assert torch.equal(run(loaded, LM), tuned)
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
    twin = copy.deepcopy(model)
    assert torch.equal(run(twin, LM), tuned)
    stir(twin, 3)
    assert torch.equal(run(model, LM), tuned)
    model.deactivate_adapter("p", offload="meta")
    without = Swift.prepare_model(LM.make(), {"l": lora(target_modules=["q_proj", "embed_tokens"]), "a": adapter()})
    without.load_state_dict({key: value for key, value in model.state_dict().items() if "prompt" not in key})
    assert torch.equal(run(model, LM), run(without, LM))
    model.activate_adapter("p")
    assert torch.equal(run(model, LM), tuned)


def test_it_trains_with_the_others_and_alone_of_all_parameters(config):
    model = Swift.prepare_model(LM.make(), {"l": lora(), "p": config})
    own = set(model.owned("p")) | set(model.owned("l"))
    frozen = {key for key in own if "frozen" in key}  # a cartridge has a part that does not train
    assert {key for key, p in model.base_model.named_parameters() if p.requires_grad} == own - frozen
    before = {key: value.clone() for key, value in model.base_model.state_dict().items()}
    losses = train(model, LM, 5)
    assert losses[-1] < losses[0]
    after = model.base_model.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} <= own


def test_positions_of_arguments_are_the_base_s():
    model = three(PROMPTS["prompt"]).eval()
    ids, mask = LM.inputs["input_ids"], torch.ones(2, LENGTH, dtype=torch.long)
    assert torch.equal(model(ids, mask).logits, model(input_ids=ids, attention_mask=mask).logits)


def test_two_prompts_replace_each_other(caplog):
    model = Swift.prepare_model(LM.make(), {"p": PROMPTS["prompt"], "q": PROMPTS["prefix"]})
    assert model.active_adapters == {"q"}
    assert "put a prompt before the model" in caplog.text
    with pytest.raises(ConfigError, match="both put a prompt"):
        model.set_active_adapters(["p", "q"])
    shapes = []
    for name in ("p", "q"):
        model.set_active_adapters(name)
        shapes.append(model(input_ids=LM.inputs["input_ids"]).logits.shape)
    assert shapes == [(2, LENGTH + 3, 64), (2, LENGTH, 64)]  # a prefix is in the cache and not in the text


def test_merging_leaves_it():
    model = three(PROMPTS["prompt"])
    tuned = run(model, LM)
    Swift.merge(model)
    assert torch.allclose(run(model, LM), tuned, atol=1e-4)
    Swift.unmerge(model)
    Swift.merge_and_unload(model)
    assert set(model.adapters) == {"p", "a"}
    assert torch.allclose(run(model, LM), tuned, atol=1e-4)
    with pytest.raises(ConfigError, match="changes no weights"):
        Swift.merge_and_unload(model, "p")


def test_peft_s_model_takes_more():
    theirs = Swift.prepare_model(LM.make(), PROMPTS["projected"])
    stir(theirs)
    before = run(theirs, LM)
    ours = Swift.prepare_model(theirs, {"a": adapter()})
    assert isinstance(ours, SwiftModel)
    assert torch.equal(run(ours, LM), before)
    assert set(ours.adapters) == {"default", "a"}


@pytest.mark.parametrize("name", ["prompt", "prefix", "projected", "p_tuning"])
def test_peft_s_files(name, tmp_path):
    theirs = Swift.prepare_model(LM.make(), PROMPTS[name])
    stir(theirs)
    theirs.save_pretrained(tmp_path)
    for base in (LM.make(), Swift.prepare_model(LM.make(), {"idle": adapter()})):
        assert torch.allclose(run(Swift.from_pretrained(base, tmp_path), LM), run(theirs, LM), atol=1e-6)


def test_to_peft_s_format(tmp_path):
    model = Swift.prepare_model(LM.make(), {"default": PROMPTS["prefix"]})
    stir(model)
    model.save_pretrained(tmp_path / "ours")
    Swift.save_to_peft_format(tmp_path / "ours", tmp_path / "theirs")
    assert torch.equal(run(PeftModel.from_pretrained(LM.make(), tmp_path / "theirs"), LM), run(model, LM))
    Swift.prepare_model(LM.make(), {"default": PROMPTS["projected"]}).save_pretrained(tmp_path / "network")
    with pytest.raises(DataError, match="finished prompt"):
        Swift.save_to_peft_format(tmp_path / "network", tmp_path / "out")


def test_what_cannot_be_is_said():
    for wrong, says in {
        "task": (peft.PromptTuningConfig(num_virtual_tokens=2), "task_type"),
        "kind": (
            peft.CPTConfig(task_type="CAUSAL_LM", cpt_token_ids=[1], cpt_mask=[1], cpt_tokens_type_mask=[1]),
            "CPT cannot be one of",
        ),
        "swaps": (peft.AdaptionPromptConfig(adapter_len=2, adapter_layers=1), "ADAPTION_PROMPT cannot be one of"),
        "poly": (peft.PolyConfig(target_modules=["q_proj"]), "POLY cannot be one of"),
    }.values():
        with pytest.raises(ConfigError, match=says):
            Swift.prepare_model(LM.make(), {"l": lora(), "p": wrong})
    checkpointing = LM.make().train()
    checkpointing.gradient_checkpointing_enable()
    with pytest.raises(ConfigError, match="gradient checkpointing"):
        Swift.prepare_model(checkpointing, {"p": PROMPTS["prefix"]})
    with pytest.raises(ConfigError, match="does not go with"):
        Swift.prepare_model(HOSTS["mlp"].make(), {"p": PROMPTS["prompt"]})


@pytest.mark.parametrize("config", [peft.ShiraConfig(r=2, target_modules=["q_proj"]), peft.HRAConfig(r=2)])
def test_a_kind_that_cannot_go_over_another_leaves_the_model_as_it_was(config):
    config.target_modules = ["q_proj"]
    model = Swift.prepare_model(LM.make(), {"l": lora()})
    stir(model)
    before, keys = run(model, LM), set(model.base_model.state_dict())
    with pytest.raises(ConfigError, match="adapter 'p'"):
        Swift.prepare_model(model, {"p": config})
    assert torch.equal(run(model, LM), before)
    assert set(model.base_model.state_dict()) == keys
    assert set(model.adapters) == {"l"}


OTHERS = {
    "vera": peft.VeraConfig(r=2, target_modules=["q_proj", "o_proj"]),
    "norms": peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "tokens": peft.TrainableTokensConfig(token_indices=[1, 2]),
    "hra": peft.HRAConfig(r=2, target_modules=["o_proj"]),
    "vblora": peft.VBLoRAConfig(r=2, num_vectors=16, vector_length=8, topk=2, target_modules=["q_proj"]),
}


@pytest.mark.parametrize("method", OTHERS)
def test_any_class_of_peft_s_goes_beside_lora(method, tmp_path):
    configs = {"l": lora(), "p": OTHERS[method]}
    model = Swift.prepare_model(LM.make(), configs)
    stir(model)
    tuned = run(model, LM)
    model.save_pretrained(tmp_path, safe_serialization=True)
    assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path), LM), tuned)
    model.set_active_adapters("l")
    alone = Swift.prepare_model(LM.make(), {"l": lora()})
    alone.load_state_dict(model.state_dict(adapter_name="l"))
    assert torch.equal(run(model, LM), run(alone, LM))
    model.set_active_adapters(["l", "p"])
    assert torch.equal(run(model, LM), tuned)
    if method == "vera":
        assert sum("vera_A" in key for key in model.state_dict(adapter_name="p")) == 1


def test_vera_of_peft_s_files(tmp_path):
    theirs = Swift.prepare_model(LM.make(), OTHERS["vera"])
    stir(theirs)
    theirs.save_pretrained(tmp_path)
    for base in (LM.make(), Swift.prepare_model(LM.make(), {"idle": adapter()})):
        assert torch.equal(run(Swift.from_pretrained(base, tmp_path), LM), run(theirs, LM))
