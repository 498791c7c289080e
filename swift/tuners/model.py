"""A model with any number of tuners of any kind: what is trained, saved, switched, moved away and merged."""

from __future__ import annotations

import copy
import functools
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from swift import storage
from swift.errors import ConfigError, UsageError
from swift.log import get_logger
from swift.registry import unknown
from swift.tuners import files, guards, merging, peft_layers, prompts
from swift.tuners.branch import Active, branches_aside
from swift.tuners.config import SwiftConfig
from swift.tuners.files import Config
from swift.tuners.fingerprint import remembered, take
from swift.tuners.groups import param_groups
from swift.tuners.lora import LoRAConfig, check_plain, kind_of
from swift.tuners.offload import Offloaded, check_place
from swift.tuners.positions import say_no_positions
from swift.tuners.relative import fold

logger = get_logger()


class BaseForward:
    """`model.forward`: it calls the base model and shows the base model's signature, which trainers look at."""

    def __get__(self, model: SwiftModel | None, owner: type | None = None) -> Any:
        if model is None:
            return _forward
        base = model.base_model

        @functools.wraps(base.forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            model._told = model._told or guards.note_threads(base, model._active)
            around = model._around()
            return base(*args, **kwargs) if around is None else prompts.run(around, args, kwargs)

        return forward


def _forward(model: SwiftModel, *args: Any, labels: Any = None, **kwargs: Any) -> Any:
    """`SwiftModel.forward` of no model in particular; trainers look for the name `labels` in it."""
    return model.forward(*args, **({} if labels is None else {"labels": labels}), **kwargs)


class SwiftModel(nn.Module):
    """A frozen base model with trainable adapters in it; attributes that it lacks are those of the base.

    With the environment variable USE_UNIQUE_THREAD=0, read here, each thread has its own active adapters (for
    inference: no merging and no gradient checkpointing then).

    Args:
        model: the base, which is changed in place; or a PeftModel, whose adapters are taken over.
    """

    forward: Any = BaseForward()
    base_model: nn.Module
    _hf_peft_config_loaded = True  # by this transformers' trainer knows that adapters train on a quantised base

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.adapters: dict[str, Config] = {}
        self.extra_state_keys: list[str] = []
        self._thawed: list[str] = []
        self._trained: dict[str, bool] = {}
        self._active = Active(per_thread=os.environ.get("USE_UNIQUE_THREAD", "1") == "0")
        self._tuners: peft_layers.Tuners = {}
        self._prompts: dict[str, peft.PeftModel] = {}
        self._offloaded: dict[str, Offloaded] = {}
        self._merged: tuple[str, ...] = ()
        self._told = False  # that its threads and gradient checkpointing do not go together
        self.fingerprint = remembered(model)
        if isinstance(model, peft.PeftModel):
            self._take_over(model)
        else:
            self.base_model = model
            self._trained = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
            model.requires_grad_(False)
        guards.guard_saving(self.base_model, self)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_model":
                raise
            guards.check_ours(name)
            around = self._around() if name == "generate" else None
            return getattr(self.base_model, name) if around is None else functools.partial(prompts.generate, around)

    @property
    def model(self) -> nn.Module:
        """The base model."""
        return self.base_model

    def get_base_model(self) -> nn.Module:
        """The base model, with the adapters in it."""
        return self.base_model

    # What is in the model.

    def add_adapter(self, name: str, config: Config, *, inference_mode: bool = False) -> None:
        """Add an adapter, active and, unless `inference_mode`, trainable. A name that is taken is skipped with a note.

        Raises:
            UsageError: the name cannot be the name of a module and of a folder.
            UnknownNameError: no module is named as the targets say.
        """
        if name in self.adapters:
            logger.warning("adapter %r is there already and stays as it is", name)
            return
        _check_name(name)
        self._check_not_merged()
        if self.trains_whole and files.has_tensors(config):
            self.base_model.requires_grad_(False)
        if isinstance(config, SwiftConfig):
            config.inject(self.base_model, name, self._active)
            self.adapters[name] = copy.deepcopy(config)
            own = self.owned(name)
            for key, parameter in self.base_model.named_parameters():
                parameter.requires_grad_(not inference_mode if key in own else parameter.requires_grad)
        elif config.is_prompt_learning:
            self._surround(name, config, inference_mode)
        else:
            self.adapters[name] = peft_layers.inject(self.base_model, self._tuners, config, name, inference_mode)
            peft_layers.follow(self.base_model, self._active)
            if isinstance(config, LoRAConfig):
                config.extend(self.base_model, name, self._active)
        if self.trains_whole and not inference_mode:
            for key, parameter in self.base_model.named_parameters():
                parameter.requires_grad_(self._trained.get(key, True))
        self._thaw()
        rivals = [active for active in self._active if _rivalry(self.adapters[active], self.adapters[name])]
        for rival in rivals:
            reason = _rivalry(self.adapters[rival], self.adapters[name])
            logger.warning("adapter %r replaces %s: both %s", name, rival, reason)
        self._switch([known for known in self.adapters if known in {*self._active, name} - {*rivals}])
        guards.guard_saving(self.base_model, self)

    def add_extra_state_keys(self, keys: Sequence[str], *, inference_mode: bool = False) -> None:
        """Add regular expressions for the base's own tensors that are saved with the adapters and, unless so, train."""
        self.extra_state_keys += [key for key in keys if key not in self.extra_state_keys]
        self._thawed += [] if inference_mode else keys
        self._thaw()

    def add_weighted_adapter(self, adapters: list[str], weights: list[float], adapter_name: str, **kwargs: Any) -> None:
        """Make one LoRA adapter out of several; it is the only active one then. See `peft.LoraModel`."""
        if isinstance(adapters, str) or not adapters or len(adapters) != len(weights):
            what = f"adapters={adapters!r} and weights={weights!r} are no two lists of one length"
            raise UsageError("USAGE-02", what, fix="a weight for each adapter")
        for name in adapters:
            self._bring_back(self._known(name))
        if adapter_name in self.adapters:
            raise UsageError(
                "USAGE-02",
                f"adapter {adapter_name!r} is there already",
                fix="another name, or model.delete_adapter(name) first",
            )
        _check_name(adapter_name)
        self._check_not_merged()
        if any(not isinstance(self.adapters[name], peft.LoraConfig) for name in adapters):
            raise ConfigError(
                "CONFIG-02", "only LoRA adapters can be combined into one", fix="give the names of LoRA adapters"
            )
        check_plain({name: self.adapters[name] for name in adapters})
        tuner = self._tuners["LORA"]
        try:
            with branches_aside(self.base_model):
                tuner.add_weighted_adapter(adapters, weights, adapter_name, **kwargs)
        except (ValueError, TypeError) as error:
            peft_layers.unload(self.base_model, self._tuners, [adapter_name])
            peft_layers.follow(self.base_model, self._active)
            raise ConfigError("CONFIG-02", f"{', '.join(adapters)} cannot be combined: {error}") from error
        self.adapters[adapter_name] = tuner.peft_config[adapter_name]
        peft_layers.declare(self.base_model, self._tuners)
        peft_layers.follow(self.base_model, self._active)
        self.set_active_adapters([adapter_name])

    def delete_adapter(self, adapter_name: str) -> None:
        """Take an adapter out of the model, with all that it has brought; what it trained is lost unless saved.

        Biases and extra states that it trained in the base itself stay as they are.

        Raises:
            UnknownNameError: there is no such adapter.
            ConfigError: adapters are merged into the weights, or another thread runs this one.
        """
        merging.delete(self, adapter_name)

    def get_trainable_parameters(self) -> str:
        """How much trains, and the GPU memory in use, in one line."""
        trained, total = self.get_nb_trainable_parameters()
        memory = sum(torch.cuda.memory_allocated(i) for i in range(torch.cuda.device_count()))
        return (
            f"trainable params: {trained / 1e6:.4f}M || all params: {total / 1e6:.4f}M || "
            f"trainable%: {100 * trained / max(total, 1):.2f}% || cuda memory: {memory / 2**30:.2f}GiB."
        )

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """How many numbers train, and how many there are, by the name that PEFT's models have for it."""
        sizes = [(p.numel() or vars(p).get("ds_numel", 0), p.requires_grad) for p in self.parameters()]
        return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)

    def print_trainable_parameters(self) -> None:
        """Log what `get_trainable_parameters` says, by the name that PEFT's models have for it."""
        logger.info(self.get_trainable_parameters())

    def create_optimizer_param_groups(self, **defaults: Any) -> list[dict[str, Any]]:
        """Groups of the trainable parameters for an optimizer. See `swift.tuners.groups.param_groups`."""
        return param_groups(self, self.adapters, **defaults)

    @property
    def trains_whole(self) -> bool:
        """Whether the base is not frozen, as no tuner here has parameters of its own: it is trained and saved whole."""
        tuners = self.adapters.values()
        return bool(tuners) and not self.extra_state_keys and not any(files.has_tensors(config) for config in tuners)

    # What is saved.

    def owned(self, name: str) -> dict[str, str]:
        """The adapter's keys in the base's state dict, each with its pattern: `{}` stands for the adapter's name."""
        config = self.adapters[self._known(name)]
        if isinstance(config, SwiftConfig):
            return config.owned(self.base_model, name)
        prompt = prompts.owned(self.base_model, name) if config.is_prompt_learning else {}
        return prompt | peft_layers.owned(self.base_model, config, name)

    def extra_states(self, keys: Iterable[str]) -> list[str]:
        """Those of the base's `keys` that are saved with the adapters."""
        return [key for key in keys if _matches_one(self.extra_state_keys, key)]

    def state_dict(
        self,
        *,
        adapter_name: str | None = None,
        destination: dict[str, Any] | None = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> dict[str, Tensor]:
        """The tensors of one adapter, or of all of them with the extra states. Never those of a frozen base."""
        names = list(self.adapters) if adapter_name is None else [self._known(adapter_name)]
        state = self.base_model.state_dict(keep_vars=keep_vars)
        chosen: dict[str, Any] = destination if destination is not None else {}
        for name in names:
            away = self._offloaded[name].values() if name in self._offloaded else {}
            for key, pattern in self.owned(name).items():
                chosen[prefix + pattern.format(name)] = away.get(key, state[key])
        if adapter_name is None:
            chosen |= {prefix + key: state[key] for key in (state if self.trains_whole else self.extra_states(state))}
        return chosen

    def load_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        strict: bool = True,
        assign: bool = False,
        adapter_name: str | None = None,
    ) -> Any:
        """Load what `state_dict` gives; only tensors of the adapters and extra states can be loaded.

        Raises:
            DataError: a tensor has the wrong shape or, when `strict`, is missing or unknown.
        """
        if self.trains_whole and adapter_name is None:
            return self.base_model.load_state_dict(state_dict, strict, assign)
        state = self.base_model.state_dict()
        names = list(self.adapters) if adapter_name is None else [self._known(adapter_name)]
        for name in names:
            self._bring_back(name)
        keys = {pattern.format(name): key for name in names for key, pattern in self.owned(name).items()}
        keys |= {key: key for key in self.extra_states(state)} if adapter_name is None else {}
        expected = {given: state[key] for given, key in keys.items()}
        if not strict:
            expected = {given: tensor for given, tensor in expected.items() if given in state_dict}
            state_dict = {given: tensor for given, tensor in state_dict.items() if given in keys}
        files.check_fit(expected, state_dict, "the state dict")
        mine = {keys[given]: tensor for given, tensor in state_dict.items()}
        result = self.base_model.load_state_dict(mine, strict=False, assign=assign)
        result.missing_keys[:] = [given for given in keys if given not in state_dict]
        return result

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = False,
        adapter_name: str | Sequence[str] | None = None,
        state_dict: Mapping[str, Tensor] | None = None,
        **_: Any,
    ) -> None:
        """Write each adapter into a folder of its own: adapter_config.json and adapter_model.bin.

        Args:
            save_directory: where the folders go, with configuration.json beside them.
            safe_serialization: write safetensors instead of .bin (which holds tensors only, too).
            adapter_name: one name or several; None is all, with the extra states.
            state_dict: tensors as `state_dict()` gives them, gathered elsewhere.

        Raises:
            UsageError: the directory is a file, or there is no such adapter.
        """
        directory = Path(save_directory)
        if directory.is_file():
            raise UsageError("USAGE-02", f"{directory} is a file", fix="give a directory")
        names = [self._known(name) for name in (self.adapters if adapter_name is None else _names(adapter_name))]
        every = self.state_dict() if state_dict is None else state_dict
        base = take(self.base_model) if self.trains_whole else self.fingerprint
        extra = list(self.extra_states(every)) if adapter_name is None else []
        with files.filled(directory) as stage:
            for name in names:
                config, own = self.adapters[name], [pattern.format(name) for pattern in self.owned(name).values()]
                storage.make_directory(stage / name)
                if files.has_tensors(config):
                    files.write_tensors(stage / name, fold({key: every[key] for key in own}), safe_serialization)
                files.write_config(stage / name, config, base)
            if extra:
                folder = stage / files.EXTRA_STATES
                storage.make_directory(folder)
                files.write_tensors(folder, {key: every[key] for key in extra}, safe_serialization)
                files.write_extra_keys(folder, self.extra_state_keys)
            if adapter_name is None and self.trains_whole and isinstance(self.base_model, PreTrainedModel):
                self.base_model.save_pretrained(stage, state_dict=dict(every))
            files.write_card(stage, directory, {name: self.adapters[name] for name in names}, base.name)
        there = files.read_order(directory)
        ours = [name for name in self.adapters if name in {*names, *there}]
        files.write_order(directory, [*ours, *(name for name in there if name not in ours)])

    # What runs.

    @property
    def active_adapters(self) -> set[str]:
        """The adapters that run, in this thread when threads have their own."""
        return set(self._active)

    def set_active_adapters(self, adapter_names: str | Sequence[str], offload: str | None = None) -> None:
        """Let exactly these adapters run.

        Args:
            adapter_names: a name or several; an empty list gives the base model.
            offload: where the tensors of the others go: "cpu", "meta" (to disk), or None: they stay.

        Raises:
            UnknownNameError: there is no such adapter.
            ConfigError: the model is merged, or two adapters train the same whole module.
        """
        check_place(offload)
        names = [self._known(name) for name in _names(adapter_names)]
        self._switch([name for name in self.adapters if name in names])
        if offload is not None:
            for name in self.adapters:
                if name not in names:
                    self._send_away(name, offload)

    def set_adapter(self, adapter_name: str | Sequence[str]) -> None:
        """`set_active_adapters` by the name that PEFT's models have for it."""
        self.set_active_adapters(adapter_name)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """While this lasts, the base model alone runs, as with PEFT's models."""
        names = list(self._active)
        self.set_active_adapters([])
        try:
            yield
        finally:
            self.set_active_adapters(names)

    def activate_adapter(self, adapter_name: str) -> None:
        """Let this adapter run too."""
        self._switch([name for name in self.adapters if name in {*self._active, self._known(adapter_name)}])

    def deactivate_adapter(self, adapter_name: str, offload: str | None = None) -> None:
        """Let this adapter not run. `offload` as in `set_active_adapters`."""
        check_place(offload)
        self._known(adapter_name)
        self._switch([name for name in self._active if name != adapter_name])
        if offload is not None:
            self._send_away(adapter_name, offload)

    def merge(self) -> None:
        """Add the active adapters of PEFT's kinds to the weights; they stay installed.

        The changed weights are kept in main memory until `unmerge` puts them back, bit for bit: one copy of each.

        Raises:
            ConfigError: one of them cannot be merged.
        """
        merging.merge(self)

    def unmerge(self) -> None:
        """Take merged adapters out of the weights again: they are what they were before `merge`, bit for bit."""
        merging.unmerge(self)

    def merge_and_unload(self, adapter_name: str | Sequence[str] | None = None) -> nn.Module:
        """Add LoRA adapters to the weights for good and take their layers out, in place.

        Args:
            adapter_name: one name or several; None is every active one of PEFT's kinds, and of LLaMA-Pro.

        Returns:
            The base model, as PEFT's models do; adapters that were not merged are still in it.

        Raises:
            ConfigError: an adapter is not of a kind that can be merged.
        """
        merging.merge_and_unload(self, None if adapter_name is None else _names(adapter_name))
        return self.base_model

    def _take_over(self, model: peft.PeftModel) -> None:
        self.base_model = model.get_base_model()
        active = model.active_adapters
        if model.active_peft_config.is_prompt_learning:
            say_no_positions(self.base_model)
            for name, config in model.peft_config.items():
                self._surround(name, config, config.inference_mode)
                self._prompts[name].prompt_encoder[name].load_state_dict(model.prompt_encoder[name].state_dict())
        else:
            self.adapters = dict(model.peft_config)
            self._tuners = {kind_of(config).value: peft_layers.tuner_of(model) for config in model.peft_config.values()}
            peft_layers.declare(self.base_model, self._tuners)
            peft_layers.follow(self.base_model, self._active)
        self._active.names = [name for name in self.adapters if name in active]

    def _surround(self, name: str, config: peft.PeftConfig, inference_mode: bool) -> None:
        peft_layers.check_company(config, name)
        around = prompts.surround(self.base_model, config, name, self._active, inference_mode=inference_mode)
        self._prompts[name], self.adapters[name] = around, around.peft_config[name]
        peft_layers.follow(self.base_model, self._active)

    def _around(self) -> peft.PeftModel | None:
        """PEFT's model around the base where a prompt method is active."""
        return next((self._prompts[name] for name in self._active if name in self._prompts), None)

    def _thaw(self) -> None:
        for key, parameter in self.base_model.named_parameters():
            if _matches_one(self._thawed, key):
                parameter.requires_grad_(True)

    def _known(self, name: str) -> str:
        if name not in self.adapters:
            raise unknown("adapter", name, self.adapters)
        return name

    def _switch(self, names: list[str]) -> None:
        if set(names) != set(self._active):
            self._check_not_merged()
        for first, second in itertools.combinations(names, 2):
            reason = _rivalry(self.adapters[first], self.adapters[second])
            if reason:
                what = f"adapters {first!r} and {second!r} both {reason}"
                raise ConfigError("CONFIG-02", what, fix="activate one of them")
        for name in names:
            self._bring_back(name)
        self._active.names = names

    def _check_not_merged(self) -> None:
        if self._merged:
            merged = ", ".join(self._merged)
            raise ConfigError("CONFIG-02", f"{merged} is merged into the weights", fix="Swift.unmerge(model) first")

    def _check_ours(self, name: str) -> None:
        if self._active.elsewhere(name):
            fix = "deactivate it there first, or leave it where it is"
            raise ConfigError("CONFIG-02", f"another thread runs adapter {name!r}", fix=fix)

    def _send_away(self, name: str, where: str) -> None:
        self._check_ours(name)
        if name not in self._offloaded:
            keys = [key for key, pattern in self.owned(name).items() if "{}" in pattern]
            self._offloaded[name] = Offloaded(self.base_model, keys, where)

    def _bring_back(self, name: str) -> None:
        if name in self._offloaded:
            self._offloaded.pop(name).restore(self.base_model)


def _check_name(name: str) -> None:
    """Raise UsageError for what cannot name a folder, or a child of the modules that hold adapters by name."""
    taken = any(name in dir(holder) for holder in (nn.ModuleDict, nn.ParameterDict, nn.Module()))
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]{1,100}", name) or name == files.EXTRA_STATES or taken:
        fix = "use letters, digits, - and _, up to 100 of them, and no word that Python modules have of their own"
        raise UsageError("USAGE-02", f"{name!r} cannot name an adapter", fix=fix)


def _matches_one(patterns: Iterable[str], key: str) -> bool:
    """Whether one of `patterns` is the whole `key`, as it is or as it was before PEFT wrapped its module."""
    plain = key.replace(".base_layer.", ".")
    return any(re.fullmatch(pattern, spelling) for pattern in patterns for spelling in (key, plain))


def _names(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _rivalry(first: Config, second: Config) -> str | None:
    """What both do and only one can, None when both can run."""
    if _is_prompt(first) and _is_prompt(second):
        return "put a prompt before the model"
    modules, others = (vars(config).get("modules_to_save") or () for config in (first, second))
    return "train their own copy of a whole module" if set(modules) & set(others) else None


def _is_prompt(config: Config) -> bool:
    return isinstance(config, peft.PeftConfig) and config.is_prompt_learning
