"""LoRA on chunks of a fused projection, against the dense equation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from swift.errors import ConfigError, DataError
from swift.tuners import LoRAConfig, LoraConfig, Swift
from tests.tuners.cases import HOSTS, run, stir, train

GPT2 = HOSTS["gpt2"]


class Fused(nn.Module):
    """One fused projection from 5 to 12 features."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Linear(5, 12) if kind == "linear" else Conv1D(12, 5)
        nn.init.normal_(self.qkv.bias)
        self.double()

    def forward(self, x):
        return self.qkv(x)


def fused(enable=(True, False, True), **options) -> LoRAConfig:
    return LoRAConfig(
        **{"r": 2, "lora_alpha": 3, "target_modules": ["qkv"], "use_merged_linear": True, "enable_lora": enable}
        | options
    )


def factors(model) -> tuple[torch.Tensor, torch.Tensor]:
    state = model.state_dict()
    return state["qkv.lora_A.default.weight"], state["qkv.lora_B.default.blocks"]


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize(
    "enable",
    [[True, False, True], [False, True, False], [True] * 3, [False, True], [True], [False, False, False, True]],
)
@pytest.mark.parametrize("rslora", [False, True])
def test_it_is_the_dense_equation_in_float64(kind, enable, rslora):
    model = Swift.prepare_model(Fused(kind), fused(enable, use_rslora=rslora)).double()
    inputs = torch.randn(2, 3, 5, dtype=torch.float64)
    base = Fused(kind)
    assert torch.equal(model(inputs), base(inputs))
    stir(model)
    first, blocks = factors(model)
    tuned, size = sum(enable), 12 // len(enable)
    assert first.shape == (2 * tuned, 5)
    assert blocks.shape == (size * tuned, 2)
    delta, place = torch.zeros(12, 5, dtype=torch.float64), 0
    for chunk, on in enumerate(enable):
        if on:
            down, up = first[2 * place : 2 * place + 2], blocks[size * place : size * (place + 1)]
            delta[size * chunk : size * (chunk + 1)] = 3 / (2**0.5 if rslora else 2) * up @ down
            place += 1
    expected = base(inputs) + inputs @ delta.T
    assert torch.allclose(model(inputs), expected, rtol=1e-14, atol=1e-14)
    before = {key: value.clone() for key, value in model.base_model.state_dict().items()}
    for _ in range(2):
        Swift.merge(model)
        Swift.merge(model)  # a second time adds nothing
        assert torch.allclose(model(inputs), expected, rtol=1e-14, atol=1e-14)
        assert torch.allclose(base.qkv(inputs), expected - inputs @ delta.T)
        Swift.unmerge(model)
        assert all(torch.equal(value, before[key]) for key, value in model.base_model.state_dict().items())
        assert torch.allclose(model(inputs), expected, rtol=1e-14, atol=1e-14)
    Swift.merge_and_unload(model)
    assert type(model.model.qkv) is type(base.qkv)
    assert torch.allclose(model.model(inputs), expected, rtol=1e-14, atol=1e-14)


def test_disabled_chunks_never_move():
    host, base = GPT2, GPT2.make()
    config = fused(target_modules=["c_attn"], lora_dropout=0.1)
    model = Swift.prepare_model(GPT2.make(), config)
    losses = train(model, host, 8)
    assert losses[-1] < losses[0]
    Swift.merge_and_unload(model)
    tuned, plain = model.model.transformer.h[0].attn.c_attn.weight, base.transformer.h[0].attn.c_attn.weight
    same = [torch.equal(a, b) for a, b in zip(tuned.chunk(3, 1), plain.chunk(3, 1), strict=True)]
    assert same == [False, True, False]


def test_it_lives_beside_plain_lora_in_one_layer(tmp_path):
    configs = {"fused": fused(target_modules=["c_attn"]), "plain": LoraConfig(r=2, target_modules=["c_attn"])}
    model = Swift.prepare_model(GPT2.make(), configs)
    stir(model)
    base, alone = run(GPT2.make(), GPT2), {}
    layer = model.base_model.transformer.h[0].attn.c_attn
    inputs = torch.randn(3, 32)
    outputs = {}
    for names in ([], ["fused"], ["plain"], ["fused", "plain"]):
        model.set_active_adapters(names)
        outputs[tuple(names)] = layer(inputs)
        alone[tuple(names)] = run(model, GPT2)
    assert torch.equal(alone[()], base)
    both = outputs["fused",] + outputs["plain",] - outputs[()]
    assert torch.allclose(outputs["fused", "plain"], both, atol=1e-5)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(Swift.from_pretrained(GPT2.make(), tmp_path), GPT2), alone["fused", "plain"])
    one = Swift.from_pretrained(GPT2.make(), tmp_path, {"fused": "other"}, is_trainable=True)
    assert torch.equal(run(one, GPT2), alone["fused",])


@pytest.mark.parametrize("init", [True, "gaussian", False])
def test_how_it_starts(init):
    torch.manual_seed(0)
    model = Swift.prepare_model(Fused("linear"), fused([True, True, True], r=64, init_lora_weights=init))
    first, blocks = factors(model)
    if init == "gaussian":
        assert first.std().item() == pytest.approx(1 / 64, rel=0.1)
    else:
        assert first.abs().max() <= 5**-0.5
    assert blocks.any() == (init is False)


def test_what_it_cannot_do_is_refused(tmp_path):
    base = Fused("linear")
    keys = set(base.state_dict())
    with pytest.raises(ConfigError, match="with 12 outputs does not fall into the 5"):
        Swift.prepare_model(base, fused([True] * 5))
    assert set(base.state_dict()) == keys, "a model that was refused is as it was"
    with pytest.raises(ConfigError, match="Embedding"):
        Swift.prepare_model(GPT2.make(), fused([True, False], target_modules=["wte"]))
    model = Swift.prepare_model(GPT2.make(), {name: fused(target_modules=["c_attn"]) for name in ("a", "b")})
    with pytest.raises(ConfigError, match="use_merged_linear"):
        model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "c")
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(DataError, match="use_merged_linear"):
        Swift.save_to_peft_format(tmp_path / "ours", tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()
