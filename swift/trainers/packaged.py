"""Optimisers of other packages, made to fit: APOLLO and Adam-mini."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers.training_args import OptimizerNames

from swift.errors import ConfigError
from swift.trainers.arguments import OwnTrainingArguments
from swift.trainers.galore import GaLoreConfig, projected_parameters
from swift.tuners.layers import text_config

APOLLO = OptimizerNames.APOLLO_ADAMW.value
MOVING = ("ortho_matrix", "seed", "svd_count")
SETTINGS: dict[str, Any] = {
    "rank": 128,
    "proj": "random",
    "scale_type": "channel",
    "update_proj_gap": 200,
    "scale": 1.0,
    "proj_type": "std",
}
"""APOLLO's, which `--training_options optim_args=rank=1,scale_type=tensor` changes: so it is APOLLO-Mini."""


def apollo(args: OwnTrainingArguments, model: nn.Module) -> Optimizer:
    """APOLLO: AdamW whose moments are kept for a random projection of each matrix's gradient, and scale the gradient.

    Matrices are those of the linear layers but the head, or those that `optim_target_modules` names; the rest has
    AdamW. What the package keeps as an object is kept as numbers, so that going on from a checkpoint is exact.

    Paper: APOLLO, https://arxiv.org/abs/2412.05270, algorithm 1.
    """
    from apollo_torch import APOLLOAdamW  # pyright: ignore[reportMissingImports]
    from apollo_torch.random_projector import GradientProjector  # pyright: ignore[reportMissingImports]

    class Apollo(APOLLOAdamW):
        def state_dict(self) -> dict[str, Any]:
            told = super().state_dict()
            states = {number: {**state, **_moving(state)} for number, state in told["state"].items()}
            return {**told, "state": states}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(state_dict)
            for group in self.param_groups:
                for state in (self.state[p] for p in group["params"] if "projector" in self.state[p]):
                    names = ("update_proj_gap", "scale", "proj_type")
                    made = GradientProjector(group["rank"], **{name: group[name] for name in names})
                    vars(made).update(state["projector"])
                    state["projector"] = made

    targets: Any = args.optim_target_modules
    matrices = projected_parameters(model, GaLoreConfig(target_modules=None if targets == "all-linear" else targets))
    chosen = set(matrices)
    rest = [p for p in model.parameters() if p.requires_grad and p not in chosen]
    decay = args.weight_decay
    groups = [
        {"params": matrices, "weight_decay": decay, **SETTINGS, **_said(args.optim_args)},
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = args.adam_beta1, args.adam_beta2
    kept: Any = [group for group in groups if group["params"]]
    return Apollo(kept, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon)


def _moving(state: dict[str, Any]) -> dict[str, Any]:
    """What changes of a projector, as plain values; the rest is in the settings of its group."""
    return {"projector": {name: vars(state["projector"])[name] for name in MOVING}} if "projector" in state else {}


def _said(text: str | None) -> dict[str, Any]:
    """APOLLO's settings in `optim_args`, as transformers writes them: `name=value,name=value`."""
    found: dict[str, Any] = {}
    for part in (text or "").replace(" ", "").split(",") if text else ():
        name, _, value = part.partition("=")
        if name not in SETTINGS:
            raise ConfigError("CONFIG-02", f"optim_args: {name!r} is not APOLLO's", fix=f"one of {', '.join(SETTINGS)}")
        found[name] = type(SETTINGS[name])(value)
    return found


def adam_mini(args: OwnTrainingArguments, model: nn.Module) -> Optimizer:
    """Adam-mini: Adam with one second moment for each head, neuron or token in place of one for each weight.

    Paper: Adam-mini, https://arxiv.org/abs/2406.16793, algorithm 1.

    Raises:
        ConfigError: the model's config does not tell its heads.
    """
    from adam_mini import Adam_mini  # pyright: ignore[reportMissingImports]

    told = text_config(model)
    shape: dict[str, Any] = told.to_dict() if told is not None else {}
    if not shape.get("hidden_size") or not shape.get("num_attention_heads"):
        raise ConfigError("CONFIG-02", f"--optim adam_mini: {type(model).__name__} does not tell its heads")
    return Adam_mini(
        named_parameters=model.named_parameters(),
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        weight_decay=args.weight_decay,
        dim=shape["hidden_size"],
        n_heads=shape["num_attention_heads"],
        n_kv_heads=shape.get("num_key_value_heads"),
        verbose=False,
    )


def is_apollo(args: OwnTrainingArguments) -> bool:
    """Whether APOLLO's optimiser is asked for, and its package is there."""
    return OptimizerNames(args.optim).value == APOLLO and find_spec("apollo_torch") is not None
