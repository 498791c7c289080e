"""`Swift`: add tuners to a model, load them, merge them, convert them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
from torch import nn

from swift import hub
from swift.errors import ConfigError, DataError, SwiftError, UnknownNameError, UsageError
from swift.registry import unknown
from swift.tuners import files, fingerprint, merging, peft_format, peft_layers
from swift.tuners.branch import matches
from swift.tuners.config import SwiftConfig
from swift.tuners.files import Config, Stored
from swift.tuners.fingerprint import Fingerprint
from swift.tuners.lora import LoRAConfig, is_relative
from swift.tuners.model import SwiftModel
from swift.tuners.relative import starts, trained_alone, unfold, without_start

EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|lm_head|output_layer)\.(base_layer\.)?weight$")

Names = str | Sequence[str] | Mapping[str, str] | None


class Swift:
    """The library in six functions."""

    @staticmethod
    def prepare_model(
        model: nn.Module,
        config: Config | Mapping[str, Config],
        *,
        extra_state_keys: Sequence[str] = (),
        inference_mode: bool = False,
    ) -> SwiftModel | peft.PeftModel:
        """The model with tuners, changed in place; everything else in it is frozen.

        Args:
            model: any module, or what this function returned before: its adapters stay.
            config: one config, for an adapter called "default", or a dict of names and configs of any kinds.
            extra_state_keys: regular expressions for the base's own tensors that train and are saved too.
            inference_mode: nothing is to be trained.

        Returns:
            A PeftModel for a single PEFT config on a plain model, otherwise a SwiftModel.

        Raises:
            UnknownNameError: no module is named as a config's targets say; the nearest names are in the message.
        """
        configs = config if isinstance(config, Mapping) else {"default": config}
        _check_configs(configs)
        _check_keys(extra_state_keys, model)
        bare = not isinstance(model, SwiftModel | peft.PeftModel)
        if bare and isinstance(config, peft.PeftConfig) and not isinstance(config, LoRAConfig) and not extra_state_keys:
            own = peft_layers.own_copy(config, model, inference_mode or config.inference_mode)
            fingerprint.remember(own, fingerprint.take(model))
            return peft_layers.get_peft_model(model, own, "default")
        tuned = model if isinstance(model, SwiftModel) else SwiftModel(model)
        tuned.add_extra_state_keys(extra_state_keys, inference_mode=inference_mode)
        for name, one in configs.items():
            tuned.add_adapter(name, one, inference_mode=inference_mode)
        return tuned

    @staticmethod
    def from_pretrained(
        model: nn.Module,
        model_id: str | Path,
        adapter_name: Names = None,
        revision: str | None = None,
        *,
        inference_mode: bool | None = None,
        is_trainable: bool = False,
        allow_other_base: bool = False,
    ) -> SwiftModel | peft.PeftModel:
        """The model with the adapters of a checkpoint, ready to run, or to go on training.

        Args:
            model: the base, or a model that has adapters already.
            model_id: a directory in our layout or in PEFT's, or the id of one on a hub.
            adapter_name: which adapters: a name, several, or {stored name: name here}; None is all of them.
            revision: of a hub id.
            inference_mode: whether the adapters are frozen; None is the opposite of `is_trainable`.
            is_trainable: whether they train.
            allow_other_base: load them onto another base than the one that they were trained on.

        Returns:
            A PeftModel when all comes from PEFT's layout onto a plain model or a PeftModel, otherwise a SwiftModel.

        Raises:
            NotFoundError: there is no adapter.
            UnknownNameError: there is none of that name.
            DataError: it is damaged, or made for another model.
        """
        directory = _directory(model_id, revision)
        frozen = not is_trainable if inference_mode is None else inference_mode
        chosen = _choose(files.find(directory), adapter_name)
        chosen = chosen if frozen else {name: stored.to_train() for name, stored in chosen.items()}
        for stored in chosen.values():
            _check_rows(stored, model)
        extra = directory / files.EXTRA_STATES
        plain = not isinstance(model, SwiftModel) and not extra.is_dir()
        if plain and all(stored.in_peft_layout for stored in chosen.values()):
            base = fingerprint.remembered(model)
            tuned: Any = _load_peft_model(model, chosen, frozen, base)
        else:
            tuned = model if isinstance(model, SwiftModel) else SwiftModel(model)
            base = tuned.fingerprint
            for name, stored in chosen.items():
                _add(tuned, name, stored, frozen)
            if extra.is_dir() and adapter_name is None:
                tuned.add_extra_state_keys(files.read_extra_keys(extra), inference_mode=frozen)
                _load_extra_states(tuned, extra)
        for stored in chosen.values():
            fingerprint.check_base(stored.base, base, str(stored.folder), allow_other_base)
        return tuned.eval() if frozen else tuned

    @staticmethod
    def merge(model: nn.Module) -> None:
        """Add the active LoRA adapters to the weights; `unmerge` takes them out again.

        The changed weights are kept in main memory meanwhile: one copy of each.
        """
        tuned = _tuned(model)
        tuned.merge() if isinstance(tuned, SwiftModel) else merging.merge_peft(tuned)

    @staticmethod
    def unmerge(model: nn.Module) -> None:
        """Take merged LoRA adapters out of the weights: they are what they were before `merge`, bit for bit."""
        tuned = _tuned(model)
        tuned.unmerge() if isinstance(tuned, SwiftModel) else merging.unmerge_peft(tuned)

    @staticmethod
    def merge_and_unload(model: nn.Module, adapter_name: str | Sequence[str] | None = None) -> None:
        """Add LoRA adapters to the weights for good, in place; `model.model` is then the merged base.

        Args:
            model: a SwiftModel or a PeftModel.
            adapter_name: one adapter or several; None is all active ones.
        """
        tuned = _tuned(model)
        if isinstance(tuned, SwiftModel):
            tuned.merge_and_unload(adapter_name)
        else:
            merging.merge_and_unload_peft(tuned, [adapter_name] if isinstance(adapter_name, str) else adapter_name)

    @staticmethod
    def save_to_peft_format(ckpt_dir: str | Path, output_dir: str | Path) -> None:
        """Rewrite a checkpoint of ours so that plain PEFT reads it. See `swift.tuners.peft_format`."""
        peft_format.save_to_peft_format(Path(ckpt_dir), Path(output_dir))


def _check_configs(configs: Mapping[Any, Any]) -> None:
    """Raise UsageError if something that was given is no config, or nothing was."""
    fix = "Swift.prepare_model(model, LoraConfig(r=8, target_modules=['q_proj', 'v_proj'])), or a dict {name: config}"
    if not configs:
        raise UsageError("USAGE-02", "an empty dict adds no adapter", fix=fix)
    for name, one in configs.items():
        if not isinstance(one, SwiftConfig | peft.PeftConfig):
            given = f"the class {one.__name__}" if isinstance(one, type) else f"{type(one).__name__} {one!r:.80}"
            why = "GaLore is an optimizer" if type(one).__name__ == "GaLoreConfig" else None
            fix = "swift.create_galore_optimizer(model, config, args)" if why else fix
            raise UsageError("USAGE-02", f"adapter {name!r} needs a config, not {given}", why=why, fix=fix)


def _check_keys(keys: Sequence[str], model: nn.Module) -> None:
    """Raise UsageError if `keys` is no list of regular expressions each of which is the whole name of a tensor."""
    if isinstance(keys, str):
        raise UsageError("USAGE-02", "extra_state_keys is a list", fix=f"extra_state_keys=[{keys!r}]")
    known = list((model.base_model if isinstance(model, SwiftModel) else model).state_dict())
    for key in keys:
        if not any(matches(key, name.replace(".base_layer.", ".")) for name in known):
            why = "extra_state_keys are regular expressions for the whole name of a tensor"
            near = unknown("tensor of this model", key, known)
            raise UnknownNameError(near.code, near.what, why=why, fix=near.fix)


def _tuned(model: nn.Module) -> SwiftModel | peft.PeftModel:
    if not isinstance(model, SwiftModel | peft.PeftModel):
        raise UsageError("USAGE-02", f"{type(model).__name__} has no adapters", fix="Swift.prepare_model first")
    return model


def _directory(model_id: str | Path, revision: str | None) -> Path:
    path = Path(model_id).expanduser()
    if path.exists() or path.is_absolute() or str(model_id).startswith(".") or str(model_id).count("/") != 1:
        return path
    return Path(hub.fetch_model(str(model_id), revision))


def _choose(stored: Mapping[str, Stored], names: Names) -> dict[str, Stored]:
    """The adapters asked for, by the names that they get here."""
    if names is None:
        return dict(stored)
    names = [names] if isinstance(names, str) else names
    wanted = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
    for name in wanted:
        if name not in stored:
            raise unknown("adapter in this checkpoint", name, stored)
    if not wanted or len(set(wanted.values())) < len(wanted):
        fault = "gives two adapters one name" if wanted else "asks for no adapter"
        fix = f"this checkpoint has {', '.join(stored)}; adapter_name=None loads all"
        raise UsageError("USAGE-02", f"adapter_name={names!r} {fault}", fix=fix)
    return {wanted[name]: stored[name] for name in stored if name in wanted}


def _check_rows(stored: Stored, model: Any) -> None:
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
    if not is_relative(stored.config):
        return tensors
    return trained_alone(tensors, stored.config) if without_start(stored.config) else unfold(tensors)


def _add(model: SwiftModel, name: str, stored: Stored, frozen: bool) -> None:
    if name in model.adapters:
        raise ConfigError(
            "CONFIG-02", f"the model has an adapter {name!r} already", fix=f"adapter_name={{{stored.name!r}: 'other'}}"
        )
    tensors = _tensors(stored)
    with _fitting(stored):
        model.add_adapter(name, stored.config, inference_mode=frozen)
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


def _load_peft_model(model: nn.Module, chosen: Mapping[str, Stored], frozen: bool, base: Fingerprint) -> peft.PeftModel:
    tuned = model
    for name, stored in chosen.items():
        tensors = _tensors(stored)
        if isinstance(tuned, peft.PeftModel) and name in tuned.peft_config:
            raise ConfigError("CONFIG-02", f"the model has an adapter {name!r} already")
        with _fitting(stored):
            if not isinstance(tuned, peft.PeftModel):
                tuned = peft_layers.get_peft_model(tuned, _own(stored, tuned, frozen, base), name)
            else:
                peft_layers.add_to_peft_model(tuned, _own(stored, tuned, frozen, base), name)
        _load_peft_layout(tuned, name, stored, tensors)
    assert isinstance(tuned, peft.PeftModel)
    return tuned


def _own(stored: Stored, model: nn.Module, frozen: bool, base: Fingerprint) -> peft.PeftConfig:
    assert isinstance(stored.config, peft.PeftConfig)
    config = peft_layers.own_copy(stored.config, model, frozen)
    fingerprint.remember(config, base)
    return config


def _load_peft_layout(model: peft.PeftModel, name: str, stored: Stored, tensors: dict[str, Any]) -> None:
    own = peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    tensors |= starts(own, stored.config)
    expected = {**own, **{key: tensors[key] for key in _whole_embeddings(model, tensors) if key not in own}}
    files.check_fit(expected, tensors, str(stored.folder), _trained_on(stored))
    peft.set_peft_model_state_dict(model, tensors, adapter_name=name)


def _load_extra_states(model: SwiftModel, folder: Path) -> None:
    tensors = files.read_tensors(folder)
    state = model.base_model.state_dict()
    files.check_fit({key: state[key] for key in model.extra_states(state)}, tensors, str(folder))
    model.base_model.load_state_dict(tensors, strict=False)


def _trained_on(stored: Stored) -> str | None:
    base = stored.base.name if stored.base else vars(stored.config).get("base_model_name_or_path")
    return f"it was trained on {base}" if base else None
