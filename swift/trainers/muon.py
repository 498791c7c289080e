"""Optimisers by name beyond transformers' list, and the packages that those of its list need."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers.training_args import OptimizerNames

from swift.errors import MissingPackageError
from swift.registry import unknown

MUON, ADAM_MINI = "muon", "adam_mini"
OWN = (MUON, ADAM_MINI)
OLD_OPTIMISERS = {"adamw_hf": "adamw_torch"}
PACKAGES = {
    ADAM_MINI: ("adam_mini", "adam-mini"),
    "apollo": ("apollo_torch", "apollo-torch"),
    "galore": ("galore_torch", "galore-torch"),
    "lomo": ("lomo_optim", "lomo-optim"),
    "adalomo": ("lomo_optim", "lomo-optim"),
    "grokadamw": ("grokadamw", "grokadamw"),
    "schedule_free": ("schedulefree", "schedulefree"),
    "stable_adamw": ("optimi", "torch-optimi"),
    "adamw_torch_4bit": ("torchao", "torchao"),
    "adamw_torch_8bit": ("torchao", "torchao"),
    "adamw_anyprecision": ("torchdistx", "torchdistx"),
}
"""How names of optimisers begin, with the module and the package that they are of."""


def check_optimiser(name: str) -> None:
    """Make sure that an optimiser can be had, before anything is loaded.

    Raises:
        UnknownNameError: no optimiser is called so.
        MissingPackageError: it is of a package that is not installed.
    """
    names = [*OLD_OPTIMISERS, *OWN, *(one.value for one in OptimizerNames)]
    if name not in names:
        raise unknown("optimiser", name, names)
    for start, (module, package) in PACKAGES.items():
        if name.startswith(start) and find_spec(module) is None:
            fix = f"pip install {package}" + (", or --use_galore true" if start == "galore" else "")
            raise MissingPackageError("PACKAGE-01", f"--optim {name} needs the package {package}", fix=fix)
    bits = name.endswith(("8bit", "32bit")) or "_bnb" in name or name.startswith(("ademamix", "lion", "paged"))
    if bits and not name.startswith("adamw_torch") and find_spec("bitsandbytes") is None:
        fix = "pip install bitsandbytes"
        raise MissingPackageError("PACKAGE-01", f"--optim {name} needs the package bitsandbytes", fix=fix)


class Muon(Optimizer):
    """Muon for the matrices of a model's layers, AdamW for vectors, embeddings and the head.

    An update of Muon is the momentum with its singular values made equal, scaled so that learning rates of AdamW fit.

    Paper: Muon is Scalable for LLM Training, https://arxiv.org/abs/2502.16982, section 2.2.
    Cost: one number beside each entry of a matrix, where AdamW has two.

    Args:
        model: what is trained; LoRA's factors are matrices too.
        lr: of both.
        weight_decay: decoupled, on all but vectors.
        betas: AdamW's.
        eps: AdamW's.
    """

    def __init__(
        self, model: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float], eps: float
    ) -> None:
        tables = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
        tables |= {id(p) for name, p in model.named_parameters() if name.split(".")[-2:-1] == ["lm_head"]}
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in tables]
        chosen = {id(p) for p in matrices}
        rest = [p for p in trained if id(p) not in chosen]
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.parts: list[Optimizer] = []
        if matrices:
            decay = {"weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
            self.parts.append(torch.optim.Muon(matrices, lr=lr, **decay))
        if rest:
            self.parts.append(torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=eps))
        super().__init__([group for part in self.parts for group in part.param_groups], {"lr": lr})
        self._share()

    def _share(self) -> None:
        """Let the two have the settings and the state that this one has."""
        start = 0
        for part in self.parts:
            count = len(part.param_groups)
            part.param_groups, part.state = self.param_groups[start : start + count], self.state
            start += count

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()
