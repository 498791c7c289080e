"""Which adapters can answer rows of one batch beside others, or beside none."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

NOT_PLAIN = (
    "swift_type", "use_dora", "modules_to_save", "target_parameters", "alora_invocation_tokens", "arrow_config",
    "kasa_config", "layer_replication", "trainable_token_indices",
)  # fmt: skip
"""Fields of a LoRA's config with which it changes more than its own rows, or cannot be told apart from others."""


def plain_lora(config: dict[str, Any]) -> bool:
    """Whether an adapter of this config changes nothing of the model but what it adds in its own rows."""
    plain = str(config.get("peft_type")).rpartition(".")[2] == "LORA" and config.get("bias") in (None, "none")
    return plain and not any(config.get(name) for name in NOT_PLAIN)


@torch.inference_mode()
def tells_rows_apart(model: Any, adapter: str) -> bool:
    """Whether every layer of a LoRA sees which row a token is of; a shared expert's see the tokens of all as rows.

    One row of a few tokens is read to find out.
    """
    widths: list[int] = []
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer) and adapter in layer.r]
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: widths.extend(map(len, inputs[:1])))  # type: ignore[attr-defined]
        for layer in layers
    ]
    ids = torch.zeros((1, 8), dtype=torch.long, device=model.device)
    try:
        model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
    return set(widths) <= {1}


def forget_names(model: nn.Module) -> None:
    """Take the names of rows out of PEFT's layers, where a pass that failed leaves them for all that follow."""
    for layer in model.modules():
        for key, hook in list(layer._forward_pre_hooks.items()):
            if isinstance(hook, partial) and "adapter_names" in hook.keywords:
                del layer._forward_pre_hooks[key]
                layer._forward_pre_hooks_with_kwargs.pop(key, None)


def without(model: Any, adapter: str) -> Any:
    """The model with an adapter deleted, and as it was before the first when that was the last."""
    model.delete_adapter(adapter)
    return model if model.peft_config else model.unload()
