"""SCEdit against its equations on skip connections, with and without hints, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from swift.errors import ConfigError, UnknownNameError
from swift.tuners import SCETuningConfig, Swift
from tests.tuners.cases import HOSTS, run, stir
from tests.tuners.vision import Unet

UP = r".*up_blocks\.\d\.resnets\.\d"
SKIPS = [16, 8, 8, 8]


def tuned(model, **options):
    model = Swift.prepare_model(model, SCETuningConfig(**options))
    stir(model)
    return model.eval()


def operation(branch, x_BCHW, hint=0):
    """x + W_up GELU(W_down (x + c) + b_down) + b_up over the channels of a map, by hand."""
    down, up, x = branch.op.down, branch.op.up, (x_BCHW + hint).movedim(1, -1)
    small = x @ down.weight.T + down.bias
    small = small * 0.5 * (1 + torch.erf(small / 2**0.5))
    return x_BCHW + (small @ up.weight.T + up.bias).movedim(-1, 1)


class Decoder(nn.Module):
    """Two convolutions that find a skip connection behind their own channels, and what gives hints for it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hint, self.other = nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.Conv2d(1, 3, 1)
        self.both, self.skip = Pair(), nn.Identity()
        self.up = nn.ModuleList([nn.Conv2d(5, 2, 3, padding=1), nn.Conv2d(5, 2, 3, padding=1)])

    def forward(self, main, skips, image):
        self.hint(image), self.other(image), self.both(image)
        for block, skip in zip(self.up, skips, strict=True):
            main = block(torch.cat((main, self.skip(skip)), 1))
        return main


class Pair(nn.Module):
    def forward(self, image):
        return [image.expand(-1, 3, -1, -1) * 2, image.expand(-1, 3, -1, -1) * 3]


def inputs():
    def wave(*shape):
        return torch.linspace(-2, 2, torch.Size(shape).numel(), dtype=torch.float64).sin().reshape(shape)

    return wave(2, 2, 4, 4), [wave(2, 3, 4, 4), wave(2, 3, 4, 4).cos()], wave(2, 1, 8, 8).cos()


def by_hand(model, hints=(0, 0)):
    """The decoder with its two skip connections edited."""
    main, skips, _ = inputs()
    for block, skip, hint in zip(model.base_model.up, skips, hints, strict=True):
        main = type(block)._conv_forward(
            block, torch.cat((main, operation(block.scetuning_default, skip, hint)), 1), block.weight, block.bias
        )
    return main


def test_a_skip_connection_is_edited_behind_the_decoders_own_channels():
    model = tuned(Decoder().double(), dims=3, target_modules=r"up\.\d", down_ratio=2.0)
    assert model.base_model.up[0].scetuning_default.op.down.weight.shape == (6, 3)
    assert torch.allclose(model(*inputs()), by_hand(model), atol=1e-12)


def half(x):
    """A map in half its size, by bilinear interpolation between the two middle pixels."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def test_a_condition_is_added_inside():
    image = inputs()[2]
    one = tuned(Decoder().double(), dims=3, target_modules=r"up\.\d", hint_modules="hint")
    hint = one.base_model.hint(image)
    assert torch.allclose(one(*inputs()), by_hand(one, (hint, hint)), atol=1e-12)
    two = tuned(Decoder().double(), dims=3, target_modules=r"up\.\d", hint_modules=["hint", "other"])
    other = half(two.base_model.other(image))
    assert torch.allclose(two(*inputs()), by_hand(two, (hint, other)), atol=1e-12)
    each = tuned(Decoder().double(), dims=3, target_modules=r"up\.\d", hint_modules="both")
    first, second = (half(map_) for map_ in each.base_model.both(image))
    assert torch.allclose(each(*inputs()), by_hand(each, (first, second)), atol=1e-12)
    again = copy.deepcopy(each)
    assert torch.equal(again(*inputs()), each(*inputs()))


def test_the_other_modes():
    main, skips, image = inputs()
    for mode in ("identity", "encoder"):
        model = tuned(Decoder().double(), dims=3, target_modules="skip", tuner_mode=mode)
        branch, base = model.base_model.skip.scetuning_default, Decoder().double()
        edited = [operation(branch, skip) for skip in skips]
        assert torch.allclose(model(main, skips, image), base(main, edited, image), atol=1e-12)
    model = tuned(Decoder().double(), dims=2, target_modules=r"up\.1", tuner_mode="encoder")
    expected = operation(model.base_model.up[1].scetuning_default, Decoder().double()(main, skips, image))
    assert torch.allclose(model(main, skips, image), expected, atol=1e-12)


def test_a_list_of_modules_is_its_last_member():
    model = tuned(Decoder(), dims=3, target_modules=["up"])
    assert {key.split(".scetuning")[0] for key in model.state_dict()} == {"up.1"}


def test_in_a_diffusion_model_it_starts_as_the_base_and_the_encoder_gets_no_gradient():
    host = HOSTS["unet"]
    model = Swift.prepare_model(Unet(), SCETuningConfig(dims=SKIPS, target_modules=UP))
    assert torch.equal(run(model, host), run(Unet(), host))
    seen = []
    model.base_model.unet.mid_block.register_forward_hook(lambda module, args, output: seen.append(output))
    stir(model)
    model.train()(**host.inputs)["loss"].backward()
    assert not seen[0].requires_grad
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 5}, "the 5 channels of a skip connection"),
        ({"dims": [3]}, "1 sizes for 2 modules"),
        ({"dims": [3, 0]}, "dims is 0"),
        ({"down_ratio": 0.0}, "down_ratio is 0"),
        ({"dims": 2, "hint_modules": "hint"}, "cannot be added to a skip connection"),
        ({"hint_modules": ["hint", "other", "skip"]}, "3 hint_modules for 2"),
        ({"hint_modules": r"up\.0", "target_modules": r"up\.0"}, "give the hint for itself"),
        ({"hint_modules": r"up\.1"}, "itself"),
        ({"dims": 2, "tuner_mode": "identity"}, "expects 2 channels and its host gives 5"),
    ],
)
def test_what_cannot_be_is_a_sentence(options, message):
    options = {"dims": 3, "target_modules": r"up\.\d"} | options
    with pytest.raises(ConfigError, match=message):
        tuned(Decoder().double(), **options)(*inputs())


def test_a_hint_has_to_come_first():
    model = tuned(Decoder().double(), dims=3, target_modules=r"up\.0", hint_modules=r"up\.1")
    with pytest.raises(ConfigError, match="has not run yet"):
        model(*inputs())


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"tuner_mode": "decoders"}, "decoder"),
        ({"tuner_op": "SCEAdaptor"}, "SCEAdapter"),
        ({"target_modules": "uq"}, "up"),
    ],
)
def test_unknown_names_bring_near_ones(options, near):
    with pytest.raises(UnknownNameError) as caught:
        tuned(Decoder(), **({"dims": 3, "target_modules": r"up\.\d"} | options))
    assert near in str(caught.value)
