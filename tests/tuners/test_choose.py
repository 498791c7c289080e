"""From options to configs, and which modules the words stand for."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError, UnknownNameError
from swift.tuners import AdapterConfig, LoraConfig, Swift, SwiftModel
from swift.tuners.choose import available_sft_types, choose_tuner
from swift.tuners.targets import find_all_linears, find_embeddings, find_modules_to_save, find_targets
from tests.tiny import tiny_model
from tests.tuners.cases import Mlp

LINEARS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen2", vocab_size=64, hidden=32)


def test_the_types_are_the_files():
    assert available_sft_types() == ["lora", "full", "adapter"]
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
