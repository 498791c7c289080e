"""LoRAModel: a model whose matching layers have LoRA, as PaddleNLP offers it."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from swift import dist
from swift.errors import ConfigError, UsageError
from swift.log import get_logger
from swift.parallel.plan import group_of
from swift.peft import pdparams
from swift.peft.config import CONFIG, LoRAConfig, writable
from swift.peft.layers import LoRALayer, with_lora
from swift.peft.weights import (
    check_degree,
    check_fit,
    degree_of,
    own_parts,
    paddle_layout,
    put,
    read_shards,
    read_weights,
    settle_degree,
    shard_name,
    weights_name,
    wholes,
)
from swift.peft.wrapper import Wrapper

STEM, MISPRINT = "lora_model_state", "lora_mode_state.pdparams"


class LoRAModel(Wrapper):
    """A model with LoRA in place of the layers that `lora_config.target_modules` matches; it is changed in place.

    Nothing is frozen until `mark_only_lora_as_trainable()`. `eval()` and `train()` fold and unfold with
    `merge_weights`; folded, each target takes the size of its weight once more. The `state_dict()` of this model has
    the weights as they are trained, folded or not, so that a checkpoint made between is right; that of its `model` has
    them as they stand.

    Args:
        model: any PyTorch model.
        lora_config: the options; a copy is kept as `lora_config`.

    Raises:
        ConfigError: also a ValueError; a value makes no sense, a pattern matches something else than a layer that can
            have LoRA, or nothing is matched at all.
        TypeError: enable_lora_list is not shaped like target_modules.
    """

    def __init__(self, model: nn.Module, lora_config: LoRAConfig) -> None:
        super().__init__(model)
        lora_config.check()
        self.lora_config = copy.deepcopy(lora_config)
        settle_degree(self.lora_config, "lora_config", model)
        self.replaced = _replace(model, self.lora_config)
        tied = self._tied() if self.lora_config.merge_weights else None
        if tied:
            self.restore_original_model()
            raise tied

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module,
        lora_path: str | Path,
        lora_config: LoRAConfig | None = None,
        merge_tensor_parallel: bool = False,
    ) -> Self:
        """The model with the LoRA that a directory holds, ours or PaddleNLP's.

        Without a file of weights LoRA starts new, and the log says so as an error.

        Args:
            model: the base model.
            lora_path: the directory.
            lora_config: None reads the one in the directory.
            merge_tensor_parallel: whether files of several tensor-parallel ranks are put together.

        Raises:
            DegreeError: also a NotImplementedError; it holds such files, of other ranks than the model has, and
                `merge_tensor_parallel` is off.
            DataError: the config or weights are damaged, or do not fit the model.
        """
        directory = Path(lora_path)
        config = LoRAConfig.from_pretrained(directory) if lora_config is None else lora_config
        degree = config.tensor_parallel_degree
        check_degree(directory, degree, merge_tensor_parallel, model)
        lora = cls(model, config)
        lora.load_pretrained(directory, degree)
        return lora

    def load_pretrained(self, directory: Path, degree: int = 1) -> None:
        """Read the weights that a directory holds, those of `degree` tensor-parallel ranks; without a file all stays.

        Of a model that is cut, this process takes its part.

        Raises:
            DataError: they are damaged, or do not fit the model.
        """
        group = group_of(self.model)
        if group is not None and degree == group.degree:
            found = read_weights(self.model, directory, [weights_name(STEM, shard_name(group))])
        elif degree > 1:
            found = own_parts(self.model, read_shards(self.model, directory, STEM, degree))
        else:
            found = read_weights(self.model, directory, [weights_name(STEM, None), MISPRINT])
            found = found and own_parts(self.model, found)
        if found is not None:
            needed = [f"{path}.{name}" for path in self.layers() for name in ("lora_A", "lora_B")]
            self._load(found, needed, str(directory))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """All tensors, as `nn.Module.state_dict`; unfolded where they are folded."""
        state = super().state_dict(*args, **kwargs)
        for path, tensor in self._unfolded().items():
            state[f"{kwargs.get('prefix', '')}model.{path}"] = tensor
        return state

    def set_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load tensors, named as in `get_trainable_state_dict()`; all others stay.

        Raises:
            DataError: a name or shape that the model does not have.
        """
        self._load(state_dict, (), "the state dict")

    def get_trainable_state_dict(self) -> dict[str, Tensor]:
        """The parameters that are trained, under their names in the base model; unfolded where they are folded."""
        unfolded = self._unfolded()
        trained = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        return {name: unfolded.get(name, tensor) for name, tensor in trained.items()}

    def save_pretrained(
        self,
        save_directory: str | Path,
        merge_tensor_parallel: bool = False,
        variant: str | None = None,
        is_main_process: bool | None = None,
    ) -> None:
        """Write what is trained (`lora_model_state.pdparams`) and the config (`lora_config.json`).

        Args:
            save_directory: made when missing.
            merge_tensor_parallel: of a model that is cut between processes, all of which have to call this: whether
                one file is written, as of one process, or each writes its part (`lora_model_state.tp00.pdparams`).
            variant: a word in the file's name: `lora_model_state.<variant>.pdparams`.
            is_main_process: the others write nothing but their parts; None asks the environment.
        """
        group, tensors = group_of(self.model), self.get_trainable_state_dict()
        main = dist.is_main() if is_main_process is None else is_main_process
        merged = group is None or merge_tensor_parallel
        if group is not None and merged:
            tensors = wholes(self.model, tensors)
        if main or (group is not None and not merged and group.replica == 0):
            words = [] if group is None or merged else [shard_name(group)]
            name = weights_name(STEM, ".".join([*([variant] if variant else []), *words]) or None)
            pdparams.write(writable(save_directory) / name, paddle_layout(self.model, tensors))
        if main:
            degree = -1 if merged else degree_of(self.model)
            replace(self.lora_config, tensor_parallel_degree=degree).save_pretrained(writable(save_directory))

    def mark_only_lora_as_trainable(self) -> None:
        """Freeze all but A and B, and the biases and modules that the config names."""
        config = self.lora_config
        self.model.requires_grad_(False)
        for layer in self.layers().values():
            layer.lora_A.requires_grad_(True)
            layer.lora_B.requires_grad_(True)
            if config.trainable_bias == "lora" and layer.bias is not None:
                layer.bias.requires_grad_(True)
        patterns = _listed(config.trainable_modules)
        for name, parameter in self.model.named_parameters():
            bias = config.trainable_bias == "all" and name.endswith("bias")
            if bias or any(re.fullmatch(pattern, name) for pattern in patterns):
                parameter.requires_grad_(True)

    def create_optimizer_param_groups(self, lr: float | None = None, **defaults: Any) -> list[dict[str, Any]]:
        """Groups of what is trained, for an optimizer: B learns at `lr · lora_plus_scale`, all else at `lr`.

        Args:
            lr: the learning rate of A.
            defaults: what every group gets, such as `weight_decay`.

        Raises:
            UsageError: a `lora_plus_scale` other than 1 without `lr`.
        """
        scale = self.lora_config.lora_plus_scale
        rate = {} if lr is None else {"lr": lr}
        if lr is None and scale != 1:
            raise UsageError("USAGE-03", "lora_plus_scale needs lr", fix="create_optimizer_param_groups(lr=1e-4, ...)")
        faster = {id(layer.lora_B) for layer in self.layers().values()} if lr is not None and scale != 1 else set()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [{"params": [p for p in trained if id(p) not in faster], **defaults, **rate}]
        groups += [{"params": [p for p in trained if id(p) in faster], **defaults, "lr": (lr or 0) * scale}]
        return [group for group in groups if group["params"]]

    def merge(self) -> None:
        """Fold LoRA into the weights of its layers, whatever `merge_weights` says; `unmerge()` undoes it."""
        tied = self._tied()
        if tied:
            raise tied
        for layer in self.layers().values():
            layer.fold()

    def unmerge(self) -> None:
        """Give all weights back bit for bit as they were before folding."""
        for layer in self.layers().values():
            layer.unfold()

    def restore_original_model(self) -> nn.Module:
        """The base model with its own layers in place of those with LoRA, and its own weights."""
        self.unmerge()
        for path, plain in self.replaced.items():
            layer = self.model.get_submodule(path)
            plain.weight, plain.bias = layer.weight, layer.bias
            plain.train(layer.training)
            _set(self.model, path, plain)
        self.replaced = {}
        return self.model

    def layers(self) -> dict[str, LoRALayer]:
        """The layers with LoRA, by path."""
        return {path: module for path, module in self.model.named_modules() if isinstance(module, LoRALayer)}

    def _unfolded(self) -> dict[str, Tensor]:
        """The own weights of the layers that are folded, under their names in the base model."""
        layers = self.layers().items()
        return {f"{path}.weight": layer.unfolded for path, layer in layers if layer.unfolded is not None}

    def _load(self, tensors: Mapping[str, Tensor], needed: Sequence[str], what: str) -> None:
        check_fit(self.model, tensors, needed, what)
        folded = [layer for layer in self.layers().values() if layer.merged]
        self.unmerge()
        put(self.model, tensors)
        for layer in folded:
            layer.fold()

    def _tied(self) -> ConfigError | None:
        """What is wrong with folding into a weight that another module uses too, as a head tied to the embedding does.

        None where no weight is shared so.
        """
        users: dict[int, list[str]] = {}
        for path, module in self.model.named_modules():
            for name, parameter in module.named_parameters(path, recurse=False):
                users.setdefault(id(parameter), []).append(name)
        for path, layer in self.layers().items():
            others = [name for name in users[id(layer.weight)] if name != f"{path}.weight"]
            if others:
                what = f"the weight of {path} is also {others[0]}: folding would change both"
                fix = f"merge_weights=False, or leave {path} out of target_modules"
                return ConfigError(CONFIG, what, fix=fix)
        return None


def _replace(model: nn.Module, config: LoRAConfig) -> dict[str, nn.Module]:
    """Put LoRA into the layers that the config matches; give the plain ones by path."""
    replaced: dict[str, nn.Module] = {}
    modules = [(path, module) for path, module in model.named_modules(remove_duplicate=False) if path]
    already = next((path for path, module in modules if isinstance(module, LoRALayer)), None)
    if already:
        raise ConfigError(CONFIG, f"{already} has LoRA already", fix="restore_original_model() first")
    made: dict[int, LoRALayer] = {}
    new: dict[str, LoRALayer] = {}
    for pattern, parts in _patterns(config):
        matched = [(path, module) for path, module in modules if re.fullmatch(pattern, path)]
        if not matched:
            get_logger().warning(f"target_modules: {pattern!r} matches no module of the model")
        for path, module in matched:
            if path not in new:
                if id(module) not in made:
                    made[id(module)] = with_lora(path, module, config, parts)
                new[path], replaced[path] = made[id(module)], module
    if config.target_modules is None:
        get_logger().warning("target_modules is None: no layer gets LoRA; name some, such as '.*q_proj.*'")
    if config.target_modules is not None and not new:
        fix = "a regular expression has to match the whole path, such as '.*q_proj.*'"
        raise ConfigError(CONFIG, f"target_modules {config.target_modules!r} matches no module", fix=fix)
    for path, layer in new.items():
        _set(model, path, layer)
    return replaced


def _patterns(config: LoRAConfig) -> list[tuple[str, Sequence[bool] | None]]:
    """Each target pattern with its entry of enable_lora_list. Raises TypeError where the two do not go together."""
    targets, enabled = config.target_modules, config.enable_lora_list
    if targets is None:
        return []
    entries = [enabled] if isinstance(targets, str) else enabled
    patterns = _listed(targets)
    if entries is None:
        entries = [None] * len(patterns)
    said = f"enable_lora_list={enabled!r}"
    if not isinstance(entries, (list, tuple)) or len(entries) != len(patterns):
        raise TypeError(f"{said} needs one entry for each of the {len(patterns)} target_modules")
    for entry in entries:
        if entry is not None and not (isinstance(entry, (list, tuple)) and all(isinstance(on, bool) for on in entry)):
            raise TypeError(f"{said}: an entry is None or a list of bools; with one string as target it is that list")
    return list(zip(patterns, entries, strict=True))


def _listed(said: str | Sequence[str] | None) -> list[str]:
    return [said] if isinstance(said, str) else list(said or ())


def _set(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
