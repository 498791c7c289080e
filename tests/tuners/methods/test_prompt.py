"""Visual prompt tuning against its equations, beside other prompts, and in language models that cache."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import StaticCache

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError, UnknownNameError
from swift.tuners import LLaMAProConfig, PromptConfig, Swift
from swift.tuners.layers import telling
from swift.tuners.methods.prompt import find_layers, widen_mask
from tests.tuners.cases import HOSTS, run, stir
from tests.tuners.vision import IMAGES, tiny_vit

LAYERS = r".*\.(layers|layer|h)\.\d+"


def prompted(model, seed: int = 1, **options):
    options = {"dim": 32, "target_modules": LAYERS, "prompt_length": 3} | options
    model = Swift.prepare_model(model, {f"p{seed}": PromptConfig(**options)})
    stir(model, seed)
    return model.eval()


def plainly(layer, hidden):
    """What a layer of a vision transformer gives without its tuners."""
    return type(layer).forward(layer, hidden)


@pytest.mark.parametrize("front", [True, False])
def test_deep_prompts_are_their_equation(front):
    images = IMAGES.double()
    model = prompted(tiny_vit().double(), extract_embedding=True, attach_front=front)
    vit = model.base_model.vit
    hidden = vit.embeddings(images)
    for layer in vit.layers:  # what becomes of the prompts is thrown away
        prompts = layer.prompt_p1.tokens.expand(2, 3, 32)
        out = plainly(layer, torch.cat((prompts, hidden) if front else (hidden, prompts), 1))
        hidden = out[:, 3:] if front else out[:, :-3]
    expected = model.base_model.classifier(vit.layernorm(hidden)[:, 0])
    assert torch.allclose(model(pixel_values=images).logits, expected, atol=1e-12)


def test_the_first_layer_adds_and_the_later_ones_overwrite():
    seen = []
    model = prompted(tiny_vit().double())
    for layer in model.base_model.vit.layers:
        layer.register_forward_hook(lambda layer, args, output: seen.append((args[0].clone(), output.clone())))
    model(pixel_values=IMAGES.double())
    layers = model.base_model.vit.layers
    (first, between), (second, last) = seen
    assert torch.equal(first[:, 3:], model.base_model.vit.embeddings(IMAGES.double()))
    assert torch.equal(first[0, :3], layers[0].prompt_p1.tokens)
    assert torch.equal(second, torch.cat((layers[1].prompt_p1.tokens.expand(2, 3, 32), between[:, 3:]), 1))
    assert last.shape == (2, 20, 32)


@pytest.mark.parametrize("front", [True, False])
def test_overwritten_prompts_are_extracted_ones(front):
    kept = prompted(tiny_vit().double(), attach_front=front)
    taken = prompted(tiny_vit().double(), attach_front=front, extract_embedding=True)
    taken.load_state_dict(kept.state_dict())
    images = IMAGES.double()
    ends = [model.vit(pixel_values=images).last_hidden_state for model in (kept, taken)]
    assert torch.allclose(ends[0][:, 3:] if front else ends[0][:, :-3], ends[1], atol=1e-12)


def test_one_layer_named_is_a_shallow_prompt():
    model = prompted(tiny_vit().double(), target_modules=["layers.0"])
    vit, images = model.base_model.vit, IMAGES.double()
    hidden = torch.cat((vit.layers[0].prompt_p1.tokens.expand(2, 3, 32), vit.embeddings(images)), 1)
    for layer in vit.layers:
        hidden = plainly(layer, hidden)
    assert torch.allclose(model.vit(pixel_values=images).last_hidden_state, vit.layernorm(hidden), atol=1e-12)


@pytest.mark.parametrize(("first", "second"), [(False, False), (True, False), (False, True), (True, True)])
def test_two_lie_side_by_side(first, second):
    model = prompted(tiny_vit().double(), extract_embedding=first)
    model = prompted(model, 2, prompt_length=2, extract_embedding=second)
    vit, images = model.base_model.vit, IMAGES.double()
    hidden = vit.embeddings(images)
    for layer in vit.layers:
        outer, inner = (getattr(layer, f"prompt_p{i}").tokens for i in (1, 2))
        hidden = plainly(layer, torch.cat((outer.expand(2, -1, -1), inner.expand(2, -1, -1), hidden), 1))[:, 5:]
    given = model.vit(pixel_values=images).last_hidden_state[:, -17:]
    assert torch.allclose(given, vit.layernorm(hidden), atol=1e-12)


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("kind", ["lm", "gpt2"])
def test_a_cache_changes_nothing(kind, front):
    host = HOSTS[kind]
    model = prompted(host.make(), extract_embedding=True)
    model = prompted(model, 2, prompt_length=2, extract_embedding=True, attach_front=front)
    inputs = {"input_ids": host.inputs["input_ids"], "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    inputs["attention_mask"][0, :3] = 0
    options = {"max_new_tokens": 4, "output_logits": True, "return_dict_in_generate": True, "do_sample": False}
    with_cache, without = (
        model.generate(**inputs, **options, eos_token_id=None, pad_token_id=0, use_cache=cache).logits
        for cache in (True, False)
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(with_cache, without, strict=True))


@pytest.mark.parametrize("kind", ["lm", "gpt2"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_cache_changes_nothing_with_new_blocks_inside_or_outside(kind, inside):
    host = HOSTS[kind]
    blocks = {"new": LLaMAProConfig(num_new_blocks=1)}
    model = Swift.prepare_model(host.make(), blocks) if inside else host.make()
    model = prompted(model, extract_embedding=True)
    model = model if inside else Swift.prepare_model(model, blocks)
    stir(model)
    ids, options = host.inputs["input_ids"], {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with_cache, without = (
        model.eval().generate(ids, **options, output_logits=True, return_dict_in_generate=True, use_cache=cache).logits
        for cache in (True, False)
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(with_cache, without, strict=True))


def test_prompts_that_stay_in_are_nothing_for_new_blocks_outside():
    model = prompted(HOSTS["lm"].make())
    model = Swift.prepare_model(model, {"new": LLaMAProConfig(num_new_blocks=1)})
    with pytest.raises(ConfigError, match="after LLaMA-Pro"):
        run(model, HOSTS["lm"])


def test_without_a_mask_a_cache_changes_nothing_either():
    host = HOSTS["lm"]
    model, ids = prompted(host.make(), extract_embedding=True), host.inputs["input_ids"]
    whole = model(input_ids=ids)
    begun = model(input_ids=ids[:, :5], use_cache=True)
    rest = model(input_ids=ids[:, 5:], past_key_values=begun.past_key_values)
    assert begun.past_key_values.get_seq_length() == 8
    assert torch.allclose(torch.cat((begun.logits, rest.logits), 1), whole.logits, atol=1e-5)
    one = model(input_ids=ids[:, :1], past_key_values=rest.past_key_values)
    assert torch.allclose(one.logits, model(input_ids=torch.cat((ids, ids[:, :1]), 1)).logits[:, -1:], atol=1e-5)


def test_a_cache_that_cannot_be_kept_clean_is_refused():
    host = HOSTS["lm"]
    ids = host.inputs["input_ids"]
    model = prompted(host.make(), extract_embedding=True)
    with pytest.raises(ConfigError, match="cache"):
        model(input_ids=ids, past_key_values=StaticCache(config=model.config, max_cache_len=32))
    kept = prompted(host.make())
    cache = kept(input_ids=ids).past_key_values
    with pytest.raises(ConfigError, match="cache"):
        kept(input_ids=ids[:, :1], past_key_values=cache)


def test_a_mask_grows_by_what_may_be_seen():
    additive = torch.full((1, 1, 2, 3), -9.0)
    wide = widen_mask(additive, 2, 0, 2, 0.5)
    assert wide.shape == (1, 1, 4, 5)
    assert torch.equal(wide[0, 0, 2], torch.tensor([-9.0, 0.5, 0.5, -9.0, -9.0]))
    assert torch.equal(wide[0, 0, 0], torch.full((5,), 0.5))
    rows = widen_mask(torch.tensor([[1, 1, 0]]), 3, 3, 2, 0.0)
    assert rows.tolist() == [[1, 1, 0, 1, 1]]
    assert widen_mask(torch.tensor([[True]]), 1, 0, 1, -1.0).tolist() == [[False, True]]


def test_a_padded_row_is_the_row_alone():
    host = HOSTS["bert"]
    model = prompted(host.make(), extract_embedding=True)
    ids, mask = host.inputs["input_ids"], torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    with torch.no_grad():
        both = model(input_ids=ids, attention_mask=mask).logits
        alone = model(input_ids=ids[:1, :5]).logits
    assert torch.allclose(both[0, :5], alone[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["lm", "llama", "gpt2", "bert"])
def test_text_that_prompts_stay_in_has_no_labels_for_them(kind):
    host = HOSTS[kind]
    model, labels = prompted(host.make()), host.inputs["labels"]
    with pytest.raises(ConfigError, match="no labels") as caught:
        model(**host.inputs)
    assert "extract_embedding=True" in caught.value.fix
    with telling(labels), pytest.raises(ConfigError, match="no labels"):
        model(host.inputs["input_ids"])
    model.set_active_adapters([])
    assert model(**host.inputs).loss is not None


def test_a_copy_counts_its_own_prompts():
    model = prompted(prompted(tiny_vit()), 2)
    twin = copy.deepcopy(model)
    twin.set_active_adapters("p2")
    inner = twin.base_model.vit.layers[0].prompt_p2
    assert inner.outer[0] is twin.base_model.vit.layers[0].prompt_p1
    assert not torch.allclose(run(twin, HOSTS["vit"]), run(model, HOSTS["vit"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 31}, "prompts of size 31"),
        ({"dim": [32]}, "1 sizes for 2 modules"),
        ({"prompt_length": 0}, "prompt_length is 0"),
        ({"embedding_pos": "hidden"}, "argument hidden"),
    ],
)
def test_what_cannot_be_is_a_sentence(options, message):
    with pytest.raises(ConfigError, match=message):
        prompted(tiny_vit(), **options)(pixel_values=IMAGES)


def test_no_such_layer():
    with pytest.raises(UnknownNameError):
        prompted(tiny_vit(), target_modules=["layerz.0"])


@pytest.mark.parametrize("kind", ["lm", "llama", "gpt2"])
def test_by_options_it_goes_into_every_layer_of_a_language_model(kind):
    host = HOSTS[kind]
    config = PromptConfig.from_options(SftArguments(), host.make())
    model = Swift.prepare_model(host.make(), config)
    assert {path.split(".prompt")[0].rpartition(".")[2] for path in model.state_dict()} == {"0", "1"}
    assert run(model, host).shape == run(host.make(), host).shape


def test_a_model_without_layers_is_told_so():
    with pytest.raises(ConfigError, match="no list of layers"):
        find_layers(nn.Sequential(nn.Linear(2, 2)))
