"""NEFTune: the law of its noise, when there is any, and what is trained and saved beside it."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.tuners import LoraConfig, NEFTuneConfig, Swift, SwiftModel
from swift.tuners.methods.neftune import noise
from tests.tiny import tiny_model
from tests.tuners.cases import Mlp, stir

IDS = torch.arange(24).reshape(3, 8)
MASK = torch.tensor([[1] * 8, [0] * 3 + [1] * 5, [1] * 2 + [0] * 6])


def heard(model: SwiftModel, **inputs) -> torch.Tensor:
    """What the model's layers are given in place of its embeddings, less these."""
    seen = []
    hook = model.base_model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(input_ids=IDS, **inputs)
    hook.remove()
    return seen[0] - torch.nn.functional.embedding(IDS, model.base_model.model.embed_tokens.weight)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def prepared(config=None) -> SwiftModel:
    model = Swift.prepare_model(tiny_model("qwen2", hidden=32), config or NEFTuneConfig())
    assert isinstance(model, SwiftModel)
    return model


def test_the_noise_is_uniform_with_the_strength_of_each_row():
    torch.manual_seed(0)
    rows, length, size, alpha = 3, 64, 512, 5.0
    mask = torch.ones(rows, length)
    mask[1, :48], mask[2, 4:] = 0, 0
    drawn = noise(torch.zeros(rows, length, size, dtype=torch.float64), alpha, mask)
    for row, tokens in enumerate((64, 16, 4)):
        strength = alpha / (tokens * size) ** 0.5
        assert not drawn[row][mask[row] == 0].any()
        sample = (drawn[row][mask[row] == 1] / strength).flatten().sort().values
        assert sample.abs().max() <= 1
        # Kolmogorov and Smirnov: 1.95 / sqrt(n) is passed by chance once in a thousand times.
        expected = torch.linspace(0, 1, len(sample), dtype=torch.float64)
        assert ((sample + 1) / 2 - expected).abs().max() < 1.95 / len(sample) ** 0.5
        assert torch.allclose(sample.square().mean(), torch.tensor(1 / 3, dtype=torch.float64), atol=0.03)
    assert not torch.allclose(drawn[0, 0], drawn[0, 1])


def test_without_a_mask_the_length_is_that_of_the_batch():
    drawn = noise(torch.zeros(2, 16, 1024), 10.0, None)
    strength = 10.0 / (16 * 1024) ** 0.5
    assert 0.99 * strength < drawn.abs().max() <= strength


def test_the_model_gets_it_by_its_mask():
    model = prepared().train()
    added = heard(model, attention_mask=MASK)
    for row, tokens in enumerate((8, 5, 2)):
        strength = 5.0 / (tokens * 32) ** 0.5
        assert 0.8 * strength < added[row].abs().max() <= strength * 1.001
        assert not added[row][MASK[row] == 0].any()
    assert heard(model).abs().amax(dim=(1, 2)).max() <= 5.0 / (8 * 32) ** 0.5 * 1.001


def test_it_is_there_only_in_training_and_while_active():
    plain, model = tiny_model("qwen2", hidden=32), prepared()
    for training in (True, False):
        model.train(training)
        plain.train(training)
        assert torch.equal(logits(model), logits(plain)) is not training
        assert torch.equal(logits(model), logits(model)) is not training
        model.set_active_adapters([])
        assert torch.equal(logits(model), logits(plain))
        model.set_active_adapters("default")
    assert not Swift.prepare_model(tiny_model("qwen2", hidden=32).eval(), NEFTuneConfig()).neftune_default.training


def test_a_copy_hears_its_own_masks():
    model = prepared().train()
    twin = copy.deepcopy(model)
    heard(model, attention_mask=MASK)
    assert (heard(twin) != 0).all(-1).any(-1).all()


def test_alone_it_freezes_nothing_and_all_is_saved(tmp_path):
    plain = tiny_model("qwen2", hidden=32)
    plain.lm_head.requires_grad_(False)
    model = Swift.prepare_model(plain, NEFTuneConfig())
    frozen = [key for key, parameter in model.base_model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["lm_head.weight"]
    stir(model)
    assert set(model.state_dict()) == set(plain.state_dict())
    model.save_pretrained(tmp_path)
    assert sorted(file.name for file in (tmp_path / "default").iterdir()) == ["adapter_config.json"]
    loaded = Swift.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path), tmp_path)
    assert isinstance(loaded.adapters["default"], NEFTuneConfig)
    assert torch.equal(logits(loaded), logits(model.eval()))
    fresh = prepared()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(logits(fresh.eval()), logits(model))


@pytest.mark.parametrize("first", ["noise", "lora"])
def test_with_lora_only_lora_is_trained_and_saved(first, tmp_path):
    configs = {"noise": NEFTuneConfig(noise_alpha=15), "lora": LoraConfig(r=2, target_modules=["q_proj"])}
    model = tiny_model("qwen2", hidden=32)
    for name in (first, *(name for name in configs if name != first)):
        model = Swift.prepare_model(model, {name: configs[name]})
    assert isinstance(model, SwiftModel)
    trained = {key for key, parameter in model.base_model.named_parameters() if parameter.requires_grad}
    assert trained == set(model.owned("lora"))
    assert set(model.state_dict()) == {key.format("lora") for key in model.owned("lora").values()}
    stir(model)
    assert not torch.equal(logits(model.train()), logits(model))
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()
    loaded = Swift.from_pretrained(tiny_model("qwen2", hidden=32), tmp_path)
    assert torch.equal(logits(loaded), logits(model.eval()))
    assert loaded.adapters["noise"].noise_alpha == 15


def test_it_keeps_half_precision_and_follows_a_cache():
    model = Swift.prepare_model(tiny_model("qwen2", hidden=32).bfloat16(), NEFTuneConfig()).train()
    assert model(input_ids=IDS).logits.dtype == torch.bfloat16
    cache = model(input_ids=IDS[:1, :7], use_cache=True).past_key_values
    step = model(input_ids=IDS[:1, 7:], attention_mask=MASK[:1], past_key_values=cache)
    assert torch.isfinite(step.logits).all()


def test_nonsense_is_refused():
    with pytest.raises(ConfigError, match="has NEFTune already"):
        Swift.prepare_model(tiny_model(), {"one": NEFTuneConfig(), "two": NEFTuneConfig()})
    for alpha in (0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="no positive number"):
            Swift.prepare_model(tiny_model(), NEFTuneConfig(noise_alpha=alpha))
    with pytest.raises(ConfigError, match="input embedding"):
        Swift.prepare_model(Mlp(), NEFTuneConfig())
    model = Swift.prepare_model(Mlp(), NEFTuneConfig(target_modules=["first"])).train()
    assert not torch.equal(model(torch.ones(1, 8))["logits"], model(torch.ones(1, 8))["logits"])


def test_options_become_its_config():
    assert NEFTuneConfig.from_options(SftArguments(neftune_noise_alpha=10), None).noise_alpha == 10
