import copy
from types import SimpleNamespace

import pytest
from transformers import GenerationConfig, PreTrainedConfig

from swift.inference.settings import max_model_length, prepare_generation_config
from tests.inference.fake import FakeTemplate
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(vocab_size=len(tokenizer))


@pytest.fixture
def template(tokenizer):
    return FakeTemplate(tokenizer)


def test_what_was_said_stays_as_it_is(model, template):
    said = GenerationConfig(max_new_tokens=900, temperature=0.0, do_sample=True, eos_token_id=5)
    before = copy.deepcopy(said.to_dict())
    prepare_generation_config(model, template, said, num_prompt_tokens=10)
    assert said.to_dict() == before


def test_it_stops_on_every_known_end_once(model, template):
    template.stop_ids = [9, 2]
    config = prepare_generation_config(model, template, GenerationConfig(eos_token_id=[5, 9]))
    assert config.eos_token_id == [9, 2, 5]
    assert prepare_generation_config(model, template, GenerationConfig(eos_token_id=5)).eos_token_id == [9, 2, 5]


@pytest.mark.parametrize(
    ("said", "prompt", "expected"),
    [
        ({"max_new_tokens": 100}, 12, 100),
        ({"max_new_tokens": 600}, 12, 500),
        ({"max_new_tokens": 600}, 512, 0),
        ({"max_length": 100}, 12, 88),
        ({}, 12, 500),
    ],
)
def test_new_tokens_are_cut_to_the_model(model, template, said, prompt, expected):
    config = prepare_generation_config(model, template, GenerationConfig(**said), num_prompt_tokens=prompt)
    assert config.max_new_tokens == expected
    assert config.max_length is None


def test_without_a_known_length_nothing_is_cut(template):
    model = SimpleNamespace(config=PreTrainedConfig())
    assert max_model_length(model) is None
    assert prepare_generation_config(model, template, GenerationConfig(), num_prompt_tokens=12).max_new_tokens == 2048


def test_the_length_of_every_kind_of_configuration_is_found():
    assert max_model_length(tiny_model("gpt2", n_positions=64)) == 64
    assert max_model_length(tiny_model("llama", max_position_embeddings=96)) == 96


def test_a_temperature_of_zero_does_not_sample(model, template):
    said = GenerationConfig(do_sample=True, temperature=0.0)
    config = prepare_generation_config(model, template, said)
    assert (config.do_sample, config.temperature) == (False, 1.0)
    assert prepare_generation_config(model, template, GenerationConfig(do_sample=True)).do_sample


def test_without_a_pad_token_the_end_pads(model, template, monkeypatch):
    assert prepare_generation_config(model, template, GenerationConfig(pad_token_id=7)).pad_token_id == 0
    monkeypatch.setattr(
        template.tokenizer, "_special_tokens_map", {**template.tokenizer._special_tokens_map, "pad_token": None}
    )
    assert template.tokenizer.pad_token_id is None
    assert prepare_generation_config(model, template, GenerationConfig(pad_token_id=7)).pad_token_id == 7
    assert prepare_generation_config(model, template, GenerationConfig()).pad_token_id == template.stop_ids[0]
