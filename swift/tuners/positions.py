"""Positions of a text behind learnt tokens: padding in between does not count, on whichever side of the text it is.

Whether a text is padded on the left must not change what a model makes of it. Without learnt tokens it hardly does,
as only the distances between tokens count in most models; with them, padding would move the text away from them.
Shapes: B rows, T tokens, K what the mask covers: T and what the cache holds.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from swift.tuners.branch import Branch, attach

KEY = "prompt_positions"


class Positions(Branch):
    """Sits on a whole model and, if that writes text, says where each token is, where its caller has not said so."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = list(inspect.signature(model.forward).parameters)
        writes = isinstance(model, PreTrainedModel) and model.can_generate()
        self.says = writes and "position_ids" in self.names

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with `position_ids` if there is a mask to read them from."""
        named = {**dict(zip(self.names, args, strict=False)), **kwargs}
        mask_BK = named.get("attention_mask")
        tokens = next((named[key] for key in ("input_ids", "inputs_embeds") if named.get(key) is not None), None)
        said = named.get("position_ids") is not None or "position_ids" in self.names[: len(args)]
        if not self.says or said or tokens is None or not isinstance(mask_BK, Tensor) or mask_BK.ndim != 2:
            return args, kwargs
        return args, {**kwargs, "position_ids": positions(mask_BK, tokens.shape[1])}


def positions(mask_BK: Tensor, count: int) -> Tensor:
    """The positions (B, T) of the last `count` tokens: how many before each are no padding."""
    return (mask_BK.long().cumsum(-1) - 1).clamp(min=0)[:, -count:]


def say_positions(model: nn.Module) -> None:
    """Let `model`, which one of PEFT's prompt methods is put around, have its positions said."""
    attach(model, KEY, Positions(model))


def say_no_positions(model: nn.Module) -> None:
    """Let them not be said."""
    vars(model)["_modules"].pop(KEY, None)
