"""The laws of several tuners in one model: pairs of every two kinds, and more at once."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from swift.errors import ConfigError
from swift.tuners import AdapterConfig, IA3Config, LoraConfig, Swift, SwiftModel
from tests.tuners.cases import HOSTS, METHODS, Host, run, stir, tuned


def common(*methods: str) -> str | None:
    """A host on which all of these belong: the language model before others."""
    shared = [host for host in HOSTS if all(host in METHODS[method].hosts for method in methods)]
    return "lm" if "lm" in shared else next(iter(shared), None)


# The first is inside the second, and what one does to the text reaches only a part of where the other looks.
APART = [
    ("llamapro", "prefix"),  # new blocks find a cache that was filled without them, whoever came first
    ("prefix", "llamapro"),
    ("restuning", "prompt"),  # the chain begins inside the prompts and ends outside
    ("prompt_behind", "restuning"),  # and the other way round
]


def kind(method: str) -> object:
    """What two rows share that are one method with different options."""
    config = METHODS[method](HOSTS[METHODS[method].home])
    return vars(config).get("peft_type", type(config))


def go_together(first: str, second: str) -> bool:
    one, two = METHODS[first], METHODS[second]
    if (first, second) in APART:
        return False
    refused = first_merges_under(first, second) and not two.over
    return not refused and not (one.slot and one.slot == two.slot)


def first_merges_under(first: str, second: str) -> bool:
    return METHODS[first].peft and METHODS[first].merged is not None and kind(first) != kind(second)


def in_quick(first: str, second: str) -> bool:
    return first == second or first == "adapter" or second == "lora"


PAIRS = [
    pytest.param(common(*pair), *pair, id="-".join(pair), marks=[] if in_quick(*pair) else pytest.mark.slow)
    for pair in itertools.product(METHODS, METHODS)
    if common(*pair) and go_together(*pair) and (in_quick(*pair) or not any(METHODS[name].like for name in pair))
]


def both(host: Host, alone: dict[str, SwiftModel], *, at_once: bool) -> SwiftModel:
    """A fresh model with the adapters of those in `alone`, which have one each, in this order."""
    configs = {name: model.adapters[name] for name, model in alone.items()}
    steps = [configs] if at_once else [{name: config} for name, config in configs.items()]
    model = host.make()
    for step in steps:
        model = Swift.prepare_model(model, step)
    assert isinstance(model, SwiftModel)
    for name, source in alone.items():
        model.load_state_dict(source.state_dict(), adapter_name=name)
    return model


@pytest.mark.parametrize(("host", "first", "second"), PAIRS)
def test_two_live_in_one_model(host, first, second, tmp_path):
    host, learn = HOSTS[host], [METHODS[name].learns for name in (first, second)]
    alone = {"one": tuned(host, first, 1, "one"), "one0": tuned(host, second, 2, "one0")}
    outputs = {name: run(model, host) for name, model in alone.items()}
    model = both(host, alone, at_once=False)
    assert set(model.adapters) == model.active_adapters == set(alone)
    together = run(model, host)
    assert torch.isfinite(together).all()
    if not (METHODS[first].hides or METHODS[second].hides):
        assert torch.allclose(together, outputs["one"]) is not learn[1]
        assert torch.allclose(together, outputs["one0"]) is not learn[0]
    assert torch.equal(run(both(host, alone, at_once=True), host), together)
    for name, expected in outputs.items():
        model.set_active_adapters(name)
        assert torch.equal(run(model, host), expected)
    model.set_active_adapters([])
    assert torch.equal(run(model, host), run(host.make(), host))
    model.set_active_adapters(["one0", "one"])  # the order is that in which they were added
    assert torch.equal(run(model, host), together)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(Swift.from_pretrained(host.make(), tmp_path), host), together)
    only = Swift.from_pretrained(host.make(), tmp_path, "one0")
    assert torch.equal(run(only, host), outputs["one0"])


def merges(method: str) -> bool:
    return METHODS[method].merged is not None


def nest(first: str, second: str) -> bool:
    """Whether one of the two can be merged, and the other then works on it: so it is but for some of PEFT's kinds."""
    return (merges(first) or merges(second)) and (
        kind(first) != kind(second) or all(METHODS[name].nests for name in (first, second))
    )


@pytest.mark.parametrize(("host", "first", "second"), [pair for pair in PAIRS if nest(*pair.values[1:])])
def test_two_are_the_outer_one_on_the_inner_one(host, first, second):
    """The inner one, merged into a base of its own, is the base of the outer one. A branch is always outside."""
    host = HOSTS[host]
    alone = {"one": tuned(host, first, 1, "one"), "two": tuned(host, second, 2, "two")}
    together = run(both(host, alone, at_once=True), host)
    inner, outer = ("one", "two") if merges(first) else ("two", "one")
    base = copy.deepcopy(alone[inner])
    Swift.merge_and_unload(base)
    nested = both(replace(host, make=lambda: base.model), {outer: alone[outer]}, at_once=True)
    assert torch.allclose(run(nested, host), together, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("host", "first", "second"), [pair for pair in PAIRS if all(map(merges, pair.values[1:]))])
def test_two_merged_are_two_unmerged(host, first, second):
    host = HOSTS[host]
    alone = {"one": tuned(host, first, 1, "one"), "two": tuned(host, second, 2, "two")}
    model = both(host, alone, at_once=True)
    before = run(model, host)
    Swift.merge(model)
    assert torch.allclose(run(model, host), before, atol=2e-3, rtol=1e-3)
    Swift.unmerge(model)
    assert torch.equal(run(model, host), before)


def test_the_composition_by_hand():
    """IA3 scales what LoRA on the same layer gives out, and two adapters come after, in their order."""
    host = HOSTS["mlp"]
    configs = {
        "lora": LoraConfig(r=4, lora_alpha=8, target_modules=["second"]),
        "late": AdapterConfig(dim=8, target_modules=["second"], adapter_length=6),
        "ia3": IA3Config(target_modules=["second"], feedforward_modules=[]),
        "later": AdapterConfig(dim=8, target_modules=["second"], adapter_length=3, act_layer="relu"),
    }
    model = host.make()
    for name, config in configs.items():
        model = Swift.prepare_model(model, {name: config})
    stir(model)
    value = {key: tensor.double() for key, tensor in model.base_model.state_dict().items()}
    base = host.make().double()
    x = torch.tanh(base.first(host.inputs["inputs"].double()))

    def own(name: str, leaf: str) -> torch.Tensor:
        (key,) = [key for key in model.owned(name) if leaf in key]
        return value[key]

    h = base.second(x) + 2 * x @ own("lora", "lora_A").T @ own("lora", "lora_B").T
    h = h * own("ia3", "ia3").flatten()
    for name, act in (("late", functional.gelu), ("later", functional.relu)):
        down = act(h @ own(name, "down.weight").T + own(name, "down.bias"))
        h = h + down @ own(name, "up.weight").T + own(name, "up.bias")
    expected = base.head(torch.tanh(h))
    assert torch.allclose(run(model, host).double(), expected, atol=1e-5)


@pytest.mark.parametrize("hiding", [False, True])
def test_all_that_belong_on_one_host_at_once(hiding, tmp_path):
    host = HOSTS["lm"]
    slots = {row.slot or name: name for name, row in METHODS.items() if "lm" in row.hosts}
    names = [name for name in slots.values() if METHODS[name].hides <= hiding]
    methods = sorted(names, key=lambda name: (METHODS[name].over, name))  # those first that have to be
    assert not [pair for pair in itertools.combinations(methods, 2) if pair in APART]
    alone = {f"a{place}": tuned(host, name, place, f"a{place}") for place, name in enumerate(methods)}
    model = both(host, alone, at_once=True)
    together = run(model, host)
    assert torch.isfinite(together).all()
    model.save_pretrained(tmp_path, safe_serialization=True)
    assert torch.equal(run(Swift.from_pretrained(host.make(), tmp_path), host), together)
    twin = copy.deepcopy(model)
    for name, source in alone.items():
        twin.set_active_adapters(name, offload="meta")
        assert torch.equal(run(twin, host), run(source, host))
    twin.set_active_adapters([])
    assert torch.equal(run(twin, host), run(host.make(), host))
    twin.set_active_adapters(list(alone))
    assert torch.equal(run(twin, host), together)
    assert torch.equal(run(model, host), together)


@pytest.mark.parametrize("pair", APART)
def test_those_that_stay_apart_say_so(pair):
    host = HOSTS[common(*pair) or ""]
    model = tuned(host, pair[1], 2, "two", tuned(host, pair[0]))
    with pytest.raises(ConfigError):
        run(model, host)


def test_one_that_cannot_be_over_another_says_so():
    host = HOSTS["lm"]
    model = tuned(host, "vera")
    before, keys = run(model, host), set(model.base_model.state_dict())
    with pytest.raises(ConfigError, match="add 'two' first"):
        Swift.prepare_model(model, {"two": METHODS["dora"](host)})
    assert set(model.base_model.state_dict()) == keys
    assert torch.equal(run(model, host), before)


def test_merging_one_leaves_the_others(tmp_path):
    host = HOSTS["lm"]
    adapter = AdapterConfig(dim=host.dim, target_modules=[host.wide], adapter_length=6)
    model = Swift.prepare_model(host.make(), {"adapter": adapter, "lora": LoraConfig(r=2, target_modules=host.linears)})
    stir(model)
    before = run(model, host)
    Swift.merge_and_unload(model)
    assert set(model.adapters) == model.active_adapters == {"adapter"}
    assert torch.allclose(run(model, host), before, atol=1e-5)
    model.set_active_adapters([])
    assert not torch.allclose(run(model, host), before, atol=1e-3)
