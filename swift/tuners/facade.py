"""`Swift`: add tuners to a model, load them, merge them, convert them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import peft
from torch import nn

from swift import hub
from swift.errors import DataError, UnknownNameError, UsageError
from swift.log import get_logger
from swift.registry import unknown
from swift.tuners import files, fingerprint, loading, merging, peft_format, peft_layers
from swift.tuners.branch import matches
from swift.tuners.config import SwiftConfig
from swift.tuners.files import Config, Stored
from swift.tuners.lora import LoRAConfig
from swift.tuners.model import SwiftModel

logger = get_logger()

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
        adapter_name: str = "default",
        **others: Any,
    ) -> SwiftModel | peft.PeftModel:
        """The model with tuners, changed in place; everything else in it is frozen.

        Args:
            model: any module, or what this function returned before: its adapters stay.
            config: one config, or a dict of names and configs of any kinds.
            extra_state_keys: regular expressions for the base's own tensors that train and are saved too.
            inference_mode: nothing is to be trained.
            adapter_name: of the adapter of a single config.
            others: options of other libraries' functions of this kind are passed over, with a warning.

        Returns:
            A PeftModel for a single PEFT config on a plain model, otherwise a SwiftModel.

        Raises:
            UnknownNameError: no module is named as a config's targets say; the nearest names are in the message.
        """
        _pass_over("prepare_model", others)
        _check_model(model)
        configs = config if isinstance(config, Mapping) else {adapter_name: config}
        _check_configs(configs)
        _check_keys(extra_state_keys, model)
        bare = not isinstance(model, SwiftModel | peft.PeftModel)
        if bare and isinstance(config, peft.PeftConfig) and not isinstance(config, LoRAConfig) and not extra_state_keys:
            own = peft_layers.own_copy(config, model, inference_mode or config.inference_mode)
            fingerprint.remember(own, fingerprint.take(model))
            return peft_layers.get_peft_model(model, own, adapter_name)
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
        **others: Any,
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
            others: options of other libraries' functions of this kind are passed over, with a warning.

        Returns:
            A PeftModel when all comes from PEFT's layout onto a plain model or a PeftModel, otherwise a SwiftModel.

        Raises:
            NotFoundError: there is no adapter.
            UnknownNameError: there is none of that name.
            DataError: it is damaged, or made for another model.
        """
        _pass_over("from_pretrained", others)
        _check_model(model)
        before = set(model.peft_config) if isinstance(model, peft.PeftModel) else set[str]()
        frozen = not is_trainable if inference_mode is None else inference_mode
        tuned = attach_adapters(
            model, model_id, adapter_name, revision, frozen=frozen, allow_other_base=allow_other_base
        )
        if isinstance(tuned, peft.PeftModel):
            _note_idle(tuned, [name for name in tuned.peft_config if name not in before])
        return tuned

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


def attach_adapters(
    model: nn.Module,
    model_id: str | Path,
    adapter_name: Names = None,
    revision: str | None = None,
    *,
    frozen: bool,
    allow_other_base: bool = False,
) -> SwiftModel | peft.PeftModel:
    """What `Swift.from_pretrained` does, without a word of the adapters that do not run."""
    directory = _directory(model_id, revision)
    chosen = _choose(files.find(directory), adapter_name)
    chosen = chosen if frozen else {name: stored.to_train() for name, stored in chosen.items()}
    for stored in chosen.values():
        loading.check_rows(stored, model)
    extra = directory / files.EXTRA_STATES
    in_peft = not extra.is_dir() and all(stored.in_peft_layout for stored in chosen.values())
    tuned: Any = model if isinstance(model, SwiftModel) or in_peft else SwiftModel(model)
    base = tuned.fingerprint if isinstance(tuned, SwiftModel) else fingerprint.remembered(tuned)
    for name, stored in chosen.items():
        tuned = loading.load(tuned, name, stored, frozen, base)
    if extra.is_dir() and adapter_name is None:
        tuned.add_extra_state_keys(files.read_extra_keys(extra), inference_mode=frozen)
        loading.load_extra_states(tuned, extra)
    try:
        for stored in chosen.values():
            fingerprint.check_base(stored.base, base, str(stored.folder), allow_other_base)
    except DataError:
        for name in chosen:
            loading.take_back(tuned, name)
        raise
    return tuned.eval() if frozen else tuned


def _pass_over(function: str, others: Mapping[str, Any]) -> None:
    """Warn of arguments that nothing here needs; of those that may be misspelt, with the name that is meant."""
    known = [
        name for name, one in signature(getattr(Swift, function)).parameters.items() if one.kind != one.VAR_KEYWORD
    ]
    for name in others:
        near = unknown("argument", name, known).fix
        logger.warning(
            "Swift.%s has no argument %r, which is passed over%s", function, name, f"; {near}" if near else ""
        )


def _check_model(model: Any) -> None:
    """Raise UsageError if `model` is no module, such as the name of one."""
    if not isinstance(model, nn.Module):
        fix = f"AutoModelForCausalLM.from_pretrained({model!r})" if isinstance(model, str | Path) else None
        raise UsageError("USAGE-02", f"the model is {type(model).__name__} {model!r:.80}, not a torch module", fix=fix)


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


def _note_idle(tuned: peft.PeftModel, loaded: Iterable[str]) -> None:
    """Say which of the loaded adapters do not run: one of PEFT's models goes on with those that ran before."""
    if idle := [name for name in loaded if name not in tuned.active_adapters]:
        what = f"{', '.join(idle)} loaded and not active, as a PeftModel runs {', '.join(tuned.active_adapters)}"
        logger.warning(
            "%s; model.set_adapter(name) to run another, Swift.from_pretrained(SwiftModel(model), ...) all", what
        )


def _tuned(model: nn.Module) -> SwiftModel | peft.PeftModel:
    if not isinstance(model, SwiftModel | peft.PeftModel):
        raise UsageError("USAGE-02", f"{type(model).__name__} has no adapters", fix="Swift.prepare_model first")
    return model


def _directory(model_id: str | Path, revision: str | None) -> Path:
    local = hub.is_path(model_id) or "/" not in str(model_id)
    return Path(model_id).expanduser() if local else Path(hub.fetch_model(str(model_id), revision))


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
