"""What LoRAModel and PrefixModelForCausalLM share: standing around a model without hiding it, and counting."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from torch import nn

from swift.errors import ConfigError
from swift.log import get_logger


class SameSignature:
    """`model.forward`: runs `model.run`, and shows the signature of the wrapped model, which trainers look at."""

    def __get__(self, wrapper: Wrapper | None, owner: type | None = None) -> Any:
        if wrapper is None:
            return _forward

        @functools.wraps(wrapper.model.forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return wrapper.run(*args, **kwargs)

        return forward


def _forward(wrapper: Wrapper, *args: Any, labels: Any = None, **kwargs: Any) -> Any:
    """`Wrapper.forward` of no model in particular; trainers look for the name `labels` in it."""
    return wrapper.forward(*args, **({} if labels is None else {"labels": labels}), **kwargs)


class Wrapper(nn.Module):
    """A module around `model`; attributes that it lacks are those of the model."""

    forward: Any = SameSignature()
    model: nn.Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What `forward` does."""
        return self.model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    def print_trainable_parameters(self) -> None:
        """Log how many parameters are frozen and how many are trained, in PaddleNLP's words."""
        get_logger().info(count(self.parameters()))

    def save_to_aistudio(self, *args: Any, **kwargs: Any) -> None:
        """Not offered: it needs AI Studio's service and its package.

        Raises:
            ConfigError: always.
        """
        why = "it needs AI Studio's service and its own package"
        fix = "save_pretrained(directory), then upload the directory with AI Studio's tools"
        raise ConfigError("CONFIG-03", "save_to_aistudio is not offered", why=why, fix=fix)


def count(parameters: Iterable[nn.Parameter]) -> str:
    """A line with the numbers of frozen, trained and all parameters, and the share that is trained."""
    numbers = {True: 0, False: 0}
    for parameter in parameters:
        numbers[parameter.requires_grad] += parameter.numel()
    frozen, trained = numbers[False], numbers[True]
    total = frozen + trained
    return (
        f"Frozen parameters: {frozen:.2e} || Trainable parameters:{trained:.2e} || "
        f"Total parameters:{total:.2e}|| Trainable:{trained / max(total, 1):.2%}"
    )
