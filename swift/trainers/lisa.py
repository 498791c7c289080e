"""LISA: of a model's layers only a few train at a time, drawn anew every few steps."""

from __future__ import annotations

import random
from typing import Any

from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from swift.errors import ConfigError


class Lisa(TrainerCallback):
    """Freezes all layers but `activated`, which it draws evenly and without repeats every `interval` steps.

    What lies outside the layers (embeddings, last norm, head) trains always; what was frozen before training stays
    so. The draw for steps [k·K, (k+1)·K), K = `interval`, depends on the seed and k alone, so a run that goes on from
    a checkpoint draws what it would have drawn.

    Paper: LISA, https://arxiv.org/abs/2403.17919, section 3.2, algorithm 1, with the even probabilities of its
    experiments.

    Cost: with L layers of S numbers each and E numbers outside them, gradients and AdamW's moments take 3·(E + γ·S)
    numbers instead of 3·(E + L·S), γ = `activated`; frozen layers need no gradients of their weights, which is a third
    of a layer's work. A layer that is frozen gives its moments back and starts with new ones when it is drawn again:
    kept, they would grow to those of full training. Nothing is saved but the model.

    Deviation: `interval` is 20 by default, where the paper's experiments take 3 to 50 by the length of the run.

    Args:
        model: what is trained; nothing of it changes before training begins.
        activated: γ, how many layers train at a time.
        interval: steps from one draw to the next.
        seed: of the draws.

    Raises:
        ConfigError: there are not that many layers, none of them trains, or the model has none.
    """

    def __init__(self, model: nn.Module, activated: int, interval: int, seed: int) -> None:
        layers = find_layers(model)
        self.layers = [[p for p in layer.parameters() if p.requires_grad] for layer in layers]
        self.activated, self.interval, self.seed = activated, interval, seed
        self.active: list[int] | None = None
        if not 1 <= activated <= len(layers):
            raise ConfigError(
                "CONFIG-02",
                f"--lisa_activated_layers {activated}: the model has {len(layers)} layers",
                fix=f"--lisa_activated_layers {min(2, len(layers))}",
            )
        if interval < 1:
            raise ConfigError("CONFIG-02", f"--lisa_step_interval {interval}", fix="it is at least 1")
        if not any(self.layers):
            raise ConfigError("CONFIG-02", "--lisa_activated_layers: all layers are frozen", fix="--sft_type full")

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Draw when a new interval begins, or training does."""
        self.activate(state.global_step, getattr(optimizer, "optimizer", optimizer))  # accelerate wraps it

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as trainable as it was."""
        self.thaw()

    def thaw(self) -> None:
        """Let all layers train again that did before."""
        self.active = None
        for parameters in self.layers:
            for parameter in parameters:
                parameter.requires_grad_(True)

    def activate(self, step: int, optimizer: Optimizer | None = None) -> None:
        """Let the layers of this step train, and no others; what freezes loses its optimiser states."""
        drawn = draw(len(self.layers), self.activated, step // self.interval, self.seed)
        if drawn == self.active:
            return
        self.active = drawn
        for index, parameters in enumerate(self.layers):
            for parameter in parameters:
                parameter.requires_grad_(index in drawn)
                if index not in drawn:
                    parameter.grad = None
                    if optimizer is not None:
                        optimizer.state.pop(parameter, None)


def draw(layers: int, activated: int, interval: int, seed: int) -> list[int]:
    """Which of so many layers train in the interval of this number, in order."""
    return sorted(random.Random(f"{seed}/{interval}").sample(range(layers), activated))


def find_layers(model: nn.Module) -> nn.ModuleList:
    """The layers of `model`: its list of modules that holds the most parameters, the outermost of equal ones.

    Raises:
        ConfigError: it has no list of modules.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ConfigError("CONFIG-02", f"{type(model).__name__} has no list of layers, which LISA draws from")
    return max(lists, key=lambda found: sum(p.numel() for p in found.parameters()))
