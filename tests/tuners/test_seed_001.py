"""Every interface that the guide to tuners lists is called as it is written there."""

from __future__ import annotations

import inspect
import re

import peft
import pytest
import torch

from swift.errors import DataError
from swift.tuners import AdapterConfig, LoraConfig, Swift, SwiftModel
from tests.documents import ROOT
from tests.tuners.cases import HOSTS, run, stir

LM = HOSTS["lm"]
GUIDES = [next(ROOT.parent.glob(f"*/reference/*/{number}_*.txt"), None) for number in ("000", "001")]


def lora(**options) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": LM.linears, **options})


def adapter(**options) -> AdapterConfig:
    return AdapterConfig(**{"dim": LM.dim, "target_modules": [LM.wide], "adapter_length": 6, **options})


def three() -> SwiftModel:
    model = Swift.prepare_model(LM.make(), {"one": lora(), "two": lora(r=2), "three": adapter()})
    assert isinstance(model, SwiftModel)
    stir(model)
    return model


@pytest.mark.skipif(None in GUIDES, reason="the guides are not beside this checkout")
@pytest.mark.parametrize("guide", GUIDES, ids=["000", "001"])
def test_every_listed_call_has_its_parameters(guide):
    listed = dict(re.findall(r"[`\s](Swift(?:Model)?\.\w+)\(([^)]*)\)", guide.read_text(encoding="utf-8")))
    listed = {name: said for name, said in listed.items() if said != "" or name.endswith("parameters")}
    if guide == GUIDES[1]:
        assert len(listed) >= 12
    for name, said in listed.items():
        owner, _, method = name.partition(".")
        known = inspect.signature(getattr({"Swift": Swift, "SwiftModel": SwiftModel}[owner], method)).parameters
        for word in (word.strip().partition("=")[0] for word in said.split(",")):
            if word.isidentifier():
                assert word in known, f"{name} has no {word}"


def test_prepare_model():
    assert isinstance(Swift.prepare_model(LM.make(), lora()), peft.PeftModel)
    assert isinstance(Swift.prepare_model(LM.make(), adapter()), SwiftModel)
    model = Swift.prepare_model(model=LM.make(), config={"first": lora(), "second": adapter()})
    again = Swift.prepare_model(Swift.prepare_model(LM.make(), {"first": lora()}), {"second": adapter()})
    assert list(model.state_dict()) == list(again.state_dict())
    assert model.active_adapters == again.active_adapters == {"first", "second"}


@pytest.mark.parametrize("config", [lora(), {"default": lora()}], ids=["peft", "swift"])
def test_merge_unmerge_and_merge_and_unload(config):
    model = Swift.prepare_model(LM.make(), config)
    stir(model)
    before, keys = run(model, LM), set(LM.make().state_dict())
    assert Swift.merge(model) is None
    assert torch.allclose(run(model, LM), before, atol=1e-5)
    assert Swift.unmerge(model) is None
    assert torch.equal(run(model, LM), before)
    assert Swift.merge_and_unload(model) is None
    assert set(model.model.state_dict()) == keys
    assert torch.allclose(run(model.model, LM), before, atol=1e-5)


def test_save_to_peft_format(tmp_path):
    model = Swift.prepare_model(LM.make(), {"default": lora(), "other": lora(r=2)})
    stir(model)
    model.save_pretrained(tmp_path / "ours")
    assert Swift.save_to_peft_format(tmp_path / "ours", tmp_path / "peft") is None
    assert (tmp_path / "peft/adapter_config.json").is_file()
    assert (tmp_path / "peft/other/adapter_config.json").is_file()
    plain = peft.PeftModel.from_pretrained(LM.make(), tmp_path / "peft")
    model.set_active_adapters("default")
    assert torch.equal(run(plain, LM), run(model, LM))
    Swift.prepare_model(LM.make(), {"default": adapter()}).save_pretrained(tmp_path / "adapter")
    with pytest.raises(DataError):
        Swift.save_to_peft_format(tmp_path / "adapter", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_from_pretrained(tmp_path):
    model = three()
    before = run(model, LM)
    model.save_pretrained(tmp_path)
    loaded = Swift.from_pretrained(LM.make(), str(tmp_path), adapter_name=None, revision=None)
    assert torch.equal(run(loaded, LM), before)
    for names, got in (
        ("one", {"one"}),
        (["one", "three"], {"one", "three"}),
        ({"one": "1", "three": "3"}, {"1", "3"}),
    ):
        assert set(Swift.from_pretrained(LM.make(), str(tmp_path), names).adapters) == got
    twice = Swift.from_pretrained(LM.make(), tmp_path, "one")
    twice = Swift.from_pretrained(twice, tmp_path, ["two", "three"])
    assert torch.equal(run(twice, LM), before)


def test_create_optimizer_param_groups():
    model = Swift.prepare_model(LM.make(), {"plus": lora(lorap_lr_ratio=16.0), "adapter": adapter()})
    groups = model.create_optimizer_param_groups(lr=1e-3, weight_decay=0.1)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert set(rates) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(16e-3 if "lora_B" in key else 1e-3)
    torch.optim.AdamW(groups)


def test_add_weighted_adapter():
    model = three()
    model.add_weighted_adapter(["one", "two"], [0.5, 0.25], "both", combination_type="cat")
    assert model.active_adapters == {"both"}
    assert "both" in model.adapters
    model.add_weighted_adapter(["one", "one"], [0.5, 0.5], adapter_name="same", combination_type="cat")
    same = run(model, LM)
    model.set_active_adapters("one")
    assert torch.allclose(run(model, LM), same, atol=1e-5)


def test_save_pretrained(tmp_path):
    model = three()
    model.save_pretrained(tmp_path / "all")
    model.save_pretrained(save_directory=tmp_path / "safe", safe_serialization=True, adapter_name="one")
    assert {path.name for path in (tmp_path / "all").iterdir() if path.is_dir()} == {"one", "two", "three"}
    assert (tmp_path / "all/one/adapter_model.bin").is_file()
    assert {path.name for path in (tmp_path / "safe").iterdir() if path.is_dir()} == {"one"}
    assert (tmp_path / "safe/one/adapter_model.safetensors").is_file()


@pytest.mark.parametrize("offload", [None, "cpu", "meta"])
def test_switching(offload):
    model = three()
    every, base = run(model, LM), run(LM.make(), LM)
    assert model.set_active_adapters(["one"], offload=offload) is None
    assert model.active_adapters == {"one"}
    one = run(model, LM)
    assert model.activate_adapter("three") is None
    assert model.active_adapters == {"one", "three"}
    assert model.deactivate_adapter("three", offload=offload) is None
    assert torch.equal(run(model, LM), one)
    assert model.deactivate_adapter(adapter_name="one", offload=offload) is None
    assert torch.equal(run(model, LM), base)
    model.set_active_adapters(adapter_names=["one", "two", "three"])
    assert torch.equal(run(model, LM), every)


def test_get_trainable_parameters():
    form = r"trainable params: [\d.]+M \|\| all params: [\d.]+M \|\| trainable%: [\d.]+% \|\| cuda memory: [\d.]+GiB\."
    assert re.fullmatch(form, three().get_trainable_parameters())
