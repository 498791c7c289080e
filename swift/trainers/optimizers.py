"""The GaLore optimiser: any optimiser of single weights, run in the low-rank subspaces of their gradients."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from swift.errors import ConfigError, DataError
from swift.trainers.galore import GaLoreConfig, Subspace, project, project_back, projected_parameters, rounded_to_bf16

GALORE_OPTIMISERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "adamw_8bit", "adamw_bnb_8bit")


def create_galore_optimizer(
    model: nn.Module,
    config: GaLoreConfig,
    kind: Callable[..., Optimizer] = torch.optim.AdamW,
    *,
    weight_decay: float = 0.0,
    max_grad_norm: float = 0.0,
    **options: Any,
) -> GaLore:
    """An optimiser of all trainable parameters of `model`, those that `config` names projected, the others as they are.

    A training loop uses it as any other; with `optim_per_parameter` the weights change during `backward()`, and
    `step()` and `zero_grad()` find nothing left to do.

        optimizer = create_galore_optimizer(model, GaLoreConfig(rank=64), lr=1e-5)

    Args:
        model: what is trained.
        config: see `GaLoreConfig`.
        kind: the optimiser that runs in the subspaces and on all other parameters: a class, or what makes one of a
            list of parameters. It has to treat each parameter on its own and start from zero as from anywhere.
        weight_decay: decoupled, on all but vectors.
        max_grad_norm: with `optim_per_parameter`, the largest norm of each single gradient (one of all of them is
            never known then); 0 is without limit. Else the training loop clips.
        options: for `kind`, such as `lr`, `betas`, `eps`.

    Raises:
        ConfigError: values that mean nothing, or nothing to project.
        UnknownNameError: no module is named as the targets say.
    """
    config.check()
    projected = set(projected_parameters(model, config))
    rest = [p for p in model.parameters() if p.requires_grad and p not in projected]
    groups = [
        {"params": [p for p in model.parameters() if p in projected], "weight_decay": weight_decay, "galore": True},
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return GaLore([group for group in groups if group["params"]], config, kind, max_grad_norm, **options)


class GaLore(Optimizer):
    """See `create_galore_optimizer`, which makes one for a model.

    Each parameter has an optimiser of its own, which is given the projected gradient on a parameter of zeros; what it
    makes of that is the step to project back. Its state dict holds tensors, numbers and lists only, and going on from
    one is exact.

    Args:
        groups: parameter groups; those with `galore` true are projected.
        config: see `GaLoreConfig`.
        kind: makes the optimiser of one parameter.
        max_grad_norm: the largest norm of a gradient with `optim_per_parameter`; 0 is without limit.
        options: for `kind`.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        config: GaLoreConfig,
        kind: Callable[..., Optimizer] = torch.optim.AdamW,
        max_grad_norm: float = 0.0,
        **options: Any,
    ) -> None:
        self.config, self.kind, self.options, self.max_grad_norm = config, kind, options, max_grad_norm
        self._inner: dict[nn.Parameter, tuple[nn.Parameter, Optimizer]] = {}
        self._subspaces: dict[nn.Parameter, Subspace] = {}
        self._hooks: list[Any] = []
        self._norms: list[Tensor] = []
        super().__init__(groups, {**kind([nn.Parameter(torch.zeros(1))], **options).defaults, "galore": False})
        if config.optim_per_parameter:
            self.attach()

    def attach(self) -> None:
        """Update every parameter as soon as its gradient is there, until `detach`."""
        own = weakref.ref(self)

        def arrived(parameter: nn.Parameter, group: dict[str, Any], number: int) -> None:
            optimizer = own()
            if optimizer is not None:
                optimizer._take(parameter, group, number)

        if not self._hooks:
            for number, group, parameter in self._numbered():
                hook = lambda p, group=group, number=number: arrived(p, group, number)  # noqa: E731
                self._hooks.append(parameter.register_post_accumulate_grad_hook(hook))

    def detach(self) -> None:
        """Let gradients alone again, until `attach`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def take_norm(self) -> float:
        """The norm of all gradients that `optim_per_parameter` took since the last call, before clipping."""
        norms, self._norms = self._norms, []
        return torch.stack([norm.float().cpu() for norm in norms]).norm().item() if norms else 0.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group, parameter in self._numbered():
            if parameter.grad is not None:
                self._update(parameter, group, number)
        return loss

    @torch.no_grad()
    def _take(self, parameter: nn.Parameter, group: dict[str, Any], number: int) -> None:
        """Update with a gradient as it arrives and free it; one that is not finite moves nothing, its norm tells."""
        assert parameter.grad is not None
        norm = parameter.grad.norm()
        self._norms.append(norm)
        if math.isfinite(norm):
            if 0 < self.max_grad_norm < norm:
                parameter.grad.mul_(self.max_grad_norm / norm)
            self._update(parameter, group, number)
        parameter.grad = None

    def _update(self, parameter: nn.Parameter, group: dict[str, Any], number: int) -> None:
        target, inner = self._inner_of(parameter, group)
        settings = {name: value for name, value in group.items() if name not in ("params", "galore")}
        inner.param_groups[0].update(settings)
        if group["galore"]:
            inner.param_groups[0]["weight_decay"] = 0.0  # of the stand-in, which is zero
            self._update_projected(parameter, target, inner, group, number)
        else:
            inner.step()
        self._show(parameter)

    def _update_projected(
        self, parameter: nn.Parameter, stand_in: nn.Parameter, inner: Optimizer, group: dict[str, Any], number: int
    ) -> None:
        assert parameter.grad is not None
        gradient_MN = parameter.grad.to(stand_in.dtype)
        subspace = self._subspaces.setdefault(parameter, Subspace())
        left_MR, right_RN = subspace.bases(gradient_MN, self.config)
        low = project(gradient_MN, left_MR, right_RN)
        stand_in.data, stand_in.grad = torch.zeros_like(low), low
        inner.step()
        step_MN = project_back(stand_in.data, left_MR, right_RN).mul_(self.config.galore_scale)
        stand_in.data, stand_in.grad = stand_in.new_empty(0), None
        new_MN = parameter.to(step_MN.dtype).mul(1 - group["lr"] * group["weight_decay"]).add_(step_MN)
        if self.config.quantize and parameter.dtype == torch.bfloat16:
            new_MN = rounded_to_bf16(new_MN, seed=(number << 32) + subspace.step)
        parameter.copy_(new_MN)

    def _inner_of(self, parameter: nn.Parameter, group: dict[str, Any]) -> tuple[nn.Parameter, Optimizer]:
        if parameter not in self._inner:
            target = parameter
            if group["galore"]:
                dtype = torch.promote_types(torch.float32, parameter.dtype)
                target = nn.Parameter(torch.empty(0, dtype=dtype, device=parameter.device))
            self._inner[parameter] = target, self.kind([target], **self.options)
        return self._inner[parameter]

    def _show(self, parameter: nn.Parameter) -> None:
        """Let `state` hold what the parameter's own optimiser and subspace hold."""
        target, inner = self._inner[parameter]
        self.state[parameter] = {"inner": inner.state[target]}
        if parameter in self._subspaces:
            self.state[parameter]["subspace"] = vars(self._subspaces[parameter])

    def _numbered(self) -> list[tuple[int, dict[str, Any], nn.Parameter]]:
        pairs = [(group, parameter) for group in self.param_groups for parameter in group["params"]]
        return [(number, group, parameter) for number, (group, parameter) in enumerate(pairs)]

    def state_dict(self) -> dict[str, Any]:
        """The state by the number of each parameter, and the groups' settings."""
        numbers = {parameter: number for number, _, parameter in self._numbered()}
        groups = [{**group, "params": [numbers[p] for p in group["params"]]} for group in self.param_groups]
        state = {number: _copied(self.state[p]) for p, number in numbers.items() if p in self.state}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            DataError: it is of other parameters or of another configuration.
        """
        then, now = state_dict["param_groups"], self.state_dict()["param_groups"]
        if [(g["params"], g["galore"]) for g in then] != [(g["params"], g["galore"]) for g in now]:
            raise DataError("CKPT-01", "the optimiser's state is of other parameters, or of another --use_galore")
        for group, saved in zip(self.param_groups, then, strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
        self.state.clear()
        self._subspaces.clear()
        for number, group, parameter in self._numbered():
            if number in state_dict["state"]:
                self._load(parameter, group, state_dict["state"][number])

    def _load(self, parameter: nn.Parameter, group: dict[str, Any], saved: dict[str, Any]) -> None:
        inner = self._inner_of(parameter, group)[1]
        inner.load_state_dict({"state": {0: saved["inner"]}, "param_groups": inner.state_dict()["param_groups"]})
        if "subspace" in saved:
            self._subspaces[parameter] = Subspace(**_copied(saved["subspace"], parameter.device))
        self._show(parameter)


def _copied(value: Any, device: torch.device | None = None) -> Any:
    """`value` with dicts and lists of its own, and its tensors on `device`; None leaves them where they are."""
    if isinstance(value, dict):
        return {name: _copied(part, device) for name, part in value.items()}
    if isinstance(value, list):
        return [_copied(part, device) for part in value]
    return value.to(device) if isinstance(value, Tensor) and device is not None else value


def check_galore(config: GaLoreConfig, optim: str, accumulation: int, world_size: int, fp16: bool) -> None:
    """Make sure that a run can train so, before anything is loaded.

    Raises:
        ConfigError: an optimiser that cannot run in a subspace; `optim_per_parameter` with gradients that are not
            whole when they arrive: accumulated, of several processes, or scaled.
    """
    config.check()
    if optim not in GALORE_OPTIMISERS:
        raise ConfigError(
            "CONFIG-02",
            f"--optim {optim} does not work with --use_galore",
            fix=f"one of {', '.join(GALORE_OPTIMISERS)}",
        )
    if not config.optim_per_parameter:
        return
    for wrong, what, fix in (
        (accumulation > 1, f"--gradient_accumulation_steps {accumulation}", "--gradient_accumulation_steps 1"),
        (world_size > 1, f"{world_size} processes", "one process, or --galore_optim_per_parameter false"),
        (fp16, "fp16 training, which scales gradients", "--dtype bf16"),
    ):
        if wrong:
            raise ConfigError(
                "CONFIG-02",
                f"--galore_optim_per_parameter does not work with {what}",
                why="each weight is updated, and its gradient freed, as soon as there is one",
                fix=fix,
            )
