"""Side-tuning against its equation, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError, UnknownNameError
from swift.tuners import SideConfig, Swift
from tests.tuners.cases import HOSTS, run, stir
from tests.tuners.vision import IMAGES, ConvNet, tiny_vit

IN = IMAGES.double()


def beside(model, **options):
    model = Swift.prepare_model(model.double(), SideConfig(**options))
    stir(model)
    return model.eval(), model.state_dict()


def fcn4(state, images, path):
    """Four convolutions by hand; the first three halve the map and are normalised over all channels of a row."""
    x = images
    for i in (0, 3, 6):
        x = F.conv2d(x, state[f"{path}.network.{i}.weight"], state[f"{path}.network.{i}.bias"], stride=2, padding=1)
        mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, correction=0)
        scale, shift = (state[f"{path}.network.{i + 1}.{part}"][:, None, None] for part in ("weight", "bias"))
        x = ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)
    return F.conv2d(x, state[f"{path}.network.9.weight"], state[f"{path}.network.9.bias"], padding=1)


def test_tokens_are_mixed_with_the_side_networks_mean():
    model, state = beside(tiny_vit(), dim=32, target_modules="vit", target_hidden_pos="last_hidden_state")
    base = tiny_vit().double().eval().vit(pixel_values=IN).last_hidden_state
    share = 1 / (1 + torch.exp(-state["vit.side_default.gate"]))
    side = fcn4(state, IN, "vit.side_default").mean((2, 3))[:, None]
    expected = share * base + (1 - share) * side
    assert torch.allclose(model.vit(pixel_values=IN).last_hidden_state, expected, atol=1e-12)
    first = Swift.prepare_model(tiny_vit(), SideConfig(dim=32, target_modules="vit"))  # 0 is the first of its outputs
    assert first.vit(pixel_values=IMAGES).last_hidden_state.shape == base.shape


def test_maps_are_mixed_pixel_by_pixel():
    model, state = beside(ConvNet(), dim=8, target_modules="stem")
    base = ConvNet().double().stem(IN)
    share = torch.sigmoid(state["stem.side_default.gate"])
    side = fcn4(state, IN, "stem.side_default").repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert side.shape == base.shape
    assert torch.allclose(model.base_model.stem(IN), share * base + (1 - share) * side, atol=1e-12)


def test_hidden_states_are_mixed_with_an_mlps():
    model, state = beside(nn.Sequential(nn.Linear(6, 6)), dim=6, target_modules=["0"], side_module_name="mlp")
    x = torch.linspace(-1, 1, 36, dtype=torch.float64).reshape(2, 3, 6)
    first, second = (
        (state[f"0.side_default.network.{i}.weight"], state[f"0.side_default.network.{i}.bias"]) for i in (0, 2)
    )
    inner = x @ first[0].T + first[1]
    side = (inner * 0.5 * (1 + torch.erf(inner / 2**0.5))) @ second[0].T + second[1]
    share = torch.sigmoid(state["0.side_default.gate"])
    base = F.linear(x, model.base_model[0].weight, model.base_model[0].bias)
    assert torch.allclose(model(x), share * base + (1 - share) * side, atol=1e-12)


def test_alexnet_gives_vectors_and_starts_half_and_half():
    class Vectors(ConvNet):
        def forward(self, images):
            return self.features(images).mean((2, 3))

    torch.manual_seed(0)
    config = SideConfig(dim=8, target_modules="0", side_module_name="alexnet")
    model = Swift.prepare_model(nn.Sequential(Vectors()), config).eval()
    side = model.base_model[0].side_default.network(IMAGES).mean((2, 3))
    assert torch.allclose(model(IMAGES), (Vectors()(IMAGES) + side) / 2, atol=1e-6)
    with pytest.raises(ConfigError, match="7 x 7"):
        model(IMAGES[..., :5, :5])


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("stem", {"dim": 9}, "gives 9 channels but its host 8"),
        ("head", {"dim": 4}, "fcn4 reads images"),
        ("head", {"dim": 4, "side_module_name": "mlp"}, "mlp reads hidden states"),
        ("stem", {"dim": 8, "source_hidden_pos": "pixels"}, "argument pixels"),
        ("stem", {"dim": 0}, "dim is 0"),
    ],
)
def test_what_cannot_be_is_a_sentence(target, options, message):
    with pytest.raises(ConfigError, match=message):
        Swift.prepare_model(ConvNet(), SideConfig(target_modules=target, **options))(IMAGES)


def test_unknown_networks_and_lists_of_modules_are_refused():
    with pytest.raises(UnknownNameError, match="fcn5") as caught:
        Swift.prepare_model(ConvNet(), SideConfig(dim=8, target_modules="stem", side_module_name="fcn5"))
    assert "fcn4" in str(caught.value)
    with pytest.raises(ConfigError, match="list of modules"):
        Swift.prepare_model(tiny_vit(), SideConfig(dim=32, target_modules=r"vit\.layers"))
    with pytest.raises(ConfigError, match="no tensor at 1"):
        Swift.prepare_model(tiny_vit(), SideConfig(dim=32, target_modules="vit", target_hidden_pos=1))(
            pixel_values=IMAGES
        )


def test_by_options_it_goes_beside_the_feed_forward_parts_of_a_language_model():
    host = HOSTS["lm"]
    model = Swift.prepare_model(host.make(), SideConfig.from_options(SftArguments(), host.make()))
    assert {key.split(".side")[0] for key in model.state_dict()} == {"model.layers.0.mlp", "model.layers.1.mlp"}
    assert torch.isfinite(run(model, host)).all()
