"""Adapters of a checkpoint into a model, strictly: nothing is missing, nothing is left over, all has its shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft

from swift.errors import ConfigError, DataError, SwiftError, UnknownNameError
from swift.tuners import files, peft_layers
from swift.tuners.files import Stored
from swift.tuners.fingerprint import Fingerprint, remember
from swift.tuners.lora import is_relative
from swift.tuners.model import SwiftModel
from swift.tuners.relative import starts, trained_alone, unfold, without_start

EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|word_embeddings|lm_head|output_layer)\.(token_adapter\.)?(base_layer\.)?weight$"
)


def check_rows(stored: Stored, model: Any) -> None:
    """Raise DataError when the adapter has rows for tokens that the model has none for."""
    said = vars(stored.config).get("trainable_token_indices") or []
    last = max(
        (index for indices in (said.values() if isinstance(said, dict) else [said]) for index in indices), default=-1
    )
    if last >= 0 and last >= (rows := len(model.get_input_embeddings().weight)):
        what = f"{stored.folder} was trained with new tokens up to id {last}, and the model has {rows} rows"
        raise DataError("CKPT-02", what, fix=f"first model.resize_token_embeddings({last + 1})")


def _tensors(stored: Stored) -> dict[str, Any]:
    tensors = files.read_tensors(stored.folder) if files.has_tensors(stored.config) else {}
    # Of tables that were trained whole PEFT saves every copy, once the vocabulary was resized.
    tensors = {
        key: tensor
        for key, tensor in tensors.items()
        if ".original_module." not in key
        and (".modules_to_save." not in key or key.replace(".modules_to_save.", ".") not in tensors)
    }
    if not is_relative(stored.config):
        return tensors
    return trained_alone(tensors, stored.config) if without_start(stored.config) else unfold(tensors)


def load(model: Any, name: str, stored: Stored, frozen: bool, base: Fingerprint) -> SwiftModel | peft.PeftModel:
    """The model with the adapter of a checkpoint, under `name`.

    Args:
        model: a SwiftModel or a PeftModel, or a plain model, which PEFT's model is put around.
        name: of the adapter here.
        stored: the checkpoint.
        frozen: whether it does not train.
        base: what is known of the model without its adapters.

    Raises:
        ConfigError: the model has an adapter of that name.
        DataError: the checkpoint is damaged, or does not fit the model.
    """
    if name in (model.adapters if isinstance(model, SwiftModel) else _adapters_of_peft(model)):
        fix = f"adapter_name={{{stored.name!r}: 'other'}}"
        raise ConfigError("CONFIG-02", f"the model has an adapter {name!r} already", fix=fix)
    tensors = _tensors(stored)
    with _fitting(stored):
        tuned = _install(model, name, stored, frozen, base)
    try:
        (_fill_ours if isinstance(tuned, SwiftModel) else _fill_peft)(tuned, name, stored, tensors)
    except DataError:
        take_back(tuned, name)
        raise
    return tuned


def _adapters_of_peft(model: Any) -> Mapping[str, Any]:
    return model.peft_config if isinstance(model, peft.PeftModel) else {}


def take_back(tuned: Any, name: str) -> None:
    """Take out again what does not fit: nothing is left of it in the model."""
    if isinstance(tuned, SwiftModel) or len(tuned.peft_config) > 1:
        tuned.delete_adapter(name)
    elif not tuned.peft_config[name].is_prompt_learning:
        tuned.unload()


def _install(model: Any, name: str, stored: Stored, frozen: bool, base: Fingerprint) -> SwiftModel | peft.PeftModel:
    """The model with the adapter as it is at the start of training."""
    if isinstance(model, SwiftModel):
        model.add_adapter(name, stored.config, inference_mode=frozen)
        return model
    assert isinstance(stored.config, peft.PeftConfig)
    config = peft_layers.own_copy(stored.config, model, frozen)
    remember(config, base)
    if not isinstance(model, peft.PeftModel):
        return peft_layers.get_peft_model(model, config, name)
    peft_layers.add_to_peft_model(model, config, name)
    return model


def _fill_ours(model: Any, name: str, stored: Stored, tensors: dict[str, Any]) -> None:
    renamed: dict[str, Any] = {}
    for pattern, spellings in _spellings(model, name, stored).items():
        found = next((spelling for spelling in spellings if spelling in tensors), None)
        if found is not None:
            renamed[pattern.format(name)] = tensors.pop(found)
    own = model.state_dict(adapter_name=name)
    renamed |= starts(own, stored.config)
    whole = _whole_embeddings(model.base_model, tensors) if stored.in_peft_layout else {}
    left = {key: tensor for key, tensor in tensors.items() if key not in whole}
    files.check_fit(own, {**renamed, **left}, str(stored.folder), _trained_on(stored))
    model.load_state_dict(renamed, adapter_name=name)
    model.base_model.load_state_dict({key: tensors[spelling] for spelling, key in whole.items()}, strict=False)


@contextmanager
def _fitting(stored: Stored) -> Iterator[None]:
    """Say of a config that does not go onto the model that its checkpoint is at fault, not what was typed."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, SwiftError) and not isinstance(error, UnknownNameError | ConfigError):
            raise
        what, fix = (error.what, error.fix) if isinstance(error, SwiftError) else (str(error), None)
        what = f"{stored.folder} does not fit the model: {what}"
        raise DataError("CKPT-02", what, why=_trained_on(stored), fix=fix) from error


def _spellings(model: SwiftModel, name: str, stored: Stored) -> dict[str, list[str]]:
    """For each pattern of the adapter's keys, the keys under which the checkpoint may have it."""
    patterns = model.owned(name).values()
    if stored.in_peft_layout:
        assert isinstance(stored.config, peft.PeftConfig)
        plain = peft_layers.peft_keys(patterns, "{}", stored.config)
        return {pattern: [plain[pattern]] for pattern in patterns}
    both = {pattern: [pattern, pattern.replace(".modules_to_save.{}", "")] for pattern in patterns}
    names = dict.fromkeys((stored.name, stored.folder.name))  # the folder of one adapter may be loaded by itself
    return {p: [one.format(named) for named in names for one in spellings] for p, spellings in both.items()}


def _whole_embeddings(model: Any, tensors: Mapping[str, Any]) -> dict[str, str]:
    """The keys of whole embeddings that PEFT may have saved beside an adapter, with their keys in the model."""
    state, whole = model.state_dict(), {}
    for key, tensor in tensors.items():
        inside = key if isinstance(model, peft.PeftModel) else key.removeprefix(peft_layers.PEFT_PREFIX)
        for spelling in (inside, inside.replace(".base_layer.", "."), inside.replace(".weight", ".base_layer.weight")):
            if spelling in state and state[spelling].shape == tensor.shape and EMBEDDING.search(spelling):
                whole[key] = spelling
    return whole


def _fill_peft(model: Any, name: str, stored: Stored, tensors: dict[str, Any]) -> None:
    own = peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    tensors |= starts(own, stored.config)
    expected = {**own, **{key: tensors[key] for key in _whole_embeddings(model, tensors) if key not in own}}
    files.check_fit(expected, tensors, str(stored.folder), _trained_on(stored))
    peft.set_peft_model_state_dict(model, tensors, adapter_name=name)


def load_extra_states(model: SwiftModel, folder: Path) -> None:
    """Give the base the tensors of a folder of extra states. Raises DataError when they do not fit."""
    tensors = files.read_tensors(folder)
    state = model.base_model.state_dict()
    files.check_fit({key: state[key] for key in model.extra_states(state)}, tensors, str(folder))
    model.base_model.load_state_dict(tensors, strict=False)


def _trained_on(stored: Stored) -> str | None:
    base = stored.base.name if stored.base else vars(stored.config).get("base_model_name_or_path")
    return f"it was trained on {base}" if base else None
