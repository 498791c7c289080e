"""PEFT's layers inside a SwiftModel: put in, told apart by adapter, merged and taken out again."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import peft
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.oft.layer import OFTLayer
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, cast_adapter_dtype, onload_layer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from swift.errors import ConfigError, SwiftError, UnknownNameError
from swift.log import get_logger
from swift.registry import unknown
from swift.tuners import merged_linear, prompts
from swift.tuners.branch import Active, ActiveHere, Branch, Idle, branches_aside, matches, no_target, outside
from swift.tuners.guards import guard_saving
from swift.tuners.layers import check_no_copies
from swift.tuners.lora import LoRAConfig, cast, kind_of
from swift.tuners.positions import say_positions
from swift.tuners.relative import as_ours, base_kept, saves_plainly
from swift.tuners.sizes import check_sizes

logger = get_logger()

LAYERS = (BaseTunerLayer, AuxiliaryTrainingWrapper)
CONTAINERS = (nn.ModuleDict, nn.ParameterDict, BufferDict)

PEFT_PREFIX = "base_model.model."
TOKENS = "trainable_tokens_"  # how PEFT's parameters of single tokens begin, which may go with an adapter of any kind
KEPT = "kept_by_merge"
COMPUTED = ("ranknum",)  # of AdaLoRA: its rank as a number, which follows from the config and which PEFT does not save

# PEFT's model of these does more than hold the layers: it hands them what no other model has, or swaps modules itself.
ONLY_ALONE = {"ADAPTION_PROMPT", "aLoRA", "CPT", "MULTITASK_PROMPT_TUNING", "POLY", "SHADOW", "XLORA"}
# These compute with the weights of their module and do not call it: another kind's layer in it would be passed over.
# So does DoRA, which needs their norm.
NOT_OVER_OTHERS = {"HRA", "SUPERTUNING"}
# What narrows down the modules that target_modules names.
NARROWING = ("layers_to_transform", "layers_pattern", "exclude_modules")

# These look at the list of all active adapters, and may be shown their own only.
CHOOSY = (LNTuningLayer, TrainableTokensLayer)

# These turn what comes in, one adapter after the other: in the weights the last one is the innermost.
TURNING = (OFTLayer,)

# One PEFT tuner for each kind of adapter: PEFT's own operations over all adapters of a kind are its methods.
Tuners = dict[str, BaseTuner]


def own_copy(config: peft.PeftConfig, model: nn.Module, inference_mode: bool) -> peft.PeftConfig:
    """A copy of `config` that PEFT may change, saying which base it is for and whether it trains.

    Raises:
        ConfigError: its targets are no regular expression, or a size in it is too small.
    """
    check_sizes(config)
    matches(vars(config).get("target_modules") or "", "")
    config = as_ours(copy.deepcopy(config))
    if not inference_mode:
        _note_idle_names(model, config)
    if isinstance(config, LoRAConfig):
        config.fit(model)
    config.inference_mode = inference_mode
    config.base_model_name_or_path = model.__dict__.get("name_or_path") or config.base_model_name_or_path or None
    return config


def _note_idle_names(model: nn.Module, config: peft.PeftConfig) -> None:
    """Warn of names in `config` that no module has: PEFT passes them over as long as another one fits."""
    paths = [path for path, _ in outside(model)]
    for field in ("target_modules", "modules_to_save"):
        names = vars(config).get(field) or ()
        if isinstance(names, str) or (field == "modules_to_save" and str(config.task_type).endswith("_CLS")):
            continue  # PEFT adds the heads that a classifier may have
        idle = [name for name in sorted(names) if not any(matches([name], path) for path in paths)]
        if field == "target_modules" and len(idle) == len(names):
            continue  # an error says so
        for name in idle:
            error = no_target(model, [name])
            logger.warning("%s: %s; %s", field, error.what, error.fix)


def get_peft_model(model: Any, config: peft.PeftConfig, name: str) -> peft.PeftModel:
    """PEFT's own model around `model`, with the adapter `name` in the precision that its config asks for.

    Raises:
        UnknownNameError: no module is named as the targets say.
    """
    kind = kind_of(config).value
    if config.is_prompt_learning and config.task_type is None:
        raise ConfigError("CONFIG-02", f"{kind} needs task_type, which says where the prompt goes", fix="CAUSAL_LM")
    try:
        with base_kept(model, config, name):
            tuned = peft.get_peft_model(model, config, adapter_name=name)
    except peft.NoMatchingPeftModuleError as error:
        raise nothing_to_tune(model, config) from error
    except SwiftError:
        raise
    except (ValueError, TypeError) as error:
        if not config.is_prompt_learning and _aims_at_nothing(model, config):
            raise nothing_to_tune(model, config) from error
        raise ConfigError("CONFIG-02", f"{kind} cannot be added: {error}") from error
    assert isinstance(tuned, peft.PeftModel)
    guard_saving(model, tuned if config.is_prompt_learning else tuner_of(tuned))
    if config.is_prompt_learning:
        say_positions(model)
    cast(tuned, config, list(owned(tuned, config, name)))
    return saves_plainly(tuned)


def add_to_peft_model(model: peft.PeftModel, config: peft.PeftConfig, name: str) -> None:
    """Add the adapter `name` to one of PEFT's own models, as `get_peft_model` adds the first."""
    with base_kept(model, config, name):
        model.add_adapter(name, config)
    cast(model, config, list(owned(model, config, name)))
    saves_plainly(model)


def inject(
    model: nn.Module, tuners: Tuners, config: peft.PeftConfig, name: str, inference_mode: bool
) -> peft.PeftConfig:
    """Wrap the modules that `config` targets; return the copy of it that PEFT now holds.

    Raises:
        UnknownNameError: no module is named as the targets say.
        ConfigError: PEFT has this kind only as a model around a model, or cannot put it where others are; the model is
            as it was then.
    """
    kind = kind_of(config).value
    tuner_class = _measuring(PEFT_TYPE_TO_TUNER_MAPPING[kind_of(config)])
    check_company(config, name)
    config = own_copy(config, model, inference_mode)
    model.__dict__.pop("peft_config", None)  # or PEFT takes the other kinds' configs for this kind's
    try:
        with branches_aside(model), base_kept(model, config, name):
            if kind not in tuners:
                tuners[kind] = tuner_class(model, config, name)
            else:
                tuners[kind].peft_config[name] = config
                tuners[kind].active_adapter = name
                tuners[kind].inject_adapter(model, name)
        merged_linear.install(model, config, name)
    except peft.NoMatchingPeftModuleError as error:
        if kind in tuners:
            del tuners[kind].peft_config[name]
        raise nothing_to_tune(model, config) from error
    except ConfigError:
        unload(model, tuners, [name])
        raise
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        unload(model, tuners, [name])
        if _aims_at_nothing(model, config):
            raise nothing_to_tune(model, config) from error
        raise ConfigError("CONFIG-02", f"adapter {name!r}: {kind} cannot be added: {error}") from error
    finally:
        declare(model, tuners)
    if kind in NOT_OVER_OTHERS or vars(config).get("use_dora"):
        _check_alone(model, tuners, name)
    cast_adapter_dtype(model, adapter_name=name)  # half to float32, as PEFT's own models do
    cast(model, config, list(owned(model, config, name)))
    return config


def check_company(config: peft.PeftConfig, name: str) -> None:
    """Raise ConfigError for a kind of PEFT's that works only as a model around a model."""
    kind = "aLoRA" if vars(config).get("alora_invocation_tokens") else kind_of(config).value
    if kind in ONLY_ALONE:
        raise ConfigError(
            "CONFIG-02",
            f"{kind} cannot be one of several tuners",
            why="PEFT has it only as a model around the model",
            fix=f"pass the config of {name!r} alone, without a dict, to a plain model",
        )


def _measuring(tuner_class: type[Any]) -> type[Any]:
    """PEFT's class; if it measures the modules to wrap, as VeRA's does, it sees them inside other kinds' layers."""
    if "_find_dim" not in dir(tuner_class):
        return tuner_class

    def find(self: Any, config: peft.PeftConfig) -> tuple[int, int]:
        with _bare(self.model):
            return tuner_class._find_dim(self, config)

    return type(tuner_class.__name__, (tuner_class,), {"_find_dim": find})


@contextmanager
def _bare(model: nn.Module) -> Iterator[None]:
    """Put what PEFT's layers wrap in their place, for as long as this lasts."""
    layers = [(path, module) for path, module in outside(model) if path and isinstance(module, BaseTunerLayer)]
    for path, layer in layers:
        model.set_submodule(path, layer.get_base_layer())
    try:
        yield
    finally:
        for path, layer in layers:
            model.set_submodule(path, layer)


def nothing_to_tune(model: nn.Module, config: peft.PeftConfig) -> SwiftError:
    """The error for a config that leaves no module: none has a target's name, or other fields keep them out."""
    targets, inside = vars(config).get("target_modules"), vars(config).get("target_parameters")
    if inside and not targets:
        endings = {".".join(key.split(".")[-2:]) for key, _ in model.named_parameters()}
        return unknown("parameter of this model", next(iter(inside)), endings)
    if targets == "all-linear" or not _aims_at_nothing(model, config):
        keeping = [field for field in NARROWING if vars(config).get(field)]
        what = f"none of the modules that target_modules names is left by {' and '.join(keeping) or 'the other fields'}"
        said = ", ".join(f"{field}={vars(config)[field]!r}" for field in keeping)
        return ConfigError("CONFIG-02", what, why=said or None, fix="leave one of them out")
    error = no_target(model, targets)
    every = targets is not None and "ALL" in {targets if isinstance(targets, str) else "", *targets}
    fix = "target_modules='all-linear', as ALL is called in Python"
    return UnknownNameError(error.code, error.what, fix=fix) if every else error


def _aims_at_nothing(model: nn.Module, config: peft.PeftConfig) -> bool:
    targets = vars(config).get("target_modules")
    if targets == "all-linear" or vars(config).get("target_parameters"):
        return False
    return not any(matches(targets or [], path) for path, _ in outside(model))


def _check_alone(model: nn.Module, tuners: Tuners, name: str) -> None:
    """Raise ConfigError where the new adapter `name` would pass over what another kind does to the same module."""
    for path, layer in outside(model):
        if isinstance(layer, BaseTunerLayer) and _has(layer, name) and _is_layer(layer._modules.get("base_layer")):
            unload(model, tuners, [name])
            what = f"adapter {name!r} works on the weights of {path} and would undo the adapters that are there"
            raise ConfigError("CONFIG-02", what, fix=f"add {name!r} first, or give it other target_modules")


def tuner_of(model: peft.PeftModel) -> Any:
    """PEFT's tuner in its model. Raises ConfigError for prompt methods, which change no weights and have none."""
    if not isinstance(model.base_model, BaseTuner):
        raise ConfigError(
            "MERGE-01",
            "a prompt method adds tokens and changes no weights: nothing can be merged",
            fix="keep the adapter; it is loaded with Swift.from_pretrained",
        )
    return model.base_model


def declare(model: nn.Module, tuners: Tuners) -> None:
    """Leave on `model` the attribute by which PEFT's functions know their configs."""
    configs = {name: config for tuner in tuners.values() for name, config in tuner.peft_config.items()}
    model.__dict__.pop("peft_config", None)
    if configs:
        model.__dict__["peft_config"] = configs


def follow(model: nn.Module, active: Active) -> None:
    """Let every PEFT layer of `model` ask `active` which adapters run.

    PEFT's layers keep that list in one attribute each; all of them now share ours, which may differ by thread. A layer
    none of whose adapters is active counts as disabled, and costs one call.
    """
    for layer in _layers(model):
        known = _adapters(layer)
        layer._active_adapter = ActiveHere(active, known) if _is_choosy(layer) else active
        layer._disable_adapters = Idle(active, known)
    for wrapper in model.modules():
        if isinstance(wrapper, AuxiliaryTrainingWrapper):
            modules: list[Any] = [wrapper, *_layers(wrapper)]
            for module in modules:
                module._active_adapter = ActiveHere(active, wrapper._adapters)


def owned(model: nn.Module, config: peft.PeftConfig, name: str) -> dict[str, str]:
    """The adapter's keys in `model.state_dict()`, each with its pattern: `{}` stands for the adapter's name.

    They are found by where they are and not by how they are spelled, so no name of an adapter can catch another's.
    The pattern leaves out wrappers: a layer may gain one from another adapter.
    """
    places: dict[str, str] = {}
    biases, state, seen = set(), model.state_dict(), set()
    for path, module in model.named_modules():
        if _is_layer(module):
            children = [(key, child) for key, child in module.named_children() if key not in COMPUTED]
            new = {key: child for key, child in children if _holds(child, name) and id(child) not in seen}
            seen |= {id(child) for child in new.values()}  # what all layers share, as VeRA's matrices, is saved once
            stems = [f"{path}.{attribute}." for attribute in new]
            places |= {stem + name: re.sub(r"(\.base_layer)+\.", ".", stem) + "{}" for stem in stems}
            biases |= {f"{path}.base_layer.bias"} if stems else set()
    own: dict[str, str] = {}
    for key in state:
        place = key
        while place and place not in places:
            place = place.rpartition(".")[0]
        if place:
            own[key] = places[place] + key.removeprefix(place)
    bias = vars(config).get("bias", "none")
    if bias == "all":
        added = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, (Branch, *CONTAINERS)))
        own |= {key: key for key in state if re.search(r"(^|\.)bias$", key) and not key.startswith(added)}
    elif bias != "none":
        own |= {key: key for key in biases if key in state}
    return own


def peft_keys(keys: Iterable[str], name: str, config: peft.PeftConfig) -> dict[str, str]:
    """The key in a file of PEFT's for each of our `keys`: with PEFT's prefix, and without the adapter's `name`.

    Raises:
        DataError: PEFT's file holds what becomes of them, and not they themselves.
    """
    if config.is_prompt_learning:
        return prompts.peft_keys(keys, config)
    start = PEFT_TYPE_TO_PREFIX_MAPPING[kind_of(config)]
    shared = {f"{matrix}.{name}": f"base_model.{matrix}" for matrix in ("vera_A", "vera_B")}
    ends = {key: ".".join(key.split(".")[-2:]) for key in keys}
    return {key: shared.get(end) or PEFT_PREFIX + _peft_key(key, name, start) for key, end in ends.items()}


def _peft_key(key: str, name: str, start: str) -> str:
    parts = key.replace(f".modules_to_save.{name}.", ".").split(".")
    for place in (-2, -1):
        if len(parts) + place > 0 and parts[place] == name and parts[place - 1].startswith((start, TOKENS)):
            del parts[place]
            break
    if parts[-2:] == ["lora_magnitude_vector", "weight"]:
        parts.pop()
    return ".".join(parts)


def merge(model: nn.Module, tuners: Iterable[Any], names: Collection[str], *, keep: bool) -> None:
    """Add what the adapters `names` change to the weights that they change it of. Innermost layers come first.

    Args:
        model: where the layers are.
        tuners: PEFT's tuners of the adapters.
        names: the adapters.
        keep: keep a copy of each changed weight in main memory, for `unmerge`.

    Raises:
        ConfigError: one of them works on what an adapter that stays gives out, or PEFT cannot merge it; nothing is
            merged then.
    """
    for path, module in outside(model):
        _check_order(path, module, names)
    changing = [(layer, new) for layer in reversed(_layers(model)) if (new := _unmerged(layer, names))]
    check_no_copies([layer.get_base_layer() for layer, _ in changing], names)
    check_untied(model, names)
    try:
        for tuner in tuners:
            tuner._check_merge_allowed()
        if keep:
            _keep([layer for layer, _ in changing], afresh=not is_merged(model))
        for layer, new in changing:
            with onload_layer(layer):
                layer.merge(adapter_names=new[::-1] if isinstance(layer, TURNING) else new)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError("MERGE-01", f"{', '.join(names)} cannot be merged: {error}") from error


def check_untied(model: nn.Module, names: Collection[str]) -> None:
    """Raise ConfigError if a weight that merging the adapters `names` would change is that of another module, too."""
    owners: dict[int, list[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(path.replace(".base_layer.", "."))
    twins = {id(layer.tied_adapter) for layer in _layers(model) if isinstance(layer, TrainableTokensLayer)}
    for layer in _layers(model):
        # tokens that are trained in a tied table are trained in both of its places, by one tensor
        if id(layer) in twins or (isinstance(layer, TrainableTokensLayer) and layer.tied_adapter):
            continue
        for parameter in layer.get_base_layer().parameters(recurse=False) if _unmerged(layer, names) else ():
            if len(set(owners.get(id(parameter), ()))) > 1:
                what = f"{', '.join(names)} cannot be merged: {' and '.join(owners[id(parameter)])} are one tensor"
                why = "what is added to the weight of one would change what the other computes"
                raise ConfigError("MERGE-01", what, why=why, fix="keep the adapter, or untie the model before training")


def _unmerged(layer: Any, names: Collection[str]) -> list[str]:
    return [name for name in names if _has(layer, name) and name not in layer.merged_adapters]


def _keep(layers: Iterable[Any], afresh: bool) -> None:
    """Keep the parameters under `layers` as they are now; unless `afresh`, what is kept already is the original."""
    for host in {id(host): host for layer in layers if (host := layer.get_base_layer())}.values():
        if afresh or KEPT not in vars(host):
            own = host.named_parameters(recurse=False)
            vars(host)[KEPT] = {name: (p, p.data.to("cpu", copy=True)) for name, p in own}


def _check_order(path: str, layer: Any, names: Collection[str]) -> None:
    """Raise ConfigError if a layer would be merged into the weights past one, inside it, that stays."""
    chain = []
    while isinstance(layer, BaseTunerLayer):
        chain.append(layer)
        layer = vars(layer)["_modules"].get("base_layer")
    staying: list[str] = []
    for wrapper in reversed(chain):
        here = {name for name in wrapper.active_adapters if _has(wrapper, name)}
        if staying and here & set(names):
            what = f"{min(here & set(names))!r} cannot be merged without {staying[0]!r}, on which it builds in {path}"
            raise ConfigError("MERGE-01", what, fix="merge both, or deactivate the other one first")
        staying += sorted(here - set(names))


def unmerge(model: nn.Module) -> None:
    """Put the weights back that `merge` kept, bit for bit; what PEFT merged on its own is subtracted, as PEFT does."""
    for layer in _layers(model):
        if KEPT in vars(layer.get_base_layer()):
            layer.merged_adapters = []
            vars(layer).get("_caches", {}).clear()  # what DoRA puts by for PEFT's own unmerging
        elif layer.merged:
            layer.unmerge()
    for host in model.modules():
        for name, (parameter, values) in vars(host).pop(KEPT, {}).items():
            parameter.data = values.to(parameter)
            vars(host).pop(name, None)  # PEFT leaves a plain tensor in the place of some parameters
            host.register_parameter(name, parameter)


def is_merged(model: nn.Module) -> bool:
    """Whether an adapter is merged into weights of `model`."""
    return any(layer.merged for layer in _layers(model))


def unload(model: nn.Module, tuners: Tuners, names: Collection[str], *, adopt: bool = True) -> None:
    """Take the adapters `names` out, with the layers that hold no other; what is merged stays in the weights.

    Args:
        model: where the layers are.
        tuners: PEFT's tuners, of which those without an adapter go.
        names: the adapters.
        adopt: whether the model keeps the whole modules that they trained, in the place of its own.
    """
    with branches_aside(model):
        places = [path for path, module in outside(model) if _is_layer(module)]
        for path in places:
            parent, _, key = path.rpartition(".")
            setattr(model.get_submodule(parent), key, _without(model.get_submodule(path), names, adopt))
    for kind, tuner in list(tuners.items()):
        for name in set(names) & set(tuner.peft_config):
            del tuner.peft_config[name]
        if not tuner.peft_config:
            del tuners[kind]
    declare(model, tuners)


def _without(layer: Any, names: Collection[str], adopt: bool) -> nn.Module:
    """What is left of `layer` and the layers that it wraps without the adapters `names`."""
    if not _is_layer(layer):
        return layer
    mine = [name for name in names if _has(layer, name)]
    others = [name for name in _adapters(layer) if name not in names]
    if isinstance(layer, ModulesToSaveWrapper):
        return _without_copies(layer, mine, bool(others), adopt)
    if not others and "unload_and_optionally_merge_module" in dir(layer):
        return layer.unload_and_optionally_merge_module(merge=False, safe_merge=False, adapter_names=mine)
    layer.base_layer = _without(layer.base_layer, names, adopt)
    for name in mine:
        layer.merged_adapters = [merged for merged in layer.merged_adapters if merged != name]
        layer.delete_adapter(name)
    return layer if others else layer.base_layer


def _without_copies(wrapper: ModulesToSaveWrapper, names: list[str], others: bool, adopt: bool) -> nn.Module:
    """The wrapper of a whole module, or that module, whose place the trained copy takes where it is to `adopt` it."""
    if names and adopt:
        wrapper.original_module = wrapper.modules_to_save[names[0]]
    for name in names:
        wrapper.delete_adapter(name, [])
    return wrapper if others else wrapper.original_module


def _is_choosy(layer: Any) -> bool:
    return isinstance(layer, CHOOSY)


def _is_layer(module: Any) -> bool:
    return isinstance(module, LAYERS)


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _has(layer: Any, name: str) -> bool:
    return any(_holds(child, name) for child in layer.children())


def _holds(child: nn.Module, name: str) -> bool:
    return isinstance(child, CONTAINERS) and name in child


def _adapters(layer: nn.Module) -> set[str]:
    return {name for child in layer.children() if isinstance(child, CONTAINERS) for name in child}
