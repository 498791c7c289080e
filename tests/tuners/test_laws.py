"""The laws that every tuner keeps: alone, in every state of a model's life. The rows are in cases.py."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from swift.errors import ConfigError
from swift.tuners import Swift
from tests.tuners.cases import HOSTS, METHODS, Host, loss_of, rows, run, stir, train, tuned


def law(**kwargs):
    return pytest.mark.parametrize(("host", "method"), rows(**kwargs))


def learns(row) -> bool:
    return row.learns


def in_bf16(host: Host) -> Host:
    inputs = {key: value.bfloat16() if value.is_floating_point() else value for key, value in host.inputs.items()}
    return replace(host, make=lambda: host.make().to(torch.bfloat16), inputs=inputs)


def differing(first: dict, second: dict) -> set[str]:
    """Keys that one alone has, or whose tensors are not equal."""
    return {key for key in {*first, *second} if key not in first or key not in second} | {
        key for key in {*first} & {*second} if not torch.equal(first[key], second[key])
    }


def copied(state: dict) -> dict:
    return {key: value.clone() for key, value in state.items()}


@law(everywhere=True)
def test_it_starts_where_the_paper_says(host, method):
    host, row = HOSTS[host], METHODS[method]
    start, base = run(tuned(host, method, None), host), run(host.make(), host)
    if row.at_start == 0:
        assert torch.equal(start, base)
    elif row.at_start is not None:
        assert torch.allclose(start, base, atol=row.at_start)
    else:
        assert start.shape == base.shape
        assert torch.isfinite(start).all()


@law(only=learns)
def test_only_its_own_parameters_move_and_the_loss_falls(host, method):
    host, rate = HOSTS[host], METHODS[method].rate
    model = tuned(host, method, None)
    before = copied(model.base_model.state_dict())
    own = set(model.owned("one"))
    trained = {key for key, parameter in model.base_model.named_parameters() if parameter.requires_grad}
    assert trained
    assert trained <= own
    losses = train(model, host, 6, rate)
    assert losses[-1] < losses[0]
    after = model.base_model.state_dict()
    assert differing(before, after) <= own
    assert differing(before, after) & trained


@law()
def test_saved_and_loaded_it_is_equal(host, method, tmp_path):
    host = HOSTS[host]
    model = tuned(host, method)
    before = run(model, host)
    for safe in (False, True):
        model.save_pretrained(tmp_path / str(safe), safe_serialization=safe)
        loaded = Swift.from_pretrained(host.make(), tmp_path / str(safe))
        assert torch.equal(run(loaded, host), before)
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        assert not loaded.training
    other = Swift.from_pretrained(host.make(), tmp_path / "False", adapter_name={"one": "lora"}, is_trainable=True)
    assert set(other.adapters) == other.active_adapters == {"lora"}
    assert torch.equal(run(other, host), before)
    assert {key for key, p in other.base_model.named_parameters() if p.requires_grad} <= set(other.owned("lora"))
    assert any(parameter.requires_grad for parameter in other.parameters()) == METHODS[method].learns


@law(everywhere=True)
def test_off_is_the_base_and_on_again_is_tuned(host, method):
    host, row = HOSTS[host], METHODS[method]
    model = tuned(host, method)
    on, base = run(model, host), run(host.make(), host)
    assert torch.allclose(on, base) is not row.learns
    model.deactivate_adapter("one")
    assert torch.equal(run(model, host), base)
    model.activate_adapter("one")
    assert torch.equal(run(model, host), on)
    model.set_active_adapters([])
    assert torch.equal(run(model, host), base)


@law()
def test_its_state_dict_holds_its_own_and_loads_back(host, method):
    host = HOSTS[host]
    model, fresh = tuned(host, method), tuned(host, method, 2)
    state = model.state_dict()
    own = {pattern.format("one"): key for key, pattern in model.owned("one").items()}
    assert set(state) == set(own)
    assert bool(state) is METHODS[method].saves
    base = host.make().state_dict()
    inside = model.base_model.state_dict()
    assert not any(torch.equal(inside[key], base[key]) for key in own.values() if key in base)
    fresh.load_state_dict(state)
    assert torch.equal(run(fresh, host), run(model, host))


@law()
def test_a_deep_copy_is_another_model(host, method):
    host, row = HOSTS[host], METHODS[method]
    model = tuned(host, method)
    before = run(model, host)
    twin = copy.deepcopy(model)
    assert torch.equal(run(twin, host), before)
    twin.set_active_adapters([])
    assert torch.equal(run(twin, host), run(host.make(), host))
    assert torch.equal(run(model, host), before)
    twin.set_active_adapters("one")
    stir(twin, 3)
    assert torch.allclose(run(twin, host), before) is not row.learns
    assert torch.equal(run(model, host), before)
    assert model.active_adapters == {"one"}


@law()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_sent_away_and_back_it_is_equal(host, method, dtype):
    host = HOSTS[host] if dtype == torch.float32 else in_bf16(HOSTS[host])
    for where in ("cpu", "meta"):
        model = tuned(host, method).to(dtype)
        base = run(host.make(), host)
        before, state = run(model, host), copied(model.state_dict())
        parameters = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
        model.deactivate_adapter("one", offload=where)
        model.deactivate_adapter("one", offload="meta")  # a second time changes nothing
        kept = model.base_model.state_dict()
        assert {kept[key].device.type for key in model.owned("one")} <= {where}
        assert torch.equal(run(model, host), base)
        assert not differing(model.state_dict(), state)
        model.activate_adapter("one")
        assert torch.equal(run(model, host), before)
        assert {id(p) for p in model.parameters() if p.requires_grad} == parameters


@law()
def test_one_serves_while_the_other_is_away(host, method):
    host = HOSTS[host]
    model = tuned(host, method)
    other = "lora" if method != "lora" else "adapter"
    model = tuned(host, other, 5, "other", model)
    together = run(model, host)
    for serving, away in (("one", "other"), ("other", "one")):
        model.set_active_adapters(serving)
        alone = run(model, host)
        model.set_active_adapters(serving, offload="meta")
        assert torch.equal(run(model, host), alone)
        assert all(value.device.type == "cpu" for value in model.state_dict(adapter_name=away).values())
    model.set_active_adapters(["one", "other"])
    assert torch.equal(run(model, host), together)


@law(only=learns)
def test_a_base_in_bf16_keeps_its_precision_and_learns(host, method):
    row, half = METHODS[method], in_bf16(HOSTS[host])
    model = tuned(half, method, None)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert run(model, half).dtype == torch.bfloat16
    losses = train(model, half, 10, row.rate)
    assert losses[-1] < losses[0]


@law(only=learns)
def test_gradients_reach_it_under_checkpointing(host, method):
    host = HOSTS[host]
    models = [tuned(host, method) for _ in range(3)]
    if not getattr(models[0], "supports_gradient_checkpointing", False):
        pytest.skip("the host has no gradient checkpointing")
    for model, reentrant in zip(models, (None, False, True), strict=True):
        if reentrant is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model.enable_input_require_grads()
        if reentrant is not None and not METHODS[method].recomputes:
            with pytest.raises(ConfigError, match="checkpointing"):
                loss_of(model.train(), host)
            return
        loss_of(model.train(), host).backward()
    wanted, *others = [{k: p.grad for k, p in m.named_parameters() if p.requires_grad} for m in models]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in wanted.values())
    for grads in others:
        assert all(torch.allclose(grad, wanted[key], atol=1e-5) for key, grad in grads.items())


@law(only=learns)
def test_it_runs_under_autocast(host, method):
    host = HOSTS[host]
    model = tuned(host, method, None).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss_of(model, host).backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)
    assert any(grad.abs().sum() > 0 for grad in grads)


@law(only=lambda row: row.merged is not None)
def test_merged_is_unmerged_and_back_again_is_the_base(host, method):
    host, row = HOSTS[host], METHODS[method]
    model = tuned(host, method)
    before, state = run(model, host), copied(model.base_model.state_dict())
    Swift.merge(model)
    Swift.merge(model)  # a second time adds nothing
    assert differing(model.base_model.state_dict(), state)
    assert torch.allclose(run(model, host), before, atol=row.merged)
    Swift.unmerge(model)
    assert not differing(model.base_model.state_dict(), state)
    assert torch.equal(run(model, host), before)
    model.deactivate_adapter("one")
    assert torch.equal(run(model, host), run(host.make(), host))
    model.activate_adapter("one")
    assert Swift.merge_and_unload(model) is None
    assert torch.allclose(run(model.model, host), before, atol=row.merged)
    assert set(model.model.state_dict()) == set(host.make().state_dict())
    assert not model.adapters
    assert not model.active_adapters


@law(only=lambda row: row.merged is not None)
def test_a_base_in_bf16_merges_and_comes_back_bit_for_bit(host, method):
    half = in_bf16(HOSTS[host])
    model = tuned(half, method)
    before, state = run(model, half), copied(model.base_model.state_dict())
    Swift.merge(model)
    scale = before.float().abs().max()
    assert (run(model, half).float() - before.float()).abs().max() < 0.05 * scale
    Swift.unmerge(model)
    assert not differing(model.base_model.state_dict(), state)
    assert torch.equal(run(model, half), before)


def compiled_rows() -> list:
    """Each method at home, and one on every host: compiling takes seconds. All but one in the slow tier."""
    unlike = rows(only=lambda row: not row.like)
    cases = [case for case in unlike if case.values[0] == METHODS[case.values[1]].home or case.values[1] == "lora"]
    return [
        pytest.param(*case.values, id=case.id, marks=[] if case.id == "lora-lm" else pytest.mark.slow) for case in cases
    ]


@pytest.mark.parametrize(("host", "method"), compiled_rows())
def test_compiled_it_is_equal_and_can_be_switched(host, method):
    host, row = HOSTS[host], METHODS[method]
    torch._dynamo.reset()
    model = tuned(host, method)
    on, base = run(model, host), run(host.make(), host)
    compiled = torch.compile(model, backend="eager")
    assert torch.allclose(run(compiled, host), on, atol=1e-6)
    model.set_active_adapters([])
    assert torch.allclose(run(compiled, host), base, atol=1e-6)
    model.set_active_adapters("one")
    assert torch.allclose(run(compiled, host), on, atol=1e-6)
    if row.learns:
        wanted = [p.grad for p in grads_of(tuned(host, method), host)]
        found = [p.grad for p in grads_of(compiled, host)]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))


def grads_of(model, host: Host) -> list:
    loss_of(model.train(), host).backward()
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@law()
def test_deleted_it_has_never_been_there(host, method):
    host = HOSTS[host]
    base = host.make()
    state, plain = set(base.state_dict()), run(base, host)
    model = tuned(host, method)
    other = None
    if METHODS[method].over and METHODS[method].slot != "embeddings":
        model = tuned(host, "adapter" if host is HOSTS["mlp"] else "lora", 2, "other", model)
        model.set_active_adapters("other")
        other = run(model, host)
        trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad and "other" in key}
    model.delete_adapter("one")
    assert "one" not in model.adapters
    if other is not None:
        assert model.active_adapters == {"other"}
        assert torch.equal(run(model, host), other)
        assert {key for key, parameter in model.named_parameters() if parameter.requires_grad} == trained
        model.delete_adapter("other")
    assert not model.adapters
    assert torch.equal(run(model, host), plain)
    assert set(model.base_model.state_dict()) == state
    assert {key for key, _ in model.base_model.named_parameters()} <= state
    again = tuned(host, method, None, model=model.base_model)
    assert torch.equal(run(again, host), run(tuned(host, method, None, model=host.make()), host))
