"""LLaMA-Pro: new blocks between the layers of a language model, which start as identities."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderCache, PreTrainedConfig, PreTrainedModel
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.tuners.branch import COPIES, Active, Branch, edit
from swift.tuners.config import SwiftConfig, place
from swift.tuners.layers import bare, find_layers, own_parameters, put, text_config

# What the matrices are called with which attention and the feed-forward part write to the residual stream.
OUTPUTS = frozenset(
    ("o_proj", "out_proj", "wo", "dense", "c_proj", "down_proj", "w2", "fc2", "fc_out", "dense_4h_to_h", "linear_out")
)


class NewBlocks(Branch):
    """Runs new blocks on what a layer returns, with the arguments that the layer was given.

    Each attention in them has a place of its own in the cache of keys and values, behind those of the layers.
    """

    def __init__(self, blocks: Sequence[nn.Module], layer: int, first_slot: int) -> None:
        super().__init__()
        self.blocks, self.layer, self.slots = nn.ModuleList(blocks), layer, range(first_slot, first_slot + len(blocks))
        for block, slot in zip(blocks, self.slots, strict=True):
            number(block, slot)
        self.proven = False

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as they are; a cache among them gets room for the new blocks."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, EncoderDecoderCache):
                make_room(value.self_attention_cache, self.layer, self.slots)
            elif isinstance(value, Cache):
                make_room(value, self.layer, self.slots)
        return args, kwargs

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The layer's output, with its hidden states sent through the new blocks."""
        dtype = next(self.blocks.parameters()).dtype
        rest = tuple(_cast(value, dtype) for value in args[1:])
        named = {key: _cast(value, dtype) for key, value in kwargs.items() if key != "hidden_states"}

        def run(hidden_BTD: Tensor) -> Tensor:
            _check_length(hidden_BTD, kwargs)
            new_BTD = hidden_BTD.to(dtype)
            for block in self.blocks:
                returned = block(new_BTD, *rest, **named)
                new_BTD = returned if isinstance(returned, Tensor) else returned[0]
            new_BTD = new_BTD.to(hidden_BTD.dtype)
            if not self.proven and not torch.compiler.is_compiling():
                self._prove(hidden_BTD, new_BTD)
            return new_BTD

        return edit(output, 0, run)

    def _prove(self, hidden_BTD: Tensor, new_BTD: Tensor) -> None:
        """Once: see that the blocks are identities as long as all that they write is zero."""
        self.proven = True
        written = [parameter for block in self.blocks for _, parameter in outputs_of(block)]
        if not any(parameter.any() for parameter in written) and not torch.equal(hidden_BTD, new_BTD):
            kind = type(self.blocks[0]).__name__
            raise ConfigError(
                "CONFIG-02",
                f"LLaMA-Pro cannot add a {kind}: it is no identity when all that it adds is zero",
                why="it does more to the hidden states than to add to them, such as a norm behind the sum",
            )


def _check_length(hidden_BTD: Tensor, kwargs: dict[str, Any]) -> None:
    """See that the layer has returned as many positions as its arguments are about."""
    mask, rotary = kwargs.get("attention_mask"), kwargs.get("position_embeddings")
    counts = {mask.shape[-2]} if isinstance(mask, Tensor) and mask.ndim == 4 else set()
    counts |= {rotary[0].shape[-2]} if isinstance(rotary, tuple) and rotary[0].ndim == 3 else set()
    if counts - {1, hidden_BTD.shape[1]}:
        what = f"LLaMA-Pro's new blocks are given {hidden_BTD.shape[1]} positions with arguments for {max(counts)}"
        fix = "add the tuner that makes the text longer after LLaMA-Pro, or let it take out what it has put in"
        raise ConfigError("CONFIG-02", what, why="a tuner inside them has left some in", fix=fix)


def outputs_of(block: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters with which a block writes to the residual stream: matrices, biases, stacked experts."""
    for path, parameter in block.named_parameters():
        parts = path.split(".")
        if parts[-1] in OUTPUTS or (len(parts) > 1 and parts[-2] in OUTPUTS):
            yield path, parameter


def number(block: nn.Module, index: int) -> None:
    """Tell everything in `block` that has a `layer_idx` that it is `index`."""
    for module in block.modules():
        if isinstance(vars(module).get("layer_idx"), int):
            vars(module)["layer_idx"] = index


def make_room(cache: Cache, layer: int, slots: range) -> None:
    """See that `cache` has places at `slots`, of the kind of the place `layer`.

    Raises:
        ConfigError: the cache was filled while the new blocks did not run.
    """
    layers: list[Any] = cache.layers
    while len(layers) <= layer and cache.layer_class_to_replicate is not None:
        layers.append(cache.layer_class_to_replicate())
    there = [cache.get_seq_length(slot) if slot < len(layers) else 0 for slot in slots]
    if cache.get_seq_length(layer) and not all(there):
        raise ConfigError(
            "CONFIG-02",
            "past_key_values was filled while LLaMA-Pro's new blocks were off",
            why="a prefix does so, or a call with another set of adapters",
            fix="start with an empty cache after an adapter is switched on; prompt tuning goes with LLaMA-Pro",
        )
    while len(layers) < slots.stop:
        fresh = copy.deepcopy(layers[layer])
        fresh.reset()
        layers.append(fresh)


def plain_copy(block: nn.Module) -> nn.Module:
    """A copy of a layer without what tuners have put in it."""
    twin = copy.deepcopy(block)
    for parent in list(twin.modules()):
        vars(parent).pop(COPIES, None)
        for key, child in list(parent.named_children()):
            if isinstance(child, Branch):
                delattr(parent, key)
            elif bare(child) is not child:
                setattr(parent, key, bare(child))
    return twin


def new_block(source: nn.Module) -> nn.Module:
    """A copy of a layer that is an identity: h + attention(h) + mlp(h) with the last matrix of both at zero.

    Raises:
        ConfigError: the layer is quantised, or no such matrix has a usual name.
    """
    block = plain_copy(source)
    if not all(parameter.dtype.is_floating_point for parameter in block.parameters()):
        raise ConfigError(
            "CONFIG-02",
            "the layers are quantised: a copy of one cannot train",
            fix="load the model without quantization",
        )
    block.to(**place(block)).requires_grad_(True)
    written = [parameter for _, parameter in outputs_of(block)]
    if not written:
        what = f"LLaMA-Pro finds no output projection in {type(block).__name__}"
        raise ConfigError("CONFIG-02", what, why=f"none is called {', '.join(sorted(OUTPUTS))}")
    for parameter in written:
        nn.init.zeros_(parameter)
    return block


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    return tuple(_cast(item, dtype) for item in value) if type(value) is tuple else value


@dataclass(kw_only=True)
class LLaMAProConfig(SwiftConfig):
    """New blocks among the layers, h' = h + attn(h), h'' = h' + mlp(h'), whose last matrices start at zero: identities.

    The L layers fall into G groups of M = L / G; behind each group come copies of its last P layers, P = num_new_blocks
    / G, and only these train.

    Paper: LLaMA Pro, https://arxiv.org/abs/2401.02415, section 3.2 (equations 1 to 4).
    Saved: the new blocks, under the layer that they come after: `model.layers.3.llamapro_default.blocks.0...`. Their
        final places (`model.layers.4...`) are theirs after `Swift.merge_and_unload`, which makes a plain deeper model
        that says so in its config. As long as it can be switched off, the config is that of the base; the cache of
        keys and values has P G places more behind the others.
    Cost: P G times the parameters of a layer, in float32 where the model is half, and as much more time and cache as
        layers; nothing of the model's old layers changes.

    Args:
        model_type: kept from configs written elsewhere; the layers are found by how the model is built.
        num_new_blocks: how many in all.
        num_groups: how many groups; None is one new block in each.
        target_modules: the list of layers by its path; empty finds it.
    """

    kind: ClassVar[str] = "llamapro"
    merges: ClassVar[bool] = True

    target_modules: str | Sequence[str] = ()
    model_type: str | None = None
    num_new_blocks: int = 4
    num_groups: int | None = None

    def inject(self, model: nn.Module, name: str, active: Active) -> None:
        """Put new blocks behind the last layer of each group.

        Raises:
            ConfigError: the numbers of layers, groups and blocks do not divide, or the layers cannot be copied.
        """
        path, layers = find_layers(model, self._key())
        size, each = self._shape(path, len(layers))
        taken = sum(len(module.slots) for module in model.modules() if isinstance(module, NewBlocks))
        if isinstance(model, PreTrainedModel):
            maybe_install_capturing_hooks(model)  # now, so that the new blocks' hidden states come behind their layer's
        places = [i for i in range(len(layers)) if (i + 1) % size == 0]
        sources = {i: [layers[j] for j in range(i + 1 - each, i + 1)] for i in places}
        _check_alike(model, {i: range(i + 1 - each, i + 1) for i in places})
        made = {i: [new_block(source) for source in sources[i]] for i in places}
        for order, (i, blocks) in enumerate(made.items()):
            branch = NewBlocks(blocks, _cache_place(layers[i], i), len(layers) + taken + order * each)
            put(layers[i], f"{self.kind}_{name}", branch, name, active)

    def merge(self, model: nn.Module, name: str) -> None:
        """Make the new blocks layers like the others, for good, and let the config say so.

        Raises:
            ConfigError: a model of that config would not be the model that is here.
        """
        layers, key = find_layers(model, self._key())[1], f"{self.kind}_{name}"
        for layer in layers:
            others = [other for other, child in layer.named_children() if isinstance(child, Branch) and other != key]
            if others:
                what = f"{name!r} cannot be merged while {others[0]} works on the same layers"
                raise ConfigError("MERGE-01", what, fix="merge it alone, on a model without the other tuner")
        deepen(model, layers, key)

    def _key(self) -> str | None:
        if not self.target_modules:
            return None
        return self.target_modules if isinstance(self.target_modules, str) else self.target_modules[0]

    def _shape(self, path: str, depth: int) -> tuple[int, int]:
        """How many layers a group has, and how many new blocks come behind it."""
        groups = self.num_new_blocks if self.num_groups is None else self.num_groups
        for what, number_of in (("num_new_blocks", self.num_new_blocks), ("num_groups", groups)):
            if number_of < 1:
                raise ConfigError("CONFIG-02", f"{what}={number_of} is below 1", fix=f"{what}=1")
        if depth % groups:
            fix = ", ".join(str(n) for n in range(1, depth + 1) if depth % n == 0)
            raise ConfigError(
                "CONFIG-02", f"{path} has {depth} layers, which is no multiple of {groups} groups", fix=fix
            )
        size, each = depth // groups, self.num_new_blocks // groups
        if self.num_new_blocks % groups or each > size:
            what = f"num_new_blocks={self.num_new_blocks} is no multiple of num_groups={groups}"
            what = what if self.num_new_blocks % groups else f"{each} new blocks for each group of {size} layers"
            raise ConfigError("CONFIG-02", what, why="each group gets equally many, at most as many as it has layers")
        return size, each

    @classmethod
    def from_options(cls, args: SftArguments, model: Any, default_targets: Sequence[str] = ()) -> LLaMAProConfig:
        """The blocks that the options `llamapro_...` ask for."""
        return cls(num_new_blocks=args.llamapro_num_new_blocks, num_groups=args.llamapro_num_groups)


def _cache_place(layer: nn.Module, index: int) -> int:
    places = [vars(module).get("layer_idx") for module in layer.modules()]
    return next((place for place in places if isinstance(place, int)), index)


def _check_alike(model: nn.Module, sources: dict[int, range]) -> None:
    """See that the layers that are copied behind layer i can be called as layer i is."""
    config = text_config(model)
    kinds = vars(config).get("layer_types") if config is not None else None
    for i, copied in sources.items():
        if kinds and {kinds[j] for j in copied} != {kinds[i]}:
            what = f"layers {copied.start} to {i} differ in kind, and their copies would all run behind layer {i}"
            raise ConfigError("CONFIG-02", what, fix="leave num_groups out: one new block behind each group")


def deepen(model: nn.Module, layers: nn.ModuleList, key: str) -> None:
    """Turn the new blocks under `key` of each of `layers` into layers behind it."""
    order: list[tuple[int, nn.Module]] = []
    for i, layer in enumerate(layers):
        order.append((i, layer))
        branch = dict(layer.named_children()).get(key)
        if isinstance(branch, NewBlocks):
            order += [(i, block) for block in branch.blocks]
    config = text_config(model)
    if config is not None:
        deeper = deeper_config(config, [i for i, _ in order], len(layers))
        _check_merged(model, layers, deeper, order)
        vars(config).update(vars(deeper))
    old = list(layers)
    for layer in old:
        if key in dict(layer.named_children()):
            delattr(layer, key)
    del layers[:]
    for index, (i, block) in enumerate(order):
        if block is not old[i]:
            block.to(next(parameter.dtype for parameter in plain_parameters(old[i]))).requires_grad_(False)
        number(block, index)
        layers.append(block)


def plain_parameters(layer: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of a layer without those that tuners have put in it."""
    for _, module in _inside(layer):
        yield from own_parameters(module).values()


def deeper_config(config: PreTrainedConfig, sources: Sequence[int], depth: int) -> PreTrainedConfig:
    """A copy of `config` for layers that are copies of the layers `sources`.

    Args:
        config: of a model with `depth` layers.
        sources: for each new layer the old one that it is, or comes after.
        depth: how many layers there were; lists of that length about layers get an entry for each new one.
    """
    deeper = copy.deepcopy(config)
    for key, value in vars(config).items():
        if isinstance(value, list) and len(value) == depth and "layer" in key:
            vars(deeper)[key] = [value[i] for i in sources]
    deeper.num_hidden_layers = len(sources)
    return deeper


def _check_merged(
    model: Any, layers: nn.ModuleList, deeper: PreTrainedConfig, order: Sequence[tuple[int, nn.Module]]
) -> None:
    """See that a model made from the config `deeper` has the layers that are here, by their classes and settings."""
    config = copy.deepcopy(model.config)
    vars(config.get_text_config(decoder=True)).update(vars(deeper))
    path = next(path for path, module in model.named_modules() if module is layers)
    with torch.device("meta"):
        fresh = type(model)(config).get_submodule(path)
    for index, (_, block) in enumerate(order):
        mine = dict(_inside(block))
        for where, module in fresh[index].named_modules():
            if where not in mine or not _settings(module).items() <= _settings(mine[where]).items():
                raise ConfigError(
                    "MERGE-01",
                    f"layer {index} of a {type(model).__name__} with {len(order)} layers would not be what it is here",
                    why=f"its {where or 'whole'} is made differently for that place",
                    fix="keep the checkpoint as an adapter",
                )


def _inside(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    module = bare(module)
    yield path, module
    for key, child in module.named_children():
        if not isinstance(child, Branch):
            yield from _inside(child, f"{path}.{key}" if path else key)


def _settings(module: nn.Module) -> dict[str, Any]:
    """What tells a module from one of another kind, but for its weights and its place."""
    passing = ("training", "layer_idx", "gradient_checkpointing")
    plain = {key: value for key, value in vars(module).items() if key not in passing and key[0] != "_"}
    return {key: value for key, value in plain.items() if isinstance(value, int | float | str)} | {
        "class": type(module).__name__
    }
