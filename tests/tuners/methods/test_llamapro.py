"""LLaMA-Pro: identities at the start, a cache that fits in both states, and a merge into a plain deeper model."""

from __future__ import annotations

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.tuners import AdapterConfig, LLaMAProConfig, LoraConfig, Swift
from swift.tuners.methods.llamapro import outputs_of
from tests.tiny import tiny_encoder, tiny_model
from tests.tuners.cases import stir

IDS = torch.arange(3, 13).reshape(1, 10)
SLIDING = {"head_dim": 16, "sliding_window": 4}
KINDS = {
    "llama": {},
    "qwen2": {},
    "mistral": {"sliding_window": 4},
    "gpt2": {},
    "gemma3_text": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "phi": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "bloom": {},
    "mixtral": {},
}
SLOW = {"phi", "gpt_neox", "opt", "bloom", "mixtral"}
kinds = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in KINDS]
)


def base(kind: str):
    return tiny_model(kind, hidden=64, layers=4, **KINDS[kind]).eval()


def logits(model, ids=IDS) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def text(model, **options) -> torch.Tensor:
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0, **options}
    return model.eval().generate(input_ids=IDS, **options)


def tuned(kind: str, **options):
    model = Swift.prepare_model(base(kind), LLaMAProConfig(**{"num_new_blocks": 2, **options}))
    stir(model)
    return model


@kinds
def test_it_starts_as_the_base_and_is_the_base_when_off(kind):
    plain = base(kind)
    model = Swift.prepare_model(base(kind), LLaMAProConfig(num_new_blocks=2))
    assert torch.equal(logits(model), logits(plain))
    stir(model)
    assert not torch.allclose(logits(model), logits(plain))
    model.set_active_adapters([])
    assert torch.equal(logits(model), logits(plain))
    assert torch.equal(text(model), text(plain))
    assert model.config.num_hidden_layers == 4


@kinds
def test_a_cache_gives_what_no_cache_gives(kind):
    model = tuned(kind)
    expected = text(model, use_cache=False)
    assert torch.equal(text(model), expected)
    assert torch.equal(text(model, num_beams=3), text(model, num_beams=3, use_cache=False))
    if kind != "bloom":
        assert torch.equal(text(model, cache_implementation="static"), expected)


@kinds
def test_merged_it_is_a_plain_deeper_model(kind, tmp_path):
    model = tuned(kind)
    before, said = logits(model), text(model)
    Swift.merge_and_unload(model)
    assert not model.adapters
    assert torch.equal(logits(model.model), before)
    assert torch.equal(text(model.model), said)
    model.model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.num_hidden_layers == 6
    assert len(getattr(loaded.config, "layer_types", None) or range(6)) == 6
    assert torch.equal(logits(loaded), before)
    assert set(loaded.state_dict()) == set(model.model.state_dict())


def test_it_is_its_equation():
    """A deeper Llama put together by hand, in float64: new blocks behind layers 2 and 4, as layers 3 and 6."""
    model = tuned("llama").double()
    state = model.base_model.state_dict()
    config = type(model.config)(**{**model.config.to_dict(), "num_hidden_layers": 6})
    by_hand = LlamaForCausalLM(config).double()
    places = {0: 0, 1: 1, 2: 3, 3: 4}
    own = {key: tensor for key, tensor in state.items() if "layers" not in key}
    for key, tensor in state.items():
        if "layers" in key:
            index, rest = int(key.split(".")[2]), key.split(".", 3)[3]
            inside = rest.removeprefix("llamapro_default.blocks.0.")
            own[f"model.layers.{places[index] + (inside != rest)}.{inside}"] = tensor
    by_hand.load_state_dict(own)
    assert torch.allclose(logits(model), logits(by_hand), rtol=0, atol=1e-12)


@pytest.mark.parametrize("first", ["blocks", "prefix"])
def test_a_prefix_that_trains_is_refused_whoever_came_first(first):
    configs = {
        "blocks": LLaMAProConfig(num_new_blocks=2),
        "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    }
    names = sorted(configs, key=lambda name: name != first)
    model = Swift.prepare_model(base("llama"), {name: configs[name] for name in names})
    with pytest.raises(ConfigError, match="a prefix does so"):
        model(IDS)
    model.deactivate_adapter("prefix")
    assert torch.equal(logits(model), logits(base("llama")))


def test_groups_get_copies_of_their_last_layers():
    plain = base("llama")
    model = Swift.prepare_model(base("llama"), LLaMAProConfig(num_new_blocks=4, num_groups=2))
    layers = model.base_model.model.layers
    blocks = [layer.llamapro_default.blocks for layer in (layers[1], layers[3])]
    copied = [0, 1, 2, 3]
    for source, block in zip(copied, [*blocks[0], *blocks[1]], strict=True):
        written = dict(outputs_of(block))
        assert sorted(written) == ["mlp.down_proj.weight", "self_attn.o_proj.weight"]
        assert not any(parameter.any() for parameter in written.values())
        for key, tensor in plain.model.layers[source].state_dict().items():
            assert key in written or torch.equal(block.state_dict()[key], tensor)
    assert torch.equal(logits(model), logits(plain))
    assert [module.layer_idx for module in model.modules() if "layer_idx" in vars(module)] == [0, 1, 4, 5, 2, 3, 6, 7]


def test_a_copy_is_of_the_plain_layer():
    model = Swift.prepare_model(
        base("qwen2"), {"lora": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"])}
    )
    model = Swift.prepare_model(model, {"adapter": AdapterConfig(dim=64, target_modules=["mlp"])})
    stir(model)
    before = logits(model)
    model = Swift.prepare_model(model, {"pro": LLaMAProConfig(num_new_blocks=1)})
    assert torch.equal(logits(model), before)
    own = [pattern.partition("blocks.0.")[2] for pattern in model.owned("pro").values()]
    assert own == list(base("qwen2").model.layers[0].state_dict())
    Swift.merge_and_unload(model, "pro")
    assert set(model.adapters) == {"lora", "adapter"}
    assert torch.equal(logits(model), before)


def test_hidden_states_come_in_the_order_of_the_layers():
    model = tuned("qwen2")
    states = model(input_ids=IDS, output_hidden_states=True).hidden_states
    Swift.merge_and_unload(model)
    merged = model.model(input_ids=IDS, output_hidden_states=True).hidden_states
    assert len(states) == len(merged) == 7
    assert all(torch.equal(a, b) for a, b in zip(states, merged, strict=True))


def test_two_share_one_cache():
    model = tuned("qwen2")
    model = Swift.prepare_model(model, {"other": LLaMAProConfig(num_new_blocks=4)})
    stir(model, 2)
    for names in (["default", "other"], ["other"], ["default"]):
        model.set_active_adapters(names)
        assert torch.equal(text(model), text(model, use_cache=False))
    with pytest.raises(ConfigError, match="works on the same layers"):
        Swift.merge_and_unload(model, "default")


def test_a_cache_filled_while_it_was_off_is_refused():
    model = tuned("qwen2")
    model.set_active_adapters([])
    cache = model(input_ids=IDS, use_cache=True).past_key_values
    model.set_active_adapters("default")
    with pytest.raises(ConfigError, match="filled while"):
        model(input_ids=IDS[:, :1], past_key_values=cache)


def test_layers_that_are_no_sums_are_refused():
    model = Swift.prepare_model(tiny_encoder("bert", vocab_size=64, hidden=32), LLaMAProConfig(num_new_blocks=1))
    with pytest.raises(ConfigError, match="no identity"):
        model(input_ids=IDS)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_new_blocks": 3}, "no multiple of 3 groups"),
        ({"num_new_blocks": 0}, "below 1"),
        ({"num_new_blocks": 3, "num_groups": 2}, "num_new_blocks=3 is no multiple"),
        ({"num_new_blocks": 8, "num_groups": 2}, "4 new blocks for each group of 2"),
    ],
)
def test_numbers_that_do_not_divide_are_sentences(options, match):
    with pytest.raises(ConfigError, match=match):
        Swift.prepare_model(base("llama"), LLaMAProConfig(**options))


def test_layers_of_different_kinds_are_not_copied_behind_each_other():
    with pytest.raises(ConfigError, match="differ in kind"):
        Swift.prepare_model(base("gemma3_text"), LLaMAProConfig(num_new_blocks=4, num_groups=2))


def test_what_the_config_cannot_say_is_not_merged():
    plain = tiny_model("gpt2", layers=2, scale_attn_by_inverse_layer_idx=True)
    model = Swift.prepare_model(plain, LLaMAProConfig(num_new_blocks=2))
    before = logits(model)
    with pytest.raises(ConfigError, match="would not be what it is here"):
        Swift.merge_and_unload(model)
    assert torch.equal(logits(model), before)
    assert model.config.num_hidden_layers == 2


def test_half_blocks_train_in_float32_and_merge_in_half():
    model = Swift.prepare_model(base("llama").bfloat16(), LLaMAProConfig(num_new_blocks=2))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert torch.equal(logits(model), logits(base("llama").bfloat16()))
    Swift.merge_and_unload(model)
    assert {p.dtype for p in model.model.parameters()} == {torch.bfloat16}


def test_options_become_its_config():
    args = SftArguments(llamapro_num_new_blocks=6, llamapro_num_groups=3)
    config = LLaMAProConfig.from_options(args, base("llama"))
    assert (config.num_new_blocks, config.num_groups) == (6, 3)
