"""Res-Tuning against its equation on tokens and maps, detached, in its presets, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from swift.errors import ConfigError, UnknownNameError
from swift.tuners import LoraConfig, ResTuningConfig, Swift
from tests.tuners.cases import HOSTS, run, stir
from tests.tuners.vision import IMAGES, Unet, tiny_vit

IN = IMAGES.double()
VIT = {
    "dims": 32,
    "root_modules": r"vit\.layers\.0",
    "stem_modules": r"vit\.layers\.\d+",
    "target_modules": r"vit\.layernorm",
}


def chained(model, **options):
    model = Swift.prepare_model(model, ResTuningConfig(**options))
    stir(model)
    return model.eval()


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def adapter(state, part, x, shortcut=True):
    """A residual bottleneck over the last axis, by hand."""
    small = gelu(x @ state[f"{part}.down.weight"].T + state[f"{part}.down.bias"])
    return small @ state[f"{part}.up.weight"].T + state[f"{part}.up.bias"] + (x if shortcut else 0)


def grouped(state, part, x_BCHW):
    """A residual bottleneck for each quarter of the channels of a map, by hand."""
    out = []
    for i, x in enumerate(x_BCHW.movedim(1, -1).chunk(4, -1)):
        small = gelu(x @ state[f"{part}.down"][i] + state[f"{part}.down_bias"][i])
        out.append(x + small @ state[f"{part}.up"][i] + state[f"{part}.up_bias"][i])
    return torch.cat(out, -1).movedim(-1, 1)


def features(model):
    """The input of the first layer of a vision transformer, and what each of its layers gives."""
    hidden = [model.vit.embeddings(IN)]
    for layer in model.vit.layers:
        hidden.append(layer(hidden[-1]))
    return hidden


def test_the_chain_is_its_equation_on_tokens():
    model = chained(tiny_vit().double(), **VIT)
    state, base = model.state_dict(), tiny_vit().double().eval()
    x, *stems = features(base)
    for i, stem in enumerate(stems):
        own = f"restuning_default.tuners.{i}"
        x = adapter(state, f"{own}.lateral", stem) + adapter(state, f"{own}.vertical", x)
    expected = base.classifier(base.vit.layernorm(x)[:, 0])
    assert torch.allclose(model(pixel_values=IN).logits, expected, atol=1e-12)


def test_beside_the_stems_it_is_the_unified_formulation():
    model = chained(tiny_vit().double(), **VIT, use_bypass=False, stem_modules_hook="input")
    state, base = model.state_dict(), tiny_vit().double().eval()
    assert not any("vertical" in key for key in state)
    x = base.vit.embeddings(IN)
    for i, layer in enumerate(base.vit.layers):
        x = layer(x) + adapter(state, f"restuning_default.tuners.{i}.lateral", x, shortcut=False)
    assert torch.allclose(model(pixel_values=IN).logits, base.classifier(base.vit.layernorm(x)[:, 0]), atol=1e-12)


def test_the_chain_is_its_equation_on_maps_that_grow():
    unet = {"root_modules": r".*mid_block", "root_modules_hook": "output", "target_modules": r".*conv_norm_out"}
    stems = ["mid_block", "up_blocks.0", "up_blocks.1"]
    config = {"dims": [16, 16, 8], "stem_modules": stems, "use_upsample": True, "tuner_cfg": "res_group_adapter"}
    model = chained(Unet().double(), **unet, **config)
    state, base, seen = model.state_dict(), Unet().double().eval(), {}
    for name in stems:
        base.get_submodule(f"unet.{name}").register_forward_hook(
            lambda m, args, out, name=name: seen.update({name: out})
        )
    inputs = {key: value.double() for key, value in HOSTS["unet"].inputs.items() if key != "labels"}
    base(**inputs)
    x = seen["mid_block"]
    for i, name in enumerate(stems):
        own = f"restuning_default.tuners.{i}"
        x = grouped(state, f"{own}.lateral", seen[name]) + grouped(state, f"{own}.vertical", x)
        size = 8 // x.shape[-1] if i == 0 else 1  # the first stem is half as large as the others
        x = x.repeat_interleave(size, 2).repeat_interleave(size, 3)
        x = F.conv2d(x, state[f"{own}.aux.conv.weight"], state[f"{own}.aux.conv.bias"], padding=1)
    expected = base.unet.conv_out(F.silu(base.unet.conv_norm_out(x)))
    assert torch.allclose(model(**inputs)["logits"], expected, atol=1e-10)


def test_nothing_of_the_model_takes_part_in_the_backward_pass():
    model = Swift.prepare_model(tiny_vit(), LoraConfig(r=2, target_modules=["q_proj"]))
    model = Swift.prepare_model(model, {"chain": ResTuningConfig(**VIT)})
    seen = []
    model.base_model.vit.layers[1].register_forward_hook(lambda layer, args, output: seen.append(output))
    model(pixel_values=IMAGES, labels=torch.tensor([0, 1])).loss.backward()
    grads = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert all((grad is None) == ("lora" in key) for key, grad in grads.items())
    assert not model.base_model.restuning_chain.seen.here.get(0, seen[0]).requires_grad


def test_the_changes_of_two_chains_add_up():
    model = chained(tiny_vit().double(), **VIT)
    model = Swift.prepare_model(model, {"two": ResTuningConfig(**VIT, tuner_cfg="res_group_adapter")})
    stir(model, 2)
    norm, ends = model.base_model.vit.layernorm, {}
    norm.register_forward_pre_hook(lambda norm, args: ends.update({"now": args[0]}))
    for names in ("default", "two", ["default", "two"], []):
        model.set_active_adapters(names)
        run(model, HOSTS["vit"])
        ends["".join(names)] = ends.pop("now")
    expected = ends["default"] + ends["two"] - ends[""]
    assert torch.allclose(ends["defaulttwo"], expected, atol=1e-5)
    assert not torch.allclose(ends["defaulttwo"], ends["two"], atol=1e-3)


def test_a_pass_leaves_nothing_behind_when_it_only_runs():
    model = chained(tiny_vit(), **VIT)
    run(model, HOSTS["vit"])
    assert not model.base_model.restuning_default.seen.here


def test_a_target_may_be_an_output_and_a_root_may_be_missing():
    options = VIT | {"root_modules": None, "target_modules": r"vit\.layers\.1", "target_modules_hook": "output"}
    model = chained(tiny_vit().double(), **options)
    state, base = model.state_dict(), tiny_vit().double().eval()
    _, first, second = features(base)
    own = "restuning_default.tuners"
    assert f"{own}.0.vertical.up.weight" not in state
    x = adapter(state, f"{own}.0.lateral", first)
    x = adapter(state, f"{own}.1.lateral", second) + adapter(state, f"{own}.1.vertical", x)
    assert torch.allclose(model.vit(pixel_values=IN).last_hidden_state, base.vit.layernorm(x), atol=1e-12)


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        ("identity", lambda root, first, second: root + first + second),
        ("zero", lambda root, first, second: torch.zeros_like(root)),
        ({"lateral_cfg": "identity", "vertical_cfg": "zero"}, lambda root, first, second: second),
        ({"lateral_cfg": None, "vertical_cfg": "identity"}, lambda root, first, second: root),
        (["identity", {"lateral_cfg": "zero", "vertical_cfg": "identity"}], lambda root, first, second: root + first),
        (
            {"lateral_cfg": {"type": "res_adapter", "adapter_length": 5}, "vertical_cfg": "zero"},
            lambda root, first, second: second,
        ),
    ],
)
def test_the_presets_are_what_they_say(cfg, expected):
    model = Swift.prepare_model(tiny_vit(), ResTuningConfig(**VIT, tuner_cfg=cfg, zero_init_last=True)).double().eval()
    base = tiny_vit().double().eval()
    given = model.vit(pixel_values=IN).last_hidden_state
    assert torch.allclose(given, base.vit.layernorm(expected(*features(base))), atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 31}, "31 channels and its host gives 32"),
        ({"dims": [32]}, "1 sizes for 2 modules"),
        ({"dims": [32, 16]}, "brings 32 channels to stem 1"),
        ({"dims": 30, "tuner_cfg": "res_group_adapter"}, "30 channels cannot be divided"),
        ({"target_modules": r"vit\.layers\.\d"}, "target_modules names 2 modules"),
        ({"target_modules": r"vit\.layers\.0"}, "stem 0 has not run"),
        ({"target_modules": "classifier"}, "but its target has"),
        ({"tuner_cfg": ["zero"]}, "1 entries for 2 stems"),
        ({"tuner_cfg": {"lateral_cfg": {"type": "res_adapter", "length": 3}}}, "no option like that"),
        ({"tuner_cfg": "upsample"}, "only maps"),
    ],
)
def test_what_cannot_be_is_a_sentence(options, message):
    with pytest.raises(ConfigError, match=message):
        Swift.prepare_model(tiny_vit(), ResTuningConfig(**(VIT | options)))(pixel_values=IMAGES)


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"tuner_cfg": "res_adaptor"}, "res_adapter"),
        ({"tuner_cfg": {"laterall_cfg": "zero"}}, "lateral_cfg"),
        ({"tuner_cfg": {"lateral_cfg": "identty"}}, "identity"),
        ({"tuner_cfg": {"aux_cfg": "upsampel"}}, "upsample"),
        ({"stem_modules_hook": "outptu"}, "output"),
        ({"stem_modules": ["vit.layer"]}, "layer"),
    ],
)
def test_unknown_names_bring_near_ones(options, near):
    with pytest.raises(UnknownNameError) as caught:
        Swift.prepare_model(tiny_vit(), ResTuningConfig(**(VIT | options)))
    assert near in str(caught.value)


def test_stems_of_another_size_need_upsampling():
    stems = {"dims": 16, "stem_modules": ["mid_block", "up_blocks.0"], "target_modules": ".*conv_norm_out"}
    model = Swift.prepare_model(Unet(), ResTuningConfig(**stems))
    with pytest.raises(ConfigError, match="to a stem of shape"):
        run(model, HOSTS["unet"])
