"""Checkpoints of ours rewritten for plain PEFT."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from peft import IA3Config, PeftModel

from swift.errors import DataError
from swift.tuners import LoRAConfig, Swift
from tests.tuners.cases import HOSTS, run, stir
from tests.tuners.test_facade import adapter, lora

LM = HOSTS["lm"]
FORMS = {
    "plain": {},
    "dora": {"use_dora": True},
    "whole": {"modules_to_save": ["lm_head"]},
    "bias": {"bias": "all"},
    "own_bias": {"bias": "lora_only"},
    "rslora": {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    "gaussian": {"init_lora_weights": "gaussian"},
    "lora_bias": {"lora_bias": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora_dora": {"init_lora_weights": "olora", "use_dora": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "named_as_module": {"target_modules": r".*\.(up|q)_proj"},
}


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("error:.*missing adapter keys")
def test_plain_peft_reads_it(form, safe, tmp_path):
    model = Swift.prepare_model(LM.make(), {"default": lora(**FORMS[form])})
    stir(model)
    model.save_pretrained(tmp_path / "ours", safe_serialization=safe)
    Swift.save_to_peft_format(tmp_path / "ours", tmp_path / "theirs")
    loaded = PeftModel.from_pretrained(LM.make(), tmp_path / "theirs")
    assert torch.equal(run(loaded, LM), run(model, LM))
    assert not (tmp_path / "theirs/default").exists()
    assert "swift_type" not in json.loads((tmp_path / "theirs/adapter_config.json").read_text())
    for again in (Swift.from_pretrained(LM.make(), tmp_path / "theirs"), _into_ours(tmp_path / "theirs")):
        assert torch.equal(run(again, LM), run(model, LM))


def _into_ours(path):
    return Swift.from_pretrained(Swift.prepare_model(LM.make(), {"idle": adapter()}), path, {"default": "mlp"})


def test_several_adapters_twice_and_in_place(tmp_path):
    configs = {
        "default": lora(),
        "second": lora(r=2),
        "third": IA3Config(target_modules=["down_proj"], feedforward_modules=["down_proj"]),
    }
    model = Swift.prepare_model(LM.make(), configs)
    stir(model)
    model.save_pretrained(tmp_path)
    expected = {}
    for name in configs:
        model.set_active_adapters(name)
        expected[name] = run(model, LM)
    for _ in range(2):
        Swift.save_to_peft_format(tmp_path, tmp_path)
        loaded = PeftModel.from_pretrained(LM.make(), tmp_path)
        assert torch.equal(run(loaded, LM), expected["default"])
        loaded.load_adapter(tmp_path / "second", "second")
        loaded.set_adapter("second")
        assert torch.equal(run(loaded, LM), expected["second"])
        assert torch.equal(run(PeftModel.from_pretrained(LM.make(), tmp_path / "third"), LM), expected["third"])


def test_what_peft_cannot_say_is_refused(tmp_path):
    for name, prepared in {
        "adapter": Swift.prepare_model(LM.make(), adapter()),
        "lora_dtype": Swift.prepare_model(LM.make(), {"default": lora(lora_dtype="fp32")}),
        "use_merged_linear": Swift.prepare_model(
            LM.make(),
            LoRAConfig(r=2, target_modules=["q_proj"], use_merged_linear=True, enable_lora=[True, False]),
        ),
        "lora_dtype twice": Swift.prepare_model(LM.make(), {"a": lora(), "b": lora(lora_dtype="bf16")}),
        "extra states": Swift.prepare_model(LM.make(), {"default": lora()}, extra_state_keys=["lm_head.*"]),
    }.items():
        prepared.save_pretrained(tmp_path / name)
        with pytest.raises(DataError, match="ADAPTER" if name == "adapter" else name.removesuffix(" twice")) as caught:
            Swift.save_to_peft_format(tmp_path / name, tmp_path / "out")
        assert caught.value.code == "CKPT-03"
        assert not (tmp_path / "out").exists()


def test_peft_lora_in_ours_equals_peft(tmp_path):
    theirs = peft.get_peft_model(LM.make(), peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    ours = Swift.prepare_model(LM.make(), {"default": lora()})
    stir(theirs)
    stir(ours)
    for model in (theirs, ours):
        model.train()
        model(**LM.inputs)["loss"].backward()
    pairs = zip(theirs.parameters(), ours.parameters(), strict=True)
    grads = [(a.grad, b.grad) for a, b in pairs if a.requires_grad]
    assert len(grads) == 8
    assert all(torch.equal(a, b) for a, b in grads)
