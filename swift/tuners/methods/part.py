"""Part: trained copies of whole sub-modules, switched like any adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.tuners.branch import COPIES, Active, Branch, hosts, outside
from swift.tuners.config import SwiftConfig, place
from swift.tuners.layers import bare, copies_on, own_parameters, put, read_as
from swift.tuners.targets import find_targets


class Copies(Branch):
    """A trained copy of each parameter that a module itself holds, under the same name."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        for key, parameter in own_parameters(owner).items():
            self.register_parameter(key, nn.Parameter(parameter.detach().clone()))


def current(owner: nn.Module, key: str) -> Tensor:
    """What `owner` computes with in place of its parameter W: W + sum over the active copies of (W' - W).

    That is the copy itself where one is active, and W where none is.
    """
    base: Any = vars(owner)["_parameters"][key]
    copies = copies_on(owner)
    if not copies:
        return base
    value: Any = vars(copies[0])["_parameters"][key]
    for branch in copies[1:]:
        value = value + (vars(branch)["_parameters"][key] - base)
    return value.to(base.dtype)


def overlay(owner: nn.Module, branch: Copies) -> None:
    """Let `owner` compute with the copies in `branch` while it is on."""
    if COPIES not in vars(owner):
        vars(owner)[COPIES] = []  # an attribute, so that a deep copy of a model computes with its own
        read_as(owner, current)
    vars(owner)[COPIES].append(branch)


@dataclass(kw_only=True)
class PartConfig(SwiftConfig):
    """A trained copy of sub-modules: y = f(x; W') with W' = W at the start, for every parameter W in them.

    With several such adapters active on one module it computes with W + sum_i (W'_i - W), which for one is its copy.
    LoRA on the same module adds to that, and cannot be merged meanwhile.

    Saved: the copies, under the names of the originals with the adapter's name before the last part:
        `lm_head.part_default.weight`.
    Cost: as many parameters as the sub-modules have, in float32 where the model is half; no time beyond their own.

    Args:
        target_modules: the sub-modules, with all that is inside them.
    """

    kind: ClassVar[str] = "part"

    def inject(self, model: nn.Module, name: str, active: Active) -> None:
        """Copy the parameters of the targets.

        Raises:
            UnknownNameError: no module is named as the targets say.
            ConfigError: a target has no parameters, or quantised ones.
        """
        found: dict[int, nn.Module] = {}
        for path, host in hosts(model, self.target_modules):
            inside = [module for _, module in outside(host) if own_parameters(bare(module))]
            if not inside:
                raise ConfigError(
                    "CONFIG-02",
                    f"target {path!r} has no parameters to train",
                    fix="a module with weights, such as ['lm_head']",
                )
            found |= {id(module): module for module in inside}
        for host in found.values():
            owner = bare(host)
            if not all(parameter.dtype.is_floating_point for parameter in own_parameters(owner).values()):
                raise ConfigError(
                    "CONFIG-02",
                    f"the weights of {type(owner).__name__} are quantised: no copy can train",
                    fix="load the model without quantization, or use LoRA",
                )
        for host in found.values():
            owner = bare(host)
            branch = Copies(owner).to(**place(owner))
            put(host, f"{self.kind}_{name}", branch, name, active)
            overlay(owner, branch)

    @classmethod
    def from_options(cls, args: SftArguments, model: Any, default_targets: Sequence[str] = ()) -> PartConfig:
        """Copies of the modules that `lora_target_modules` names."""
        return cls(target_modules=find_targets(model, args.lora_target_modules, default_targets))
