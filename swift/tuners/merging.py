"""Adapters into the weights and out again, and out of the model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import peft

from swift.errors import ConfigError
from swift.log import get_logger
from swift.registry import unknown
from swift.tuners import peft_layers
from swift.tuners.branch import detach
from swift.tuners.config import SwiftConfig
from swift.tuners.files import Config
from swift.tuners.fingerprint import take
from swift.tuners.guards import guard_training, release_saving, release_training

if TYPE_CHECKING:
    from swift.tuners.model import SwiftModel

logger = get_logger()


def merge(model: SwiftModel) -> None:
    """`SwiftModel.merge`."""
    _check_shared(model)
    names = tuple(name for name in model._active if can_merge(model.adapters[name]))
    if not names or model._merged:
        _note_idle(model._merged, model._active)
        return
    peft_layers.merge(model.base_model, model._tuners.values(), names, keep=True)
    model._merged = names
    guard_training(model.base_model)


def unmerge(model: SwiftModel) -> None:
    """`SwiftModel.unmerge`."""
    if not peft_layers.is_merged(model.base_model):
        logger.warning("nothing to unmerge: no adapter is merged")
    _take_out(model)


def merge_and_unload(model: SwiftModel, names: Sequence[str] | None) -> None:
    """`SwiftModel.merge_and_unload`."""
    for name in names or ():
        config = model.adapters[model._known(name)]
        if not can_merge(config) and not can_join(config):
            fix = "model.delete_adapter(name) takes it out; save_pretrained keeps it"
            raise ConfigError("MERGE-01", f"adapter {name!r} changes no weights and cannot be merged", fix=fix)
        model._bring_back(name)
    _check_shared(model)
    wanted = list(model._active) if names is None else list(names)
    if not any(can_merge(model.adapters[name]) or can_join(model.adapters[name]) for name in wanted):
        _note_idle((), wanted)
    for name in wanted:
        if can_join(model.adapters[name]):
            _join(model, name)
    gone = [name for name in wanted if name in model.adapters and can_merge(model.adapters[name])]
    merged = bool(model._merged)
    _take_out(model)
    try:
        peft_layers.merge(model.base_model, model._tuners.values(), gone, keep=False)
        _forget(model, gone)
        peft_layers.unload(model.base_model, model._tuners, gone)
        peft_layers.follow(model.base_model, model._active)
        model.fingerprint = take(model.base_model)
        release_saving(model.base_model)
    finally:
        if merged and any(can_merge(model.adapters[name]) for name in model._active):
            merge(model)


def delete(model: SwiftModel, name: str) -> None:
    """`SwiftModel.delete_adapter`."""
    config = model.adapters[model._known(name)]
    model._check_not_merged()
    model._check_ours(name)
    model._offloaded.pop(name, None)
    _forget(model, [name])
    if isinstance(config, peft.PeftConfig) and not config.is_prompt_learning:
        peft_layers.unload(model.base_model, model._tuners, [name], adopt=False)
    model._prompts.pop(name, None)
    detach(model.base_model, name)
    peft_layers.follow(model.base_model, model._active)


def merge_peft(model: peft.PeftModel) -> None:
    """Merge the active adapters of one of PEFT's own models, as `SwiftModel.merge` does."""
    tuner = peft_layers.tuner_of(model)
    if peft_layers.is_merged(tuner.model):
        _note_idle(model.active_adapters, model.active_adapters)
    peft_layers.merge(tuner.model, [tuner], model.active_adapters, keep=True)
    guard_training(model)


def unmerge_peft(model: peft.PeftModel) -> None:
    """Take them out again, as `SwiftModel.unmerge` does."""
    tuner = peft_layers.tuner_of(model)
    if not peft_layers.is_merged(tuner.model):
        logger.warning("nothing to unmerge: no adapter is merged")
    peft_layers.unmerge(tuner.model)
    release_training(model)


def merge_and_unload_peft(model: peft.PeftModel, names: Sequence[str] | None) -> None:
    """Merge adapters of one of PEFT's own models for good, in place."""
    for name in names or ():
        if name not in model.peft_config:
            raise unknown("adapter", name, model.peft_config)
    tuner = peft_layers.tuner_of(model)
    peft_layers.unmerge(tuner.model)
    release_training(model)
    peft_layers.check_untied(tuner.model, names or model.active_adapters)
    tuner.merge_and_unload(adapter_names=names)


def can_merge(config: Config) -> bool:
    """Whether the adapter is a change of weights."""
    return isinstance(config, peft.PeftConfig) and not config.is_prompt_learning


def can_join(config: Config) -> bool:
    """Whether the adapter's modules can become parts of the model."""
    return isinstance(config, SwiftConfig) and config.merges


def _take_out(model: SwiftModel) -> None:
    peft_layers.unmerge(model.base_model)
    release_training(model.base_model)
    model._merged = ()


def _join(model: SwiftModel, name: str) -> None:
    config = model.adapters[name]
    assert isinstance(config, SwiftConfig)
    config.merge(model.base_model, name)
    _forget(model, [name])


def _forget(model: SwiftModel, names: Collection[str]) -> None:
    model.adapters = {name: config for name, config in model.adapters.items() if name not in names}
    model._active.names = [name for name in model._active if name not in names]


def _check_shared(model: SwiftModel) -> None:
    if model._active.per_thread:
        what = "a model whose threads have their own adapters cannot be merged"
        raise ConfigError("CONFIG-02", what, fix="make it with USE_UNIQUE_THREAD=1")


def _note_idle(merged: Sequence[str], names: Sequence[str]) -> None:
    if merged:
        logger.warning("nothing to merge: %s is merged already", ", ".join(merged))
    elif names:
        logger.warning("nothing to merge: %s changes no weights, and goes on running", ", ".join(names))
    else:
        logger.warning("nothing to merge: no adapter is active; model.set_active_adapters(names) first")
