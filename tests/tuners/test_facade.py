"""`Swift`: what it returns, which layouts it reads, and what it refuses."""

from __future__ import annotations

import json

import peft
import pytest
import torch
from peft import IA3Config, PeftModel
from safetensors.torch import load_file, save_file

from swift.errors import ConfigError, DataError, NotFoundError, UnknownNameError, UsageError
from swift.tuners import AdapterConfig, LoraConfig, Swift, SwiftModel, facade
from tests.tiny import tiny_model
from tests.tuners.cases import HOSTS, run, stir

LM = HOSTS["lm"]


def lora(**options) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **options})


def adapter(**options) -> AdapterConfig:
    return AdapterConfig(**{"dim": 32, "target_modules": ["mlp"], "adapter_length": 6, **options})


def peft_checkpoint(path, **options):
    """A plain PEFT checkpoint and the logits of its model."""
    model = peft.get_peft_model(LM.make(), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **options))
    stir(model)
    model.save_pretrained(path)
    return run(model, LM)


def in_tensors(change):
    """A change of the saved tensors."""

    def rewrite(folder):
        file = next(folder.glob("adapter_model.*"))
        if file.suffix == ".bin":
            torch.save(change(torch.load(file)), file)
        else:
            save_file(change(load_file(file)), file)

    return rewrite


def in_config(folder):
    """The checkpoint claims to be of another method."""
    file = folder / "adapter_config.json"
    file.write_text(file.read_text().replace('"LORA"', '"LOHA"'))


def nothing(folder):
    """The checkpoint is as it was saved."""


# What a base or a checkpoint may have wrong: the base's shape, a change of the files, and what the error names.
FAULTS = {
    "fewer layers": ({"layers": 1}, nothing, r"not in the model: .*layers\.1\."),
    "more layers": ({"layers": 3}, nothing, r"missing: .*layers\.2\."),
    "hidden size": ({"hidden": 64}, nothing, r"of another shape: .*\(4, 32\), not \(4, 64\)"),
    "renamed": ({}, in_tensors(lambda t: {k.replace("layers", "blocks"): v for k, v in t.items()}), r"blocks\.0"),
    "prefixed": ({}, in_tensors(lambda t: {f"module.{k}": v for k, v in t.items()}), r"not in the model: module\."),
    "extra": ({}, in_tensors(lambda t: {**t, "more.weight": torch.ones(1)}), r"1 not in the model: more\.weight"),
    "another base": ({"seed": 7}, nothing, r"trained on models/one"),
    "another vocabulary": ({"vocab_size": 72}, nothing, r"trained on models/one"),
    "another method": ({}, in_config, r"lora_A"),
}


class TestPrepare:
    def test_a_single_peft_config_gives_peft_s_model(self):
        config = lora(task_type="CAUSAL_LM")
        model = Swift.prepare_model(LM.make(), config)
        assert isinstance(model, peft.PeftModelForCausalLM)
        assert config.target_modules == {"q_proj", "v_proj"}
        assert list(model.peft_config) == ["default"]

    def test_a_single_config_of_ours_is_called_default(self):
        model = Swift.prepare_model(LM.make(), adapter())
        assert isinstance(model, SwiftModel)
        assert model.active_adapters == {"default"}

    def test_the_same_name_again_changes_nothing(self, caplog):
        model = Swift.prepare_model(LM.make(), adapter())
        before = set(model.base_model.state_dict())
        assert Swift.prepare_model(model, adapter(adapter_length=9)) is model
        assert set(model.base_model.state_dict()) == before

    def test_a_tuned_peft_model_takes_more(self, tmp_path):
        inner = Swift.prepare_model(LM.make(), lora())
        stir(inner)
        before = run(inner, LM)
        model = Swift.prepare_model(inner, {"more": adapter(), "again": lora(r=2)})
        assert isinstance(model, SwiftModel)
        assert set(model.adapters) == {"default", "more", "again"}
        assert torch.equal(run(model, LM), before)
        stir(model, 2)
        model.save_pretrained(tmp_path)
        assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path), LM), run(model, LM))

    def test_the_adapter_of_one_config_can_be_named(self):
        for config in (lora(), adapter()):
            model = Swift.prepare_model(LM.make(), config, adapter_name="mine")
            assert set(model.peft_config if isinstance(model, PeftModel) else model.adapters) == {"mine"}

    def test_further_arguments_are_passed_over_and_named(self, tmp_path, caplog):
        with caplog.at_level("WARNING", "swift"):
            model = Swift.prepare_model(LM.make(), adapter(), autocast_adapter_dtype=False)
            assert "'autocast_adapter_dtype', which is passed over" in caplog.text
            model.save_pretrained(tmp_path)
            assert Swift.from_pretrained(LM.make(), tmp_path, torch_device="cpu", is_trainabel=True).adapters
        assert "'torch_device'" in caplog.text
        assert "did you mean is_trainable" in caplog.text

    def test_inference_mode_trains_nothing(self):
        for configs in ({"a": lora(), "b": adapter()}, lora(), adapter()):
            model = Swift.prepare_model(LM.make(), configs, inference_mode=True)
            assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_configs_stay_as_they_were_given(self):
        config = lora()
        Swift.prepare_model(LM.make(), {"a": config, "b": config})
        assert config.base_model_name_or_path is None
        assert config.inference_mode is False

    @pytest.mark.parametrize("config", [lora(target_modules=["q_prj"]), {"a": lora(target_modules=["q_prj"])}])
    def test_a_target_that_is_not_there_is_named_with_the_nearest(self, config):
        with pytest.raises(UnknownNameError, match="q_prj") as caught:
            Swift.prepare_model(LM.make(), config)
        assert "q_proj" in str(caught.value.fix)
        with pytest.raises(UnknownNameError, match="mpl"):
            Swift.prepare_model(LM.make(), adapter(target_modules=["mpl"]))

    def test_a_failed_second_adapter_leaves_the_first(self):
        model = Swift.prepare_model(LM.make(), {"a": lora()})
        with pytest.raises(UnknownNameError):
            Swift.prepare_model(model, {"b": lora(target_modules=["nowhere"])})
        assert set(model.adapters) == set(model.base_model.peft_config) == {"a"}
        Swift.prepare_model(model, {"b": lora()})
        assert model.active_adapters == {"a", "b"}

    def test_a_list_of_modules_is_no_target(self):
        with pytest.raises(ConfigError, match="list of modules"):
            Swift.prepare_model(LM.make(), adapter(target_modules=["layers"]))

    @pytest.mark.parametrize("name", ["a.b", "a/b", "", "extra_states"])
    def test_a_name_is_a_module_and_a_folder(self, name):
        with pytest.raises(UsageError, match="cannot name"):
            Swift.prepare_model(LM.make(), {name: adapter()})

    def test_extra_states_train_and_travel(self, tmp_path):
        model = Swift.prepare_model(LM.make(), lora(), extra_state_keys=[r"lm_head\..*"])
        assert isinstance(model, SwiftModel)
        assert model.base_model.lm_head.weight.requires_grad
        stir(model)
        model.save_pretrained(tmp_path)
        loaded = Swift.from_pretrained(LM.make(), tmp_path)
        assert torch.equal(run(loaded, LM), run(model, LM))
        assert loaded.extra_state_keys == [r"lm_head\..*"]
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        going_on = Swift.from_pretrained(LM.make(), tmp_path, is_trainable=True)
        assert going_on.base_model.lm_head.weight.requires_grad
        named = Swift.from_pretrained(LM.make(), tmp_path, "default")
        assert torch.equal(named.base_model.lm_head.weight, LM.make().lm_head.weight)


class TestLayouts:
    def test_a_plain_peft_directory(self, tmp_path):
        expected = peft_checkpoint(tmp_path)
        model = Swift.from_pretrained(LM.make(), tmp_path)
        assert isinstance(model, PeftModel)
        assert torch.equal(run(model, LM), expected)

    def test_a_plain_peft_directory_into_a_model_of_ours(self, tmp_path):
        expected = peft_checkpoint(tmp_path, use_dora=True, modules_to_save=["lm_head"])
        model = Swift.prepare_model(LM.make(), {"mlp": adapter(), "mlp2": lora()})
        Swift.from_pretrained(model, tmp_path, adapter_name={"default": "q_proj"})
        model.set_active_adapters("q_proj")
        assert torch.allclose(run(model, LM), expected, atol=1e-6)

    @pytest.mark.parametrize("targets", [["embed_tokens", "q_proj"], ["q_proj"]])
    def test_whole_embeddings_beside_a_peft_adapter(self, targets, tmp_path):
        model = peft.get_peft_model(LM.make(), peft.LoraConfig(r=4, target_modules=targets))
        stir(model)
        model.get_input_embeddings().weight.data.add_(0.5)
        model.save_pretrained(tmp_path, save_embedding_layers=True)
        for base in (LM.make(), Swift.prepare_model(LM.make(), {"idle": adapter()})):
            assert torch.equal(run(Swift.from_pretrained(base, tmp_path), LM), run(model, LM))

    def test_several_peft_adapters(self, tmp_path):
        model = peft.get_peft_model(LM.make(), peft.LoraConfig(r=4, target_modules=["q_proj"]))
        model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["v_proj"]))
        stir(model)
        model.set_adapter("other")
        stir(model)
        model.save_pretrained(tmp_path)
        loaded = Swift.from_pretrained(LM.make(), tmp_path)
        assert isinstance(loaded, PeftModel)
        assert set(loaded.peft_config) == {"default", "other"}
        for name in ("default", "other"):
            model.set_adapter(name)
            loaded.set_adapter(name)
            assert torch.equal(run(loaded, LM), run(model, LM))
        only = Swift.from_pretrained(LM.make(), tmp_path, "other")
        assert torch.equal(run(only, LM), run(model, LM))
        with pytest.raises(ConfigError, match="already"):
            Swift.from_pretrained(loaded, tmp_path, "other")

    def test_our_single_lora_is_read_by_plain_peft(self, tmp_path):
        model = Swift.prepare_model(LM.make(), lora(lora_dtype="fp32", lorap_lr_ratio=4.0))
        stir(model)
        model.save_pretrained(tmp_path)
        assert "lorap_lr_ratio" not in json.loads((tmp_path / "adapter_config.json").read_text())
        assert torch.equal(run(PeftModel.from_pretrained(LM.make(), tmp_path), LM), run(model, LM))
        again = Swift.from_pretrained(LM.make(), tmp_path, is_trainable=True)
        assert again.peft_config["default"].extras == model.peft_config["default"].extras
        assert any(parameter.requires_grad for parameter in again.parameters())

    def test_ours_as_it_lies_on_disk(self, tmp_path):
        model = Swift.prepare_model(LM.make(), {"second": adapter(), "first": lora()})
        model.save_pretrained(tmp_path)
        files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
        both = [
            f"{name}/{file}" for name in ("first", "second") for file in ("adapter_config.json", "adapter_model.bin")
        ]
        assert files == ["README.md", "configuration.json", *both]
        keys = torch.load(tmp_path / "first/adapter_model.bin", weights_only=True)
        assert "model.layers.0.self_attn.q_proj.lora_A.first.weight" in keys
        assert "model.layers.0.mlp.adapter_second.down.weight" in torch.load(tmp_path / "second/adapter_model.bin")
        assert list(Swift.from_pretrained(LM.make(), tmp_path).adapters) == ["second", "first"]
        some = Swift.from_pretrained(LM.make(), tmp_path, ["second"])
        assert set(some.adapters) == {"second"}
        model.save_pretrained(tmp_path, safe_serialization=True, adapter_name="first")
        assert not (tmp_path / "first/adapter_model.bin").exists()

    def test_order_decides_where_it_matters(self, tmp_path):
        model = Swift.prepare_model(LM.make(), {"z": adapter(), "a": adapter()})
        stir(model)
        model.save_pretrained(tmp_path)
        assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path), LM), run(model, LM))

    def test_modules_to_save_in_both_spellings(self, tmp_path):
        model = Swift.prepare_model(LM.make(), {"one": lora(modules_to_save=["lm_head"], bias="all")})
        stir(model)
        model.save_pretrained(tmp_path)
        expected = run(model, LM)
        assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path), LM), expected)
        file = tmp_path / "one/adapter_model.bin"
        state = torch.load(file)
        torch.save({key.replace(".modules_to_save.one", ""): value for key, value in state.items()}, file)
        assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path, {"one": "two"}), LM), expected)

    def test_several_of_pefts_in_one_of_pefts_models_run_one_at_a_time_which_is_said(self, tmp_path, caplog):
        config = LoraConfig(r=4, target_modules=["q_proj"])
        model = Swift.prepare_model(LM.make(), {"a": config, "b": config})
        stir(model)
        model.save_pretrained(tmp_path / "ours")
        Swift.save_to_peft_format(tmp_path / "ours", tmp_path / "pefts")
        with caplog.at_level("WARNING", "swift"):
            together = Swift.from_pretrained(SwiftModel(LM.make()), tmp_path / "pefts")
            Swift.from_pretrained(LM.make(), tmp_path / "pefts", "b")
        assert torch.equal(run(together, LM), run(model, LM))
        assert "not active" not in caplog.text
        with caplog.at_level("WARNING", "swift"):
            one = Swift.from_pretrained(LM.make(), tmp_path / "pefts")
        model.set_active_adapters("a")
        assert torch.equal(run(one, LM), run(model, LM))
        assert "b loaded and not active" in caplog.text

    def test_a_hub_id_is_fetched_and_a_path_is_not(self, tmp_path, monkeypatch):
        expected = peft_checkpoint(tmp_path)
        asked = []
        monkeypatch.setattr(facade.hub, "fetch_model", lambda *said: asked.append(said) or tmp_path)
        assert torch.equal(run(Swift.from_pretrained(LM.make(), "someone/lora", revision="v1"), LM), expected)
        assert asked == [("someone/lora", "v1")]
        with pytest.raises(NotFoundError, match="does not exist"):
            Swift.from_pretrained(LM.make(), tmp_path / "nowhere")
        assert len(asked) == 1


class TestRefusals:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(NotFoundError, match="no adapter"):
            Swift.from_pretrained(LM.make(), tmp_path)
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="is a file"):
            Swift.from_pretrained(LM.make(), tmp_path / "file")
        with pytest.raises(UsageError, match="no adapters"):
            Swift.merge(LM.make())

    def test_the_directory_of_a_run_is_no_checkpoint(self, tmp_path):
        peft_checkpoint(tmp_path / "checkpoint-5")
        (tmp_path / "checkpoint-5/trainer_state.json").write_text("{}")
        with pytest.raises(NotFoundError, match="no adapter") as caught:
            Swift.from_pretrained(LM.make(), tmp_path)
        assert str(caught.value.fix).endswith("checkpoint-5")

    def test_a_name_that_is_not_stored(self, tmp_path):
        peft_checkpoint(tmp_path)
        with pytest.raises(UnknownNameError, match="defalt"):
            Swift.from_pretrained(LM.make(), tmp_path, "defalt")

    @pytest.mark.parametrize("ours", [True, False])
    @pytest.mark.parametrize("fault", FAULTS)
    def test_what_does_not_fit_is_named(self, ours, fault, tmp_path):
        shape, change, named = FAULTS[fault]
        base = LM.make()
        base.name_or_path = "models/one"
        Swift.prepare_model(base, {"default": lora()} if ours else lora()).save_pretrained(tmp_path)
        change(tmp_path / "default" if ours else tmp_path)
        other = tiny_model("qwen2", **{"vocab_size": 64, "hidden": 32, **shape})
        keys = set(other.state_dict())
        with pytest.raises(DataError, match=named) as caught:
            Swift.from_pretrained(other, tmp_path)
        assert (caught.value.code, caught.value.exit_code) == ("CKPT-02", 65)
        assert caught.value.fix
        assert "models/one" in str(caught.value)
        assert str(caught.value).count("model.layers.") <= 15  # five of each kind
        assert set(other.state_dict()) == keys

    def test_a_misfit_leaves_the_others_at_work(self, tmp_path):
        base = tiny_model("qwen2", vocab_size=64, hidden=32, seed=7)
        Swift.prepare_model(LM.make(), {"new": lora(), "more": adapter()}).save_pretrained(tmp_path / "ours")
        Swift.prepare_model(LM.make(), lora()).save_pretrained(tmp_path / "peft")
        for model, place in (
            (Swift.prepare_model(base, {"a": adapter(), "b": lora(r=2)}), "ours"),
            (
                Swift.from_pretrained(
                    tiny_model("qwen2", vocab_size=64, hidden=32), tmp_path / "peft", {"default": "a"}
                ),
                "peft",
            ),
        ):
            stir(model)
            before = run(model, LM)
            if place == "peft":
                (tmp_path / "peft" / "adapter_config.json").write_text(
                    (tmp_path / "peft" / "adapter_config.json").read_text().replace('"r": 4', '"r": 2')
                )
            with pytest.raises(DataError):
                Swift.from_pretrained(model, tmp_path / place)
            assert set(model.adapters if place == "ours" else model.peft_config) == (
                {"a", "b"} if place == "ours" else {"a"}
            )
            assert torch.equal(run(model, LM), before)

    def test_the_same_name_is_not_loaded_twice(self, tmp_path):
        model = Swift.prepare_model(LM.make(), adapter())
        model.save_pretrained(tmp_path)
        with pytest.raises(ConfigError, match="already"):
            Swift.from_pretrained(model, tmp_path)


class TestMerge:
    @pytest.mark.parametrize(
        "config",
        [
            lora(modules_to_save=["lm_head"]),
            lora(use_dora=True),
            IA3Config(target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        ],
    )
    def test_peft_s_own_model(self, config):
        model = Swift.prepare_model(LM.make(), config)
        stir(model)
        before = run(model, LM)
        Swift.merge(model)
        assert torch.allclose(run(model, LM), before, atol=1e-5)
        Swift.unmerge(model)
        assert Swift.merge_and_unload(model) is None
        assert torch.allclose(run(model.model, LM), before, atol=1e-5)

    @pytest.mark.parametrize("options", [{"modules_to_save": ["lm_head"]}, {"use_dora": True}, {"use_rslora": True}])
    def test_ours(self, options):
        model = Swift.prepare_model(LM.make(), {"a": lora(**options)})
        stir(model)
        before = run(model, LM)
        Swift.merge_and_unload(model)
        assert torch.allclose(run(model.model, LM), before, atol=1e-5)
        assert set(model.model.state_dict()) == set(LM.make().state_dict())

    def test_one_of_several_and_nested_kinds(self):
        ia3 = IA3Config(target_modules=["q_proj", "v_proj"], feedforward_modules=[])
        model = Swift.prepare_model(LM.make(), {"a": lora(modules_to_save=["lm_head"]), "b": ia3, "c": lora(r=2)})
        stir(model)
        before = run(model, LM)
        with pytest.raises(ConfigError, match="'c' cannot be merged without 'a'"):
            Swift.merge_and_unload(model, "c")
        assert torch.equal(run(model, LM), before)
        Swift.merge_and_unload(model, ["a"])
        assert set(model.adapters) == {"b", "c"}
        assert torch.allclose(run(model, LM), before, atol=1e-5)
        Swift.merge_and_unload(model)
        assert torch.allclose(run(model, LM), before, atol=1e-5)
        assert set(model.model.state_dict()) == set(LM.make().state_dict())

    def test_one_of_two_of_a_kind(self):
        model = Swift.prepare_model(LM.make(), {"a": lora(modules_to_save=["lm_head"]), "b": lora(r=2)})
        stir(model)
        both = run(model, LM)
        Swift.merge_and_unload(model, "b")
        assert set(model.adapters) == {"a"}
        assert torch.allclose(run(model, LM), both, atol=1e-5)
        model.set_active_adapters([])
        assert not torch.allclose(run(model, LM), run(LM.make(), LM), atol=1e-3)

    def test_single_tokens_and_attention_in_one_piece(self):
        model = Swift.prepare_model(LM.make(), {"a": lora(trainable_token_indices=[1, 2]), "b": adapter()})
        stir(model)
        before = run(model, LM)
        Swift.merge_and_unload(model)
        assert torch.allclose(run(model.model, LM), before, atol=1e-5)
        assert set(model.model.state_dict()) - set(model.state_dict()) == set(LM.make().state_dict())

        base = torch.nn.ModuleDict({"attention": torch.nn.MultiheadAttention(8, 2, batch_first=True)})
        keys = set(base.state_dict())
        model = Swift.prepare_model(base, {"a": peft.LoraConfig(r=2, target_modules=["attention"])})
        stir(model)
        inputs = torch.randn(1, 3, 8)
        before = model.attention(inputs, inputs, inputs)[0]
        Swift.merge_and_unload(model)
        assert torch.allclose(model.attention(inputs, inputs, inputs)[0], before, atol=1e-5)
        assert set(base.state_dict()) == keys
