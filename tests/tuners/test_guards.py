"""What a tuned model refuses or warns of: to be saved as a plain one, to train what is merged, to do nothing unsaid."""

from __future__ import annotations

import copy
import gc
import threading
import weakref

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from swift.errors import ConfigError, UnknownNameError
from swift.tuners import AdapterConfig, LoRAConfig, NEFTuneConfig, Swift
from tests.tuners.cases import HOSTS, loss_of, run, stir, tuned

LM = HOSTS["lm"]
LORA = LoRAConfig(r=4, target_modules=["q_proj"])
PEFT_LORA = peft.LoraConfig(r=4, target_modules=["q_proj"])
ADAPTER = AdapterConfig(dim=32, target_modules=["mlp"], adapter_length=4)


@pytest.mark.parametrize("config", [LORA, ADAPTER, PEFT_LORA])
def test_a_base_with_adapters_in_it_is_not_saved_as_a_plain_model(config, tmp_path):
    model = Swift.prepare_model(LM.make(), config)
    base = model.get_base_model()
    for one in (base, copy.deepcopy(base)):
        with pytest.raises(ConfigError, match="has adapters in it"):
            one.save_pretrained(tmp_path / "base")
    assert not (tmp_path / "base").exists()
    model.save_pretrained(tmp_path / "adapters")


def test_a_unet_with_adapters_in_it_is_not_saved_as_a_plain_one(tmp_path):
    model = Swift.prepare_model(HOSTS["unet"].make().unet, {"a": LoRAConfig(r=2, target_modules=["to_q"])})
    with pytest.raises(ConfigError, match="UNet2DConditionModel has adapters in it"):
        model.base_model.save_pretrained(tmp_path / "no")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert [folder.name for folder in tmp_path.iterdir()] == ["merged"]


def test_a_base_without_a_name_of_its_own_is_saved_and_refused_alike(tmp_path):
    merged = Swift.prepare_model(LM.make(), {"a": LORA}).merge_and_unload()
    plain = merged.state_dict()
    Swift.prepare_model(LM.make(), {"a": LORA}).merge_and_unload().save_pretrained(tmp_path / "ours")
    Swift.prepare_model(LM.make(), PEFT_LORA).merge_and_unload().save_pretrained(tmp_path / "peft")
    Swift.prepare_model(LM.make(), NEFTuneConfig()).base_model.save_pretrained(tmp_path / "noisy")
    for name in ("ours", "peft", "noisy"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        assert all(torch.equal(loaded[key], plain[key]) for key in plain)
    for config in (LORA, PEFT_LORA):
        with pytest.raises(ConfigError, match="Qwen2ForCausalLM has adapters in it"):
            Swift.prepare_model(LM.make(), config).get_base_model().save_pretrained(tmp_path / "no")
    again = Swift.prepare_model(merged, {"b": LORA})
    with pytest.raises(ConfigError, match="has adapters in it"):
        again.base_model.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "config", [LORA, ADAPTER, PEFT_LORA, {"a": LORA, "b": ADAPTER, "c": PEFT_LORA, "d": NEFTuneConfig()}]
)
def test_a_tuned_model_is_freed_when_it_is_let_go(config):
    model = Swift.prepare_model(LM.make(), config)
    run(model, LM)
    loss_of(model.train(), LM).backward()
    tuner, base = weakref.ref(model), weakref.ref(model.get_base_model())
    gc.disable()
    try:
        del model
        assert tuner() is base() is None
    finally:
        gc.enable()


def test_a_base_that_is_plain_again_is_saved(tmp_path):
    model = Swift.prepare_model(LM.make(), {"a": LORA})
    stir(model)
    expected = run(model, LM)
    Swift.merge_and_unload(model)
    model.base_model.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(run(loaded, LM), expected, atol=1e-5, rtol=0)
    noisy = Swift.prepare_model(LM.make(), {"n": NEFTuneConfig(noise_alpha=5)})
    noisy.base_model.save_pretrained(tmp_path / "noisy")
    assert torch.equal(run(AutoModelForCausalLM.from_pretrained(tmp_path / "noisy"), LM), run(LM.make(), LM))


@pytest.mark.parametrize("config", [{"a": LORA, "b": ADAPTER}, PEFT_LORA])
def test_what_is_merged_does_not_train_which_is_said_once(config, caplog):
    model = Swift.prepare_model(LM.make(), config)
    Swift.merge(model)
    with caplog.at_level("WARNING", "swift"):
        run(model, LM)
        with torch.no_grad():
            loss_of(model.train(), LM)
        assert not caplog.text
        for one in (copy.deepcopy(model), model):
            caplog.clear()
            for _ in range(2):
                loss_of(one.train(), LM)
            assert caplog.text.count("is merged into the weights and does not train") == 1
        caplog.clear()
        Swift.unmerge(model)
        loss_of(model.train(), LM).backward()
    assert not caplog.text
    assert any(p.grad is not None for name, p in model.named_parameters() if "lora_B" in name)


def test_others_train_while_what_is_frozen_is_merged(caplog):
    model = Swift.prepare_model(LM.make(), {"a": LORA}, inference_mode=True)
    model = Swift.prepare_model(model, {"b": ADAPTER})
    Swift.merge(model)
    with caplog.at_level("WARNING", "swift"):
        loss_of(model.train(), LM).backward()
    assert not caplog.text
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_nothing_to_merge_or_to_unmerge_is_said(caplog):
    model = Swift.prepare_model(LM.make(), {"a": ADAPTER, "b": LORA})

    def said(act) -> str:
        caplog.clear()
        with caplog.at_level("WARNING", "swift"):
            act(model)
        return caplog.text

    assert "nothing to unmerge" in said(Swift.unmerge)
    assert not said(Swift.merge)
    assert "b is merged already" in said(Swift.merge)
    assert not said(Swift.unmerge)
    model.set_active_adapters("a")
    assert "a changes no weights" in said(Swift.merge)
    assert "a changes no weights" in said(Swift.merge_and_unload)
    model.set_active_adapters([])
    assert "no adapter is active" in said(Swift.merge)
    assert "no adapter is active" in said(Swift.merge_and_unload)
    model = Swift.prepare_model(LM.make(), PEFT_LORA)
    assert "nothing to unmerge" in said(Swift.unmerge)
    assert not said(Swift.merge)
    assert "default is merged already" in said(Swift.merge)


def test_merging_one_leaves_the_other_frozen_as_it_was():
    model = Swift.prepare_model(LM.make(), {"a": LORA})
    model = Swift.prepare_model(model, {"b": LoRAConfig(r=2, target_modules=["q_proj"])}, inference_mode=True)
    Swift.merge_and_unload(model, "a")
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_threads_with_their_own_adapters_and_checkpointing_are_warned_of_once(monkeypatch, caplog):
    monkeypatch.setenv("USE_UNIQUE_THREAD", "0")
    model = tuned(LM, "lora")
    with caplog.at_level("WARNING", "swift"):
        loss_of(model.train(), LM)
        assert not caplog.text
        model.gradient_checkpointing_enable()
        loss_of(model.eval(), LM)
        assert not caplog.text
        for _ in range(2):
            loss_of(model.train(), LM)
    assert caplog.text.count("USE_UNIQUE_THREAD=0 does not go with gradient checkpointing") == 1


def test_what_another_thread_runs_is_not_deleted(monkeypatch):
    monkeypatch.setenv("USE_UNIQUE_THREAD", "0")
    model = tuned(LM, "lora")
    running, done = threading.Event(), threading.Event()

    def serve() -> None:
        model.set_active_adapters("one")
        running.set()
        done.wait(60)

    thread = threading.Thread(target=serve)
    thread.start()
    running.wait(60)
    with pytest.raises(ConfigError, match="another thread runs adapter 'one'"):
        model.delete_adapter("one")
    done.set()
    thread.join()
    model.delete_adapter("one")
    assert torch.equal(run(model, LM), run(LM.make(), LM))


def test_what_is_merged_or_not_there_is_not_deleted():
    model = Swift.prepare_model(LM.make(), {"a": LORA, "b": ADAPTER})
    Swift.merge(model)
    with pytest.raises(ConfigError, match="merged"):
        model.delete_adapter("b")
    with pytest.raises(UnknownNameError):
        model.delete_adapter("c")
    Swift.unmerge(model)
    model.delete_adapter("a")
    assert model.active_adapters == set(model.adapters) == {"b"}
