"""The laws that every tuner keeps on every host."""

from __future__ import annotations

import copy

import pytest
import torch

from swift.tuners import AdapterConfig, LoraConfig, Swift, SwiftModel
from tests.tuners.cases import HOSTS, METHODS, Host, run, stir, train


@pytest.fixture(params=HOSTS)
def host(request) -> Host:
    return HOSTS[request.param]


@pytest.fixture(params=METHODS)
def method(request) -> str:
    return request.param


def tuned(host: Host, method: str, seed: int | None = 1) -> SwiftModel:
    model = Swift.prepare_model(host.make(), {"one": METHODS[method](host)})
    assert isinstance(model, SwiftModel)
    if seed is not None:
        stir(model, seed)
    return model


def test_is_the_base_at_the_start(host, method):
    assert torch.equal(run(tuned(host, method, None), host), run(host.make(), host))


def test_only_its_own_parameters_move(host, method):
    model = tuned(host, method, None)
    before = {key: value.clone() for key, value in model.base_model.state_dict().items()}
    own = set(model.owned("one"))
    assert {key for key, p in model.base_model.named_parameters() if p.requires_grad} == own
    losses = train(model, host)
    assert losses[-1] < losses[0]
    after = model.base_model.state_dict()
    assert {key for key in before if not torch.equal(before[key], after[key])} <= own
    assert any(not torch.equal(before[key], after[key]) for key in own)


@pytest.mark.parametrize("safe", [False, True])
def test_saved_and_loaded_it_is_equal(host, method, safe, tmp_path):
    model = tuned(host, method)
    model.save_pretrained(tmp_path, safe_serialization=safe)
    loaded = Swift.from_pretrained(host.make(), tmp_path)
    assert torch.equal(run(loaded, host), run(model, host))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_loaded_under_another_name_it_is_equal(host, method, tmp_path):
    model = tuned(host, method)
    model.save_pretrained(tmp_path)
    loaded = Swift.from_pretrained(host.make(), tmp_path, adapter_name={"one": "two"}, is_trainable=True)
    assert set(loaded.adapters) == loaded.active_adapters == {"two"}
    assert torch.equal(run(loaded, host), run(model, host))
    assert {key for key, p in loaded.base_model.named_parameters() if p.requires_grad} == set(loaded.owned("two"))


def test_state_dict_holds_its_own_and_loads_back(host, method):
    model, fresh = tuned(host, method), tuned(host, method, 2)
    state = model.state_dict()
    assert set(state) == set(model.owned("one"))
    fresh.load_state_dict(state)
    assert torch.equal(run(fresh, host), run(model, host))


def test_off_is_the_base_and_on_again_is_tuned(host, method):
    model = tuned(host, method)
    on, base = run(model, host), run(host.make(), host)
    assert not torch.allclose(on, base)
    model.deactivate_adapter("one")
    assert torch.equal(run(model, host), base)
    model.activate_adapter("one")
    assert torch.equal(run(model, host), on)
    model.set_active_adapters([])
    assert torch.equal(run(model, host), base)


@pytest.mark.parametrize("other", METHODS)
@pytest.mark.parametrize("at_once", [True, False])
def test_two_live_in_one_model(host, method, other, at_once, tmp_path):
    alone = tuned(host, method)
    configs = {"one": METHODS[method](host), "one0": METHODS[other](host)}
    if at_once:
        model = Swift.prepare_model(host.make(), configs)
    else:
        model = Swift.prepare_model(host.make(), {"one": configs["one"]})
        model = Swift.prepare_model(model, {"one0": configs["one0"]})
    model.load_state_dict(alone.state_dict(), adapter_name="one")
    assert torch.equal(run(model, host), run(alone, host))  # the second is still the base
    second = tuned(host, other, 2)
    model.load_state_dict(
        {pattern.format("one0"): second.base_model.state_dict()[key] for key, pattern in second.owned("one").items()},
        adapter_name="one0",
    )
    both = run(model, host)
    assert not torch.allclose(both, run(alone, host))
    for name, expected in (("one", alone), ("one0", second)):
        model.set_active_adapters(name)
        assert torch.equal(run(model, host), run(expected, host))
    model.set_active_adapters(["one", "one0"])
    assert torch.equal(run(model, host), both)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(Swift.from_pretrained(host.make(), tmp_path), host), both)


def test_a_deep_copy_is_another_model(host, method):
    model = tuned(host, method)
    before = run(model, host)
    twin = copy.deepcopy(model)
    assert torch.equal(run(twin, host), before)
    twin.set_active_adapters([])
    assert torch.equal(run(twin, host), run(host.make(), host))
    twin.set_active_adapters("one")
    stir(twin, 3)
    assert not torch.allclose(run(twin, host), before)
    assert torch.equal(run(model, host), before)
    assert model.active_adapters == {"one"}


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_sent_away_and_back_it_is_equal(host, method, where):
    model = tuned(host, method)
    before, state = run(model, host), {key: value.clone() for key, value in model.state_dict().items()}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.deactivate_adapter("one", offload=where)
    model.deactivate_adapter("one", offload="meta")
    kept = model.base_model.state_dict()
    assert {kept[key].device.type for key in model.owned("one")} == {where}
    assert torch.equal(run(model, host), run(host.make(), host))
    away = model.state_dict()
    assert all(torch.equal(away[key], state[key]) for key in state)
    model.activate_adapter("one")
    assert torch.equal(run(model, host), before)
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in parameters}


def test_one_serves_while_the_other_is_away(host, method):
    alone = tuned(host, method)
    model = Swift.prepare_model(host.make(), {"one": METHODS[method](host), "other": METHODS["adapter"](host)})
    stir(model, 5)
    both = run(model, host)
    model.load_state_dict(alone.state_dict(), adapter_name="one")
    model.set_active_adapters("one", offload="meta")
    assert torch.equal(run(model, host), run(alone, host))
    model.set_active_adapters(["one", "other"])
    assert not torch.equal(run(model, host), both)


def test_bf16_base_keeps_its_precision(host, method):
    model = Swift.prepare_model(host.make().to(torch.bfloat16), {"one": METHODS[method](host)})
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    half = Host(host.make, {k: v.bfloat16() if v.is_floating_point() else v for k, v in host.inputs.items()}, [], "", 0)
    assert run(model, half).dtype == torch.bfloat16
    losses = train(model, half, 8)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_reach_it_under_checkpointing(method, reentrant):
    host = HOSTS["lm"]
    plain, saving = tuned(host, method), tuned(host, method)
    saving.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    saving.enable_input_require_grads()
    for model in (plain, saving):
        model.train()
        model(**host.inputs)["loss"].backward()
    pairs = zip(plain.parameters(), saving.parameters(), strict=True)
    own = [(a.grad, b.grad) for a, b in pairs if a.requires_grad]
    assert all(a is not None and b is not None and torch.allclose(a, b, atol=1e-6) for a, b in own)


def test_runs_under_autocast(host, method):
    model = tuned(host, method, None).train()
    with torch.autocast("cpu", torch.bfloat16):
        model(**host.inputs)["loss"].backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_merged_is_unmerged(host, kind):
    model = tuned(host, kind)
    before = run(model, host)
    Swift.merge(model)
    Swift.merge(model)  # a second time adds nothing
    assert torch.allclose(run(model, host), before, atol=1e-5)
    Swift.unmerge(model)
    assert torch.allclose(run(model, host), before, atol=1e-5)
    assert Swift.merge_and_unload(model) is None
    assert torch.allclose(run(model.model, host), before, atol=1e-5)
    assert set(model.model.state_dict()) == set(host.make().state_dict())
    assert not model.adapters
    assert not model.active_adapters


def test_merging_lora_leaves_the_adapter(host, tmp_path):
    adapter = AdapterConfig(dim=host.dim, target_modules=[host.wide], adapter_length=6)
    lora = LoraConfig(r=2, target_modules=host.linears)
    model = Swift.prepare_model(host.make(), {"adapter": adapter, "lora": lora})
    stir(model)
    before = run(model, host)
    Swift.merge_and_unload(model)
    assert set(model.adapters) == model.active_adapters == {"adapter"}
    assert torch.allclose(run(model, host), before, atol=1e-5)
    model.set_active_adapters([])
    assert not torch.allclose(run(model, host), before, atol=1e-3)
