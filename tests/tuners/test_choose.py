"""From options to configs, and which modules the words stand for."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from swift.arguments.fields import options_of
from swift.arguments.sft import SftArguments
from swift.errors import ConfigError, MissingPackageError, UnknownNameError, UsageError
from swift.tuners import AdapterConfig, LoRAConfig, LoraConfig, Swift, SwiftModel
from swift.tuners.choose import check_tuners, choose_tuner
from swift.tuners.methods import PEFT_TYPES, available_sft_types, available_tuners, method_names
from swift.tuners.peft_options import PEFT
from swift.tuners.targets import find_all_linears, find_embeddings, find_modules_to_save, find_same_shape, find_targets
from tests.tiny import tiny_model
from tests.tuners.cases import Mlp

LINEARS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen2", vocab_size=64, hidden=32)


def test_the_types_are_the_files():
    assert available_sft_types() == [
        "lora", "full", "adalora", "ia3", "boft", "oft", "vera", "fourierft", "loha", "lokr", "prefix_tuning",
        "prompt_tuning", "p_tuning", "adapter", "llamapro", "longlora", "part", "prompt", "reft", "side",
    ]  # fmt: skip
    assert set(PEFT) == set(PEFT_TYPES)
    assert set(method_names()) == set(available_tuners()) - set(PEFT)
    said = options_of(SftArguments)["sft_type"].help
    assert all(name in said for name in available_sft_types())
    with pytest.raises(UnknownNameError, match="adaptr"):
        choose_tuner(SftArguments(sft_type="adaptr"), nn.Linear(1, 1))


def test_lora_as_the_options_say(model):
    said = SftArguments(lora_rank=3, lora_alpha=6, lora_dropout_p=0.1, lora_target_modules=["DEFAULT", "o_proj"],
        lora_modules_to_save=["LN", "EMBEDDING", "lm_head"], use_rslora=True, use_dora=True, init_lora_weights="gaussian",
        lora_dtype="bf16", lora_lr_ratio=8.0, lora_bias_trainable="all")  # fmt: skip
    config = choose_tuner(said, model, ["q_proj"])
    assert isinstance(config, LoraConfig)
    assert (config.r, config.lora_alpha, config.lora_dropout, config.bias) == (3, 6, 0.1, "all")
    assert config.target_modules == {"q_proj", "o_proj"}
    assert config.modules_to_save == ["input_layernorm", "norm", "post_attention_layernorm", "embed_tokens", "lm_head"]
    assert (config.use_rslora, config.use_dora, config.init_lora_weights) == (True, True, "gaussian")
    assert config.extras == {"lora_dtype": "bf16", "lorap_lr_ratio": 8.0, "lorap_emb_lr": 1e-6}
    assert config.task_type == "CAUSAL_LM"


def test_some_chunks_of_a_fused_projection_by_tuner():
    model = tiny_model("gpt2", vocab_size=64, hidden=32)
    said = "lora:name=qv,rank=4,targets=[c_attn],use_merged_linear=true,enable_lora=[true,false,true]"
    configs = choose_tuner(SftArguments(tuner=[said, "lora"]), model)
    config = configs["qv"]
    assert isinstance(config, LoRAConfig)
    assert (config.r, config.target_modules) == (4, {"c_attn"})
    assert (config.use_merged_linear, config.enable_lora) == (True, [True, False, True])
    assert not isinstance(configs["lora"], LoRAConfig)
    tuned = Swift.prepare_model(model, {"qv": config})
    assert tuned.state_dict(adapter_name="qv")
    assert not check_tuners(SftArguments(tuner=[said]))


def test_plain_lora_is_plain(model):
    config = choose_tuner(SftArguments(), model)
    assert isinstance(config, LoraConfig)
    assert (config.lora_dtype, config.lorap_lr_ratio, config.modules_to_save) == (None, None, None)
    assert config.init_lora_weights is True
    assert config.target_modules == set(LINEARS)
    assert isinstance(Swift.prepare_model(tiny_model(), config), peft.PeftModel)
    layered = choose_tuner(SftArguments(tuner_backend="swift"), model)
    assert isinstance(Swift.prepare_model(tiny_model(), layered), SwiftModel)


def test_adapters_go_to_the_feed_forward_parts(model):
    config = choose_tuner(SftArguments(sft_type="adapter", adapter_length=5, adapter_act="relu"), model)
    assert config == AdapterConfig(dim=32, target_modules=["mlp"], adapter_length=5, act_layer="relu")
    config = choose_tuner(SftArguments(sft_type="adapter", lora_target_modules=["o_proj"]), model)
    assert config.target_modules == ["o_proj"]
    host = Mlp()
    host.config = model.config
    with pytest.raises(ConfigError, match="feed_forward"):
        choose_tuner(SftArguments(sft_type="adapter"), host)


ROWS = [
    ("adalora", {"adalora_target_r": 3, "adalora_init_r": 9, "adalora_tinit": 2, "adalora_tfinal": 4, "max_steps": 20,
                 "adalora_deltaT": 5, "adalora_beta1": 0.5, "adalora_beta2": 0.6, "adalora_orth_reg_weight": 0.1},
     {"target_r": 3, "init_r": 9, "tinit": 2, "tfinal": 4, "deltaT": 5, "beta1": 0.5, "beta2": 0.6, "total_step": 20,
      "orth_reg_weight": 0.1, "lora_alpha": 32, "target_modules": {"q_proj", "v_proj"}}),
    ("adalora", {"adalora_tinit": 2}, {"tinit": 2, "total_step": 3}),
    ("ia3", {"ia3_target_modules": ["k_proj"], "ia3_feedforward_modules": ["down_proj"], "ia3_modules_to_save": ["LN"]},
     {"target_modules": {"k_proj", "down_proj"}, "feedforward_modules": {"down_proj"},
      "modules_to_save": ["input_layernorm", "norm", "post_attention_layernorm"]}),
    ("ia3", {"lora_target_modules": ["v_proj"], "ia3_feedforward_modules": ["down_proj"], "lora_modules_to_save": ["lm_head"]},
     {"target_modules": {"v_proj", "down_proj"}, "modules_to_save": ["lm_head"]}),
    ("boft", {"boft_n_butterfly_factor": 2, "boft_dropout": 0.1, "boft_target_modules": ["ALL"]},
     {"boft_block_size": 4, "boft_block_num": 0, "boft_n_butterfly_factor": 2, "boft_dropout": 0.1,
      "target_modules": set(LINEARS)}),
    ("boft", {"boft_block_num": 2}, {"boft_block_size": 0, "boft_block_num": 2}),
    ("oft", {"oft_block_num": 2, "oft_coft": True, "oft_block_share": True, "oft_dropout": 0.1},
     {"r": 2, "oft_block_size": 0, "coft": True, "block_share": True, "module_dropout": 0.1}),
    ("vera", {"vera_rank": 8, "vera_d_initial": 0.3, "vera_projection_prng_key": 5, "vera_dropout": 0.1},
     {"r": 8, "d_initial": 0.3, "projection_prng_key": 5, "vera_dropout": 0.1, "target_modules": {"v_proj"}}),
    ("vera", {"vera_target_modules": ["k_proj", "v_proj"]}, {"target_modules": {"k_proj", "v_proj"}}),
    ("fourierft", {"fourier_n_frequency": 7, "fourier_scaling": 1.5}, {"n_frequency": 7, "scaling": 1.5}),
    ("loha", {"loha_rank": 2, "loha_alpha": 3, "loha_dropout": 0.1}, {"r": 2, "alpha": 3, "rank_dropout": 0.1}),
    ("lokr", {"lokr_rank": 2, "lokr_decompose_both": True, "lokr_decompose_factor": 4},
     {"r": 2, "decompose_both": True, "decompose_factor": 4}),
    ("prefix_tuning", {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 8},
     {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 8}),
    ("prompt_tuning", {"prompt_init_text": "Hello", "model_id_or_path": "there"},
     {"num_virtual_tokens": 20, "prompt_tuning_init": "TEXT", "tokenizer_name_or_path": "there"}),
    ("p_tuning", {"encoder_type": "LSTM"}, {"encoder_reparameterization_type": "LSTM", "num_virtual_tokens": 20}),
    ("lora", {"init_lora_weights": "pissa_niter_4", "lora_alpha": 16.0}, {"init_lora_weights": "pissa_niter_4", "lora_alpha": 16}),
    ("llamapro", {"llamapro_num_new_blocks": 2, "llamapro_num_groups": 1}, {"num_new_blocks": 2, "num_groups": 1}),
    ("reft", {"reft_rank": 2, "reft_layers": [1], "reft_intervention_type": "DireftIntervention"},
     {"r": 2, "layers": [1], "intervention_type": "DireftIntervention"}),
    ("part", {"lora_target_modules": ["o_proj"]}, {"target_modules": ["o_proj"]}),
    ("longlora", {"longlora_group_size_ratio": 0.5, "lora_rank": 3}, {"group_size_ratio": 0.5, "r": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("sft_type", "options", "fields"), ROWS)
def test_options_become_fields(model, sft_type, options, fields):
    config = choose_tuner(SftArguments(sft_type=sft_type, **options), model, ["q_proj", "v_proj"])
    assert {name: getattr(config, name) for name in fields} == fields
    if sft_type in PEFT:
        assert type(config) is PEFT[sft_type].config
        assert config.task_type == "CAUSAL_LM"


def test_what_a_method_cannot_be_is_said(model):
    for options, message in [
        ({"sft_type": "ia3"}, "feed-forward"),
        ({"sft_type": "ia3", "ia3_feedforward_modules": ["down_proj"], "lora_target_modules": [".*_proj"]}, "names of modules"),
        ({"sft_type": "boft", "boft_block_num": 2, "boft_block_size": 8}, "boft: "),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            choose_tuner(SftArguments(**options), model, ["q_proj"])
    with pytest.raises(MissingPackageError, match="scipy"):
        choose_tuner(SftArguments(init_lora_weights="loftq"), model, ["q_proj"])


SEVERAL = [
    (["lora:rank=3,targets=q_proj,v_proj,alpha=6"],
     {"lora": {"r": 3, "target_modules": {"q_proj", "v_proj"}, "lora_alpha": 6}}),
    (["lora:targets=ALL", "lora:rank=2,dropout=.1,use_dora=true", "lora:name=third,bias=all"],
     {"lora": {"target_modules": set(LINEARS), "r": 8}, "lora2": {"r": 2, "lora_dropout": 0.1, "use_dora": True},
      "third": {"bias": "all"}}),
    (["adapter:length=5,act_layer=relu", r"lora:targets=.*\.(q|v)_proj,modules_to_save=[LN,lm_head]"],
     {"adapter": {"adapter_length": 5, "act_layer": "relu", "dim": 32, "target_modules": ["mlp"]},
      "lora": {"target_modules": r".*\.(q|v)_proj",
               "modules_to_save": ["input_layernorm", "norm", "post_attention_layernorm", "lm_head"]}}),
    (["ia3:targets=k_proj,feedforward_modules=down_proj"], {"ia3": {"target_modules": {"k_proj", "down_proj"}}}),
    (["adapter:targets=o_proj"], {"adapter": {"target_modules": ["o_proj"]}}),
    (["neftune:alpha=3"], {"neftune": {"noise_alpha": 3.0}}),
    (["lora:rank_pattern={q_proj: 4},init_lora_weights=false,layers_to_transform=[0],lorap_lr_ratio=None"],
     {"lora": {"rank_pattern": {"q_proj": 4}, "init_lora_weights": False, "layers_to_transform": [0],
               "lorap_lr_ratio": None}}),
]  # fmt: skip


@pytest.mark.parametrize(("said", "expected"), SEVERAL)
def test_several_tuners(model, said, expected):
    assert check_tuners(SftArguments(tuner=said)) == []
    chosen = choose_tuner(SftArguments(tuner=said), model, ["q_proj"])
    assert isinstance(chosen, dict)
    assert list(chosen) == list(expected)
    for name, fields in expected.items():
        assert {field: getattr(chosen[name], field) for field in fields} == fields


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["lora:rnk=4"], "did you mean rank"),
        (["lora:rank=four"], "rank takes a whole number, not 'four'"),
        (["lora:use_dora=perhaps"], "takes true or false"),
        (["lora:bias=some"], "takes none or all"),
        (["lora:rank=1,r=2"], "a second time"),
        (["lora:rank=1,rank=2"], "says rank twice"),
        (["lora:16"], "'16' is not key=value"),
        (["loha:dropout=.1"], "rank_dropout or module_dropout"),
        (["lora", "lora:name=lora"], "two adapters are called 'lora'"),
        (["adaptr:length=1"], "did you mean adapter"),
        ([":rank=1"], "does not begin with a tuner's name"),
        (["lora:rank_pattern={q"], "takes a mapping"),
    ],
)
def test_a_tuner_that_is_not_understood(said, message):
    (error,) = check_tuners(SftArguments(tuner=said))
    assert isinstance(error, UsageError)
    assert message in str(error)


def test_a_tuner_that_lacks_a_setting(model):
    assert check_tuners(SftArguments(tuner=["scetuning:down_ratio=0.5"])) == []
    with pytest.raises(ConfigError, match="scetuning is incomplete"):
        choose_tuner(SftArguments(tuner=["scetuning:down_ratio=0.5"]), model)


def test_noise_beside_a_tuner(model):
    said = SftArguments(neftune_noise_alpha=7, neftune_backend="swift")
    chosen = choose_tuner(said, model, ["q_proj"])
    assert isinstance(chosen, dict)
    assert list(chosen) == ["default", "neftune"]
    assert chosen["neftune"].noise_alpha == 7
    assert isinstance(choose_tuner(SftArguments(neftune_noise_alpha=7), model, ["q_proj"]), LoraConfig)


def test_layers_of_one_shape(model):
    assert find_same_shape(model, ["q_proj", "k_proj", "v_proj"]) == (["k_proj", "v_proj"], ["q_proj"])
    assert find_same_shape(model, ["k_proj", "v_proj"]) == (["k_proj", "v_proj"], [])
    assert find_same_shape(model, ["gate_proj", "up_proj", "down_proj"]) == (["gate_proj", "up_proj"], ["down_proj"])


def test_words_for_modules(model):
    assert find_all_linears(model) == LINEARS
    assert find_embeddings(model) == ["embed_tokens"]
    assert find_targets(model, ["ALL"]) == LINEARS
    assert find_targets(model, ["EMBEDDING", "q_proj", "q_proj"]) == ["embed_tokens", "q_proj"]
    assert find_targets(model, [r".*\.q_proj"]) == r".*\.q_proj"
    assert find_targets(model, ["self_attn.q_proj", "v_proj"]) == ["self_attn.q_proj", "v_proj"]
    with pytest.raises(ConfigError, match="only target"):
        find_targets(model, [r".*\.q_proj", "v_proj"])
    assert find_modules_to_save(model, ["lm_head"]) == ["lm_head"]


def test_other_models():
    assert find_all_linears(tiny_model("gpt2")) == ["c_attn", "c_fc", "c_proj"]
    assert find_embeddings(tiny_model("gpt2")) == ["wte"]
    assert find_all_linears(Mlp()) == ["first", "head", "second"]
    assert find_embeddings(nn.Sequential(nn.Embedding(2, 2))) == ["0"]


def test_a_name_that_others_have_too_is_a_path():
    class Part(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.proj = inner

    quantised = type("TorchQuantLinear", (nn.Module,), {})()
    model = nn.ModuleDict({"a": Part(nn.Linear(2, 2)), "b": Part(nn.LayerNorm(2)), "c": Part(quantised)})
    assert find_all_linears(model) == ["a.proj", "c.proj"]
    attention = nn.MultiheadAttention(4, 2)
    assert find_all_linears(nn.ModuleDict({"attention": attention})) == []
    assert torch.is_tensor(attention.in_proj_weight)
