"""The contract: what a new method has to bring, and what it gets for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from swift.tuners import LoraConfig, Swift, SwiftConfig, methods
from swift.tuners.branch import Active, Branch, attach, hosts, matches
from swift.tuners.config import find_kind
from tests.tuners.cases import HOSTS, run, stir
from tests.tuners.test_facade import lora

LM = HOSTS["lm"]


class Shift(Branch):
    """Adds a vector to what its host is given."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(dim))

    def before(self, args, kwargs):
        return (args[0] + self.vector, *args[1:]), kwargs


@dataclass(kw_only=True)
class ShiftConfig(SwiftConfig):
    kind: ClassVar[str] = "shift"

    dim: int

    def branch(self, host: nn.Module) -> Shift:
        return Shift(self.dim)


def test_a_config_and_a_branch_make_a_method(tmp_path):
    configs = {"s": ShiftConfig(target_modules=["mlp"], dim=32), "l": LoraConfig(r=2, target_modules=["up_proj"])}
    model = Swift.prepare_model(LM.make(), configs)
    assert torch.equal(run(model, LM), run(LM.make(), LM))
    stir(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path), LM), run(model, LM))
    mlp, inputs = model.base_model.model.layers[0].mlp, torch.randn(3, 32)
    shifted = mlp(inputs)
    model.deactivate_adapter("s")
    assert torch.equal(mlp(inputs + mlp.shift_s.vector), shifted)


class Witness(Branch):
    """Writes down what it sees, and adds to it on both sides of its host."""

    def __init__(self, seen: list, method: str = "forward") -> None:
        super().__init__()
        self.seen, self.method = seen, method

    def before(self, args, kwargs):
        self.seen.append(("before", self.adapter, args, dict(kwargs)))
        return (*args, self.adapter), kwargs | {self.adapter: len(kwargs)}

    def after(self, args, kwargs, output):
        self.seen.append(("after", self.adapter, args, dict(kwargs)))
        return [*output, self.adapter]


class Echo(nn.Module):
    """Returns the names that it is given."""

    def forward(self, *names, **numbers):
        return [*names, *numbers]

    def other(self, *names, **numbers):
        return [*names, *numbers]


@pytest.mark.parametrize("method", ["forward", "other"])
def test_branches_of_one_host_nest_in_the_order_of_adding(method):
    host, seen, active = Echo(), [], Active()
    for name in ("a", "b", "c"):
        branch = Witness(seen, method)
        branch.adapter, branch.active = name, active
        attach(host, f"witness_{name}", branch)
    call = host if method == "forward" else host.other
    active.names = ["c", "a", "b"]  # their order is no matter
    assert call() == ["c", "b", "a", "c", "b", "a", "a", "b", "c"]
    handed = {"c": (("c",), {"c": 0}), "b": (("c", "b"), {"c": 0, "b": 1})}
    assert seen[:3] == [("before", "c", (), {}), ("before", "b", *handed["c"]), ("before", "a", *handed["b"])]
    assert seen[3:] == [
        ("after", "a", ("c", "b", "a"), {"c": 0, "b": 1, "a": 2}),
        ("after", "b", *handed["b"]),
        ("after", "c", *handed["c"]),
    ]
    active.names = ["b"]
    assert call() == ["b", "b", "b"]
    active.names = []
    assert call("x") == ["x"]


NEW_METHOD = """
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from swift.tuners.branch import Branch
from swift.tuners.config import SwiftConfig


class Scale(Branch):
    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def after(self, args, kwargs, output):
        return output * self.scale


@dataclass(kw_only=True)
class ScaleConfig(SwiftConfig):
    kind: ClassVar[str] = "scale_of_a_test"
    dim: int

    def branch(self, host):
        return Scale(self.dim)
"""


def test_one_file_makes_a_method(tmp_path, monkeypatch):
    (tmp_path / "scale_of_a_test.py").write_text(NEW_METHOD)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.setattr(SwiftConfig, "kinds", dict(SwiftConfig.kinds))
    assert "scale_of_a_test" in methods.method_names()
    config_class = find_kind("SCALE_OF_A_TEST")
    model = Swift.prepare_model(LM.make(), {"s": config_class(target_modules=["mlp"], dim=32), "l": lora()})
    stir(model)
    model.save_pretrained(tmp_path / "out")
    loaded = Swift.from_pretrained(LM.make(), tmp_path / "out")
    assert type(loaded.adapters["s"]) is config_class
    assert torch.equal(run(loaded, LM), run(model, LM))


def test_one_line_of_the_stub_makes_it_public():
    stub = Path(methods.__file__).parents[1] / "__init__.pyi"
    own = {name for name in methods.method_names() if f"from swift.tuners.methods.{name} import" in stub.read_text()}
    lines = [line for line in stub.read_text().splitlines() if "swift.tuners.methods." in line]
    assert own == set(methods.method_names())
    assert len(lines) == len(own)


def test_a_target_is_an_ending_or_a_whole_pattern():
    assert matches(["proj"], "layers.0.q_proj")
    assert not matches(["proj"], "layers.0.q_proj.base")
    assert matches(r"layers\.\d+\.q_proj", "layers.11.q_proj")
    assert not matches(r"q_proj", "layers.11.q_proj")


def test_the_inside_of_tuners_is_no_target():
    model = Swift.prepare_model(LM.make(), {"s": ShiftConfig(target_modules=["q_proj"], dim=32)})
    model = Swift.prepare_model(model, {"l": LoraConfig(r=2, target_modules="all-linear")})
    assert not any(".shift_s.lora" in key for key in model.base_model.state_dict())
    assert "model.layers.0.self_attn.q_proj.shift_s.vector" in model.owned("s")
    assert all("lora" not in path and "base_layer" not in path for path, _ in hosts(model.base_model, ".*_proj.*"))


def test_active_is_a_list_of_names():
    active = Active()
    assert not active
    active.names = ["a", "b"]
    assert (list(active), active[0], active[1:], len(active)) == (["a", "b"], "a", ["b"], 2)
    assert "a" in active
    assert "c" not in active
    with pytest.raises(IndexError):
        active[2]
