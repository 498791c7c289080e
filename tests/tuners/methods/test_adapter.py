"""The adapter against its equation, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from swift.errors import ConfigError, UnknownNameError
from swift.tuners import AdapterConfig, Swift
from swift.tuners.methods.adapter import Bottleneck
from tests.tuners.cases import HOSTS, run, stir


def test_it_is_its_equation():
    torch.manual_seed(0)
    branch = Bottleneck(5, 3, "gelu", 0, "forward").double()
    for parameter in branch.parameters():
        nn.init.normal_(parameter)
    hidden = torch.randn(2, 4, 5, dtype=torch.float64)
    small = hidden @ branch.down.weight.T + branch.down.bias
    small = small * 0.5 * (1 + torch.erf(small / 2**0.5))
    assert torch.allclose(branch(hidden), hidden + small @ branch.up.weight.T + branch.up.bias)
    assert branch.on


def test_it_edits_the_element_that_it_is_told():
    class Pair(nn.Module):
        def forward(self, hidden):
            return (hidden, hidden.clone())

    model = Swift.prepare_model(
        nn.Sequential(Pair()), AdapterConfig(dim=3, target_modules=["0"], hidden_pos=1, adapter_length=2)
    )
    nn.init.ones_(model.base_model[0].adapter_default.up.bias)
    first, second = model(torch.zeros(1, 3))
    assert torch.equal(first, torch.zeros(1, 3))
    assert torch.equal(second, torch.ones(1, 3))


def test_wrong_size_and_unknown_activation_are_sentences():
    model = Swift.prepare_model(nn.Sequential(nn.Linear(4, 4)), AdapterConfig(dim=3, target_modules=["0"]))
    with pytest.raises(ConfigError, match="size 3 but its host gives 4"):
        model(torch.zeros(1, 4))
    with pytest.raises(UnknownNameError, match="gelo") as caught:
        Swift.prepare_model(
            nn.Sequential(nn.Linear(4, 4)), AdapterConfig(dim=4, target_modules=["0"], act_layer="gelo")
        )
    assert "gelu" in str(caught.value.fix)


def test_it_goes_after_a_method_whose_arguments_are_counted():
    host = HOSTS["bert"]
    config = AdapterConfig(dim=32, target_modules=[".0", ".1"], method_name="feed_forward_chunk", adapter_length=4)
    model = Swift.prepare_model(host.make(), config)
    base = run(host.make(), host)
    assert torch.equal(run(model, host), base)
    stir(model)
    chunked = host.make()
    for layer in chunked.bert.encoder.layer:
        layer.chunk_size_feed_forward = 4
    chunked = Swift.prepare_model(chunked, config)
    chunked.load_state_dict(model.state_dict())
    assert not torch.allclose(run(model, host), base)
    assert torch.allclose(run(chunked, host), run(model, host), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapter_length": 0}, "adapter_length is 0"),
        ({"method_name": "forwards"}, "forward"),
        ({"hidden_pos": 3}, "at 3"),
    ],
)
def test_impossible_settings_are_sentences(options, message):
    class Pair(nn.Module):
        def forward(self, hidden):
            return (hidden, hidden)

    options = {"dim": 4, "target_modules": ["0"]} | options
    with pytest.raises((ConfigError, UnknownNameError)) as caught:
        Swift.prepare_model(nn.Sequential(Pair()), AdapterConfig(**options))(torch.zeros(1, 4))
    assert message in str(caught.value)
