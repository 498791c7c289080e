"""What users get wrong: every mistake is answered by an error that says what was given, and leaves the model as it was."""

from __future__ import annotations

import peft
import pytest
import torch

from swift import AdapterConfig, GaLoreConfig, LLaMAProConfig, LoRAConfig, LoraConfig, NEFTuneConfig, ReftConfig, Swift
from swift.errors import ConfigError, DataError, UnknownNameError, UsageError
from tests.tiny import tiny_model

X_BT = torch.arange(3, 15).reshape(2, 6)
TARGETS = ["q_proj", "v_proj"]


def adapter(**fields):
    return AdapterConfig(**{"dim": 64, "target_modules": ["mlp"], "adapter_length": 8, **fields})


def shaken(model):
    """The model with its trainable parameters away from their start."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


@torch.no_grad()
def logits(model):
    return model.eval()(X_BT).logits


@pytest.mark.parametrize(
    "make",
    [
        lambda: adapter(dim="64"),
        lambda: adapter(dim=64.0),
        lambda: adapter(adapter_length=None),
        lambda: adapter(target_modules=None),
        lambda: adapter(target_modules=[3]),
        lambda: adapter(act_layer=torch.nn.GELU),
        lambda: NEFTuneConfig(noise_alpha="5"),
        lambda: LLaMAProConfig(num_new_blocks=2.0),
        lambda: ReftConfig(layers=0),
        lambda: LoRAConfig(target_modules=TARGETS, lorap_lr_ratio="16"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(make):
    with pytest.raises(UsageError, match=r"Config\.\w+ is .*, which is not"):
        make()


@pytest.mark.parametrize("given", [None, LoRAConfig, {"a": "lora"}, {}, [adapter()], GaLoreConfig(rank=4)])
def test_what_is_no_config_is_refused(given):
    with pytest.raises(UsageError):
        Swift.prepare_model(tiny_model(), given)


@pytest.mark.parametrize("given", ["org/model", None, {"model": 1}])
def test_what_is_no_model_is_refused(given, tmp_path):
    with pytest.raises(UsageError, match="not a torch module"):
        Swift.prepare_model(given, adapter())
    with pytest.raises(UsageError, match="not a torch module"):
        Swift.from_pretrained(given, tmp_path)


@pytest.mark.parametrize("kind", [LoraConfig, LoRAConfig])
def test_targets_that_are_not_said_or_said_in_the_command_lines_words(kind):
    with pytest.raises(UnknownNameError, match=r"(?s)target_modules names no module.*fix: target_modules=.* of up"):
        Swift.prepare_model(torch.nn.ModuleDict({"up": torch.nn.Linear(4, 4)}), kind())
    with pytest.raises(UnknownNameError, match=r"called 'mlp\.experts'(?s:.*)known: .*q_proj\.weight"):
        Swift.prepare_model(tiny_model(), kind(target_modules=[], target_parameters=["mlp.experts"]))
    for said in ("ALL", ["ALL"]):
        with pytest.raises(UnknownNameError, match="'all-linear', as ALL is called in Python"):
            Swift.prepare_model(tiny_model(), kind(target_modules=said))


@pytest.mark.parametrize("dict_or_not", [lambda config: config, lambda config: {"a": config}])
def test_layers_that_do_not_exist_are_named_and_not_the_targets(dict_or_not):
    config = LoraConfig(target_modules=TARGETS, layers_to_transform=[9])
    with pytest.raises(ConfigError, match=r"layers_to_transform"):
        Swift.prepare_model(tiny_model(), dict_or_not(config))


@pytest.mark.parametrize("config", [LoraConfig(r=0, target_modules=TARGETS), peft.PrefixTuningConfig()])
def test_what_peft_refuses_is_an_error_of_ours(config):
    with pytest.raises(ConfigError):
        Swift.prepare_model(tiny_model(), config)


@pytest.mark.parametrize("keys", ["model.norm.weight", ["norm"], ["*norm"]])
def test_extra_state_keys_that_name_nothing_are_refused(keys):
    with pytest.raises((UsageError, ConfigError)):
        Swift.prepare_model(tiny_model(), adapter(), extra_state_keys=keys)


def test_extra_states_of_a_module_that_lora_wraps_are_trained_and_saved(tmp_path):
    lora = LoRAConfig(target_modules=TARGETS)
    model = shaken(Swift.prepare_model(tiny_model(), lora, extra_state_keys=[r".*q_proj\.bias"]))
    assert model.model.model.layers[0].self_attn.q_proj.base_layer.bias.requires_grad
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(Swift.from_pretrained(tiny_model(), tmp_path)), logits(model))


def two_loras():
    return shaken(Swift.prepare_model(tiny_model(), {name: LoRAConfig(r=4, target_modules=TARGETS) for name in "ab"}))


@pytest.mark.parametrize(
    ("names", "weights", "new", "kind"),
    [
        (["a", "b"], [1.0], "new", "cat"),
        ("ab", [1.0, 1.0], "new", "cat"),
        ([], [], "new", "cat"),
        (["a", "b"], [1.0, 1.0], "n.ew", "cat"),
        (["a", "b"], [1.0, 1.0], "new", "lienar"),
        (["a", "b"], [1.0, 1.0], "new", "ties"),  # it needs a density
    ],
)
def test_a_combination_that_cannot_be_leaves_the_model_as_it_was(names, weights, new, kind):
    model = two_loras()
    before, keys = logits(model), set(model.base_model.state_dict())
    with pytest.raises((UsageError, ConfigError)):
        model.add_weighted_adapter(names, weights, new, combination_type=kind)
    assert torch.equal(logits(model), before)
    assert set(model.base_model.state_dict()) == keys
    assert set(model.peft_config) == {"a", "b"}
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "new", combination_type="cat")


def test_merging_an_adapter_that_a_peft_model_lacks_does_not_throw_away_the_others():
    model = shaken(Swift.prepare_model(tiny_model(), LoraConfig(target_modules=TARGETS)))
    before = logits(model)
    with pytest.raises(UnknownNameError):
        Swift.merge_and_unload(model, "defualt")
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kind", [LoRAConfig, LoraConfig])
@pytest.mark.parametrize("merge", [Swift.merge, Swift.merge_and_unload])
def test_what_changes_a_tied_weight_is_not_merged(kind, merge):
    model = Swift.prepare_model(tiny_model(tie_word_embeddings=True), kind(target_modules=["embed_tokens", "q_proj"]))
    before = logits(shaken(model))
    with pytest.raises(ConfigError, match=r"lm_head\.weight are one tensor"):
        merge(model)
    assert torch.equal(logits(model), before)


def test_a_place_that_does_not_exist_switches_nothing_off():
    model = two_loras()
    for switch in (lambda: model.deactivate_adapter("a", "disk"), lambda: model.set_active_adapters("a", "disk")):
        with pytest.raises(UsageError):
            switch()
        assert model.active_adapters == {"a", "b"}


def test_adapters_saved_one_by_one_come_back_in_their_order(tmp_path):
    model = shaken(Swift.prepare_model(tiny_model(), {"z": adapter(), "a": adapter()}))
    for name in ("z", "a"):
        model.save_pretrained(tmp_path, adapter_name=name)
    assert torch.equal(logits(Swift.from_pretrained(tiny_model(), tmp_path)), logits(model))


@pytest.mark.parametrize("names", [[], {"a": "x", "b": "x"}])
def test_asking_for_no_adapter_or_for_one_name_twice_is_refused(tmp_path, names):
    two_loras().save_pretrained(tmp_path)
    with pytest.raises(UsageError):
        Swift.from_pretrained(tiny_model(), tmp_path, names)


def test_the_folder_of_one_adapter_can_be_loaded(tmp_path):
    model = two_loras()
    model.save_pretrained(tmp_path)
    model.set_active_adapters("a")
    assert torch.equal(logits(Swift.from_pretrained(tiny_model(), tmp_path / "a")), logits(model))


def test_the_words_of_peft_work(caplog):
    model, base = two_loras(), logits(tiny_model())
    both = logits(model)
    model.set_adapter("a")
    assert model.active_adapters == {"a"}
    model.set_adapter(["a", "b"])
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), both)
    with caplog.at_level("INFO", "swift"):
        model.print_trainable_parameters()
    assert "trainable params: " in caplog.text
    trained, total = model.get_nb_trainable_parameters()
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad) < total


def test_what_would_change_adapters_behind_the_models_back_is_not_the_bases(tmp_path):
    model = two_loras()
    with pytest.raises(AttributeError, match=r"Swift\.from_pretrained"):
        model.load_adapter(str(tmp_path))
    for name in ("enable_adapters", "disable_adapters", "get_adapter_state_dict", "unload", "active_adapter"):
        assert not hasattr(model, name)
    assert model.merge_and_unload() is model.base_model


CHECKPOINTS = {
    "tokens": peft.LoraConfig(r=4, target_modules=TARGETS, trainable_token_indices=[1, 5]),
    "adalora": peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=TARGETS),
    "pissa": peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights="pissa"),
    "olora": peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights="olora"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_checkpoint_that_peft_made_gives_what_it_gave_there(tmp_path, kind):
    model = shaken(peft.get_peft_model(tiny_model(), CHECKPOINTS[kind]))
    model.save_pretrained(tmp_path / "peft")
    tuned = Swift.from_pretrained(tiny_model(), tmp_path / "peft")
    torch.testing.assert_close(logits(tuned), logits(model), atol=1e-6, rtol=0)
    beside = Swift.from_pretrained(Swift.prepare_model(tiny_model(), {"x": adapter()}), tmp_path / "peft")
    torch.testing.assert_close(logits(beside), logits(model), atol=1e-6, rtol=0)
    beside.save_pretrained(tmp_path / "ours")
    assert torch.equal(logits(Swift.from_pretrained(tiny_model(), tmp_path / "ours")), logits(beside))


def test_a_random_start_that_peft_did_not_save_is_not_guessed(tmp_path):
    config = peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights="pissa_niter_4")
    peft.get_peft_model(tiny_model(), config).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="without its start"):
        Swift.from_pretrained(tiny_model(), tmp_path)


def test_alora_which_needs_its_own_model_is_refused_beside_others():
    config = peft.LoraConfig(target_modules=TARGETS, alora_invocation_tokens=[5, 6], task_type="CAUSAL_LM")
    with pytest.raises(ConfigError, match="aLoRA"):
        Swift.prepare_model(tiny_model(), {"a": config})


@pytest.mark.parametrize("kind", [LoRAConfig, LoraConfig])
def test_a_name_among_others_that_no_module_has_is_warned_of(kind, caplog):
    with caplog.at_level("WARNING", "swift"):
        Swift.prepare_model(tiny_model(), kind(target_modules=["q_proj", "v_prj"], modules_to_save=["lm_hed"]))
    assert "'v_prj'; did you mean v_proj" in caplog.text
    assert "'lm_hed'; did you mean lm_head" in caplog.text


def test_an_expression_that_is_only_an_ending_is_told_how_to_be_one() -> None:
    with pytest.raises(UnknownNameError, match=r"\['mlp'\]"):
        Swift.prepare_model(tiny_model(), AdapterConfig(dim=32, target_modules="mlp"))
