"""What a model refuses while there are adapters in it: to be saved as if there were none; and what it warns of."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from swift.errors import ConfigError
from swift.log import get_logger
from swift.tuners.branch import Active, Branch

logger = get_logger()

OURS = {  # what other libraries' models have for what is done otherwise here
    "load_adapter": "Swift.from_pretrained(model, directory, {stored_name: name})",
    "get_adapter_state_dict": "model.state_dict(adapter_name=name)",
    "enable_adapters": "model.set_active_adapters(names)",
    "disable_adapters": "model.set_active_adapters([])",
    "active_adapter": "model.active_adapters",
    "unload": "model.delete_adapter(name)",
}


def check_ours(name: str) -> None:
    """Raise AttributeError for what would do something else to adapters in the base, behind the tuned model's back."""
    if name in OURS:
        raise AttributeError(f"a SwiftModel has no {name!r}: {OURS[name]} does it")


class Guard:
    """`base.save_pretrained` as long as adapters may be in the base. It does not keep the base alive."""

    def __init__(self, base: Any) -> None:
        self.base, self.kind = weakref.ref(base), type(base).__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What `save_pretrained` of the base's class does. Raises ConfigError while adapters are in it."""
        base = self.base()
        if base is None or _has_adapters(base):
            raise ConfigError(
                "CONFIG-02",
                f"this {self.kind} has adapters in it and cannot be saved as a plain model",
                why="its weights have other names now, under which from_pretrained would not find them",
                fix="save_pretrained of the tuned model saves the adapters; Swift.merge_and_unload(model) first makes "
                "them part of the weights, and model.delete_adapter(name) takes one out",
            )
        return type(base).save_pretrained(base, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Guard, (self.base(),)  # a deep copy of it is bound to the copy


def guard_saving(base: nn.Module, tuner: nn.Module) -> None:
    """Let `base.save_pretrained` refuse as long as adapters are in it: what it wrote would not be read back right.

    Args:
        base: what would be saved.
        tuner: what holds it and runs its adapters; once that is gone, a base that is plain again is released.
    """
    savable = hasattr(type(base), "save_pretrained")  # a model of transformers or diffusers
    if savable and not isinstance(vars(base).get("save_pretrained"), Guard):
        vars(base)["save_pretrained"] = Guard(base)
        weakref.finalize(tuner, _release_gone, weakref.ref(base)).atexit = False


def release_saving(base: nn.Module) -> None:
    """Let `base.save_pretrained` be that of its class again if no adapter is in it any more."""
    if isinstance(vars(base).get("save_pretrained"), Guard) and not _has_adapters(base):
        del vars(base)["save_pretrained"]


def _release_gone(reference: weakref.ref[nn.Module]) -> None:
    base = reference()
    if base is not None:
        release_saving(base)


def _has_adapters(base: nn.Module) -> bool:
    return any(_is_foreign(module) for module in base.modules())


def _is_foreign(module: nn.Module) -> bool:
    wraps = isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
    return wraps or (isinstance(module, Branch) and bool(module.state_dict()))


def guard_training(model: nn.Module) -> None:
    """Let calls of `model` warn, once, when they train adapters that are merged, until `release_training`."""
    release_training(model)
    model.register_forward_pre_hook(_note_training)


def release_training(model: nn.Module) -> None:
    """Let them train again."""
    hooks = model._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if hook is _note_training]:
        del hooks[key]


def _note_training(model: nn.Module, args: Any) -> None:
    """Warn if a gradient may be wanted of what is merged, which gets none: only the weights run."""
    if not (model.training and torch.is_grad_enabled()):
        return
    merged = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer) and layer.merged]
    for layer in merged:
        for key, parameter in layer.named_parameters():
            name = next((part for part in key.split(".") if part in layer.merged_adapters), None)
            if parameter.requires_grad and name is not None:
                fix = "Swift.unmerge(model) to train it, model.eval() to use it"
                logger.warning("adapter %r is merged into the weights and does not train: %s", name, fix)
                release_training(model)
                return


def note_threads(model: nn.Module, active: Active) -> bool:
    """Warn if layers may run again in a thread that has no adapters of its own; say whether it was so."""
    recomputes = active.per_thread and model.training and vars(model).get("config") is not None
    if not recomputes or not getattr(model, "is_gradient_checkpointing", False):
        return False
    logger.warning(
        "USE_UNIQUE_THREAD=0 does not go with gradient checkpointing: backward may run layers again in a thread of its "
        "own, in which no adapter is active; train with USE_UNIQUE_THREAD=1, or gradient_checkpointing=False"
    )
    return True
