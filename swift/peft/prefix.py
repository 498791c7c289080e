"""PrefixModelForCausalLM: trained keys and values before those of the text, as PaddleNLP offers it.

Shapes: B batch, N prefix tokens, L layers, H heads of keys and values, D size of a head.
"""

from __future__ import annotations

import copy
import functools
import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from swift import dist, storage
from swift.errors import ConfigError, DataError, UsageError
from swift.log import get_logger
from swift.parallel.collectives import joined, spread
from swift.parallel.cuts import Cut, CutDropout, cut_down
from swift.parallel.groups import Group
from swift.parallel.plan import group_of, has_cut_heads
from swift.peft import pdparams
from swift.peft.config import CONFIG, PrefixConfig, as_dtype, writable
from swift.peft.hooks import prefix_attention_mask, split_layers
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

STEM, PRE_CACHES = "prefix_model_state", "pre_caches.npy"
Split = Callable[[Tensor], Sequence[tuple[Tensor, Tensor]]]
Pad = Callable[[Sequence[int], int, Tensor], Tensor]


class PrefixModelForCausalLM(Wrapper):
    """A causal language model that always has the prefix before its text.

    Masks and position ids are those of the caller's own tokens; the prefix is put before them here. A cache that holds
    something already, such as the last output's, has the prefix in it and gets no second one. Nothing is frozen until
    `mark_only_prefix_as_trainable()`.

    Args:
        model: the base model; its `forward` takes `past_key_values` as transformers' caches.
        prefix_config: the options; a copy is kept as `prefix_config`.
        postprocess_past_key_value: from [B, N, 2·L, H, D], all keys before all values, to the key and value of each
            layer, [B, H, N, D]; None is right for every model of transformers.
        pad_attention_mask: from the shape of input_ids, N and a mask to the mask with the prefix; None is
            `hooks.prefix_attention_mask`.

    Raises:
        ConfigError: also a ValueError; a value is missing, or is not that of the model.
        NotImplementedError: the model takes no past_key_values.
    """

    prefix_tokens: Tensor

    def __init__(
        self,
        model: nn.Module,
        prefix_config: PrefixConfig,
        postprocess_past_key_value: Split | None = None,
        pad_attention_mask: Pad | None = None,
    ) -> None:
        super().__init__(model)
        if "past_key_values" not in inspect.signature(model.forward).parameters:
            raise NotImplementedError(f"{type(model).__name__} takes no past_key_values: a prefix has no place in it")
        prefix_config.check()
        self.prefix_config = copy.deepcopy(prefix_config)
        settle_degree(self.prefix_config, "prefix_config", model)
        self.heads, self.head_dim = _heads(self.prefix_config, model)
        self.prefix_encoder = _encoder(self.prefix_config, self.heads * self.head_dim)
        self.prefix_encoder.to(next(model.parameters()).device)
        self.group = group_of(model) if has_cut_heads(model) else None
        if self.group is not None:  # what follows is made of the heads that this process has
            cut = Cut(0, self.group, 2 * (self.prefix_config.num_hidden_layers or 0))
            _cut_encoder(self.prefix_encoder, cut, self.prefix_config.prefix_dropout)
            self.heads //= self.group.degree
        tokens = torch.arange(_n(self.prefix_config), device=next(model.parameters()).device)
        self.register_buffer("prefix_tokens", tokens, persistent=False)
        self.postprocess_past_key_value = postprocess_past_key_value or split_layers
        self.pad_attention_mask = pad_attention_mask or prefix_attention_mask

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """What `forward` does: the base model's forward, with the prefix."""
        named = {**dict(zip(inspect.signature(self.model.forward).parameters, args, strict=False)), **kwargs}
        if self.training and any(module.__dict__.get("gradient_checkpointing") for module in self.model.modules()):
            why = "it computes layers again without the cache that the prefix is in"
            raise ConfigError(CONFIG, "a prefix cannot be trained with gradient checkpointing", why=why)
        return self.model(**self._with_prefix(named))

    def generate(self, **kwargs: Any) -> Any:
        """`model.generate`, with the prefix before the prompt; the result holds no trace of it.

        Raises:
            UsageError: also a ValueError; `input_ids` is missing, or a cache that is not empty is given.
        """
        if kwargs.get("input_ids") is None:
            raise UsageError(
                "USAGE-03",
                "input_ids must be given to generate() by its name",
                fix="model.generate(input_ids=input_ids, ...)",
            )
        if _length(kwargs.get("past_key_values")):
            raise UsageError(
                "USAGE-02",
                "generate() starts from the prefix: past_key_values must be empty",
                fix="leave past_key_values out",
            )
        model: Any = self.model
        own, prepare = vars(model).get("prepare_inputs_for_generation"), model.prepare_inputs_for_generation

        @functools.wraps(prepare)
        def prepare_with_prefix(input_ids: Tensor, **inputs: Any) -> dict[str, Any]:
            if inputs.get("use_cache") is False:  # each step begins anew: what the last one returned is of no use
                inputs["past_key_values"] = None
            prefixed = self._with_prefix({"input_ids": input_ids, **inputs})
            return prepare(prefixed.pop("input_ids"), **prefixed)

        model.prepare_inputs_for_generation = prepare_with_prefix
        try:
            return model.generate(**kwargs)
        finally:
            del model.prepare_inputs_for_generation
            if own is not None:
                model.prepare_inputs_for_generation = own

    def past_key_values(self, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """The prefix's key and value in each layer, [B, H, N, D], in the dtype of the model."""
        flat_BNF = self.prefix_encoder(self.prefix_tokens.unsqueeze(0).expand(batch_size, -1))
        pairs = self.postprocess_past_key_value(flat_BNF.unflatten(-1, (-1, self.heads, self.head_dim)))
        like = _like(self.model)
        return [(key.to(like), value.to(like)) for key, value in pairs]

    def mark_only_prefix_as_trainable(self) -> None:
        """Freeze the model, train the prefix encoder."""
        self.model.requires_grad_(False)
        self.prefix_encoder.requires_grad_(True)

    def save_pretrained(
        self,
        save_directory: str | Path,
        merge_tensor_parallel: bool = True,
        variant: str | None = None,
        is_main_process: bool | None = None,
    ) -> None:
        """Write the encoder (`prefix_model_state.pdparams`), the config and the prefix itself (`pre_caches.npy`).

        `pre_caches.npy` is float32 [L, 2, H, N, D]: what the encoder gives, without dropout; see `load_pre_caches`.

        Args:
            save_directory: made when missing.
            merge_tensor_parallel: of a model that is cut between processes, all of which have to call this: whether
                one file is written, as of one process, or each writes its part (`prefix_model_state.tp00.pdparams`).
            variant: a word in the file's name: `prefix_model_state.<variant>.pdparams`.
            is_main_process: the others write nothing but their parts; None asks the environment.
        """
        group, encoder, caches_L2HND = group_of(self.model), self.prefix_encoder, self._pre_caches()
        main = dist.is_main() if is_main_process is None else is_main_process
        merged = group is None or merge_tensor_parallel
        tensors = wholes(encoder, encoder.state_dict()) if merged else encoder.state_dict()
        if main or (group is not None and not merged and group.replica == 0):
            words = [] if group is None or merged else [shard_name(group)]
            name = weights_name(STEM, ".".join([*([variant] if variant else []), *words]) or None)
            pdparams.write(writable(save_directory) / name, paddle_layout(encoder, tensors))
        if main:
            directory, degree = writable(save_directory), -1 if merged else degree_of(self.model)
            replace(self.prefix_config, tensor_parallel_degree=degree).save_pretrained(directory)
            buffer = io.BytesIO()
            np.save(buffer, caches_L2HND.float().cpu().numpy(), allow_pickle=False)
            storage.write_bytes(directory / PRE_CACHES, buffer.getvalue())

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module,
        prefix_path: str | Path,
        postprocess_past_key_value: Split | None = None,
        pad_attention_mask: Pad | None = None,
        merge_tensor_parallel: bool = False,
    ) -> Self:
        """The model with the prefix that a directory holds, ours or PaddleNLP's.

        Without a file of weights the prefix starts new, and the log says so as an error.

        Args:
            model: the base model.
            prefix_path: the directory.
            postprocess_past_key_value: see the class.
            pad_attention_mask: see the class.
            merge_tensor_parallel: whether files of several tensor-parallel ranks are put together.

        Raises:
            DegreeError: also a NotImplementedError; it holds such files, of other ranks than the model has, and
                `merge_tensor_parallel` is off.
            DataError: the config or weights are damaged, or do not fit the model.
        """
        directory = Path(prefix_path)
        config = PrefixConfig.from_pretrained(directory)
        degree = config.tensor_parallel_degree
        check_degree(directory, degree, merge_tensor_parallel, model)
        prefix = cls(model, config, postprocess_past_key_value, pad_attention_mask)
        prefix.load_pretrained(directory, degree)
        return prefix

    def load_pretrained(self, directory: Path, degree: int = 1) -> None:
        """Read the weights that a directory holds, those of `degree` tensor-parallel ranks; without a file all stays.

        Raises:
            DataError: they are damaged, or do not fit the model.
        """
        encoder = self.prefix_encoder
        if degree > 1:  # ours are cut by heads, PaddleNLP's by tokens: put together, both are the same
            found = read_shards(encoder, directory, STEM, degree)
            check_fit(encoder, own_parts(encoder, found), encoder.state_dict(), str(directory))
            found = _heads_together(found, 2 * (self.prefix_config.num_hidden_layers or 0), degree)
        else:
            found = read_weights(encoder, directory, [weights_name(STEM, None)])
        if found is not None:
            found = own_parts(encoder, found)
            check_fit(encoder, found, encoder.state_dict(), str(directory))
            put(encoder, found)

    def set_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the encoder's tensors, named as in `prefix_encoder.state_dict()`; all others stay.

        Raises:
            DataError: a name or shape that the encoder does not have.
        """
        check_fit(self.prefix_encoder, state_dict, (), "the state dict")
        put(self.prefix_encoder, state_dict)

    def _with_prefix(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of the base model, with the prefix in the cache, the mask and the positions."""
        tokens = inputs["inputs_embeds"] if inputs.get("input_ids") is None else inputs["input_ids"]
        cache, mask, positions = (inputs.get(key) for key in ("past_key_values", "attention_mask", "position_ids"))
        n = len(self.prefix_tokens)
        new = dict(inputs)
        if not _length(cache):
            new["past_key_values"] = self._filled(cache, len(tokens))
        if mask is not None:
            padded = self.pad_attention_mask(tokens.shape[:2], n, mask)
            new["attention_mask"] = padded if padded.ndim == 2 else padded.to(_like(self.model))
        if positions is not None:
            new["position_ids"] = positions + n
        return new

    def _filled(self, cache: Cache | None, batch_size: int) -> Cache:
        if cache is not None and cache.is_compileable:
            what = "a cache of a fixed size has no room for the prefix"
            raise ConfigError(CONFIG, what, fix="leave out cache_implementation")
        filled = _new_cache(self.model) if cache is None else cache
        for layer, (key, value) in enumerate(self.past_key_values(batch_size)):
            filled.update(key, value, layer)
        return filled

    @torch.no_grad()
    def _pre_caches(self) -> Tensor:
        was_training = self.prefix_encoder.training
        self.prefix_encoder.eval()
        pairs = self.past_key_values(1)
        self.prefix_encoder.train(was_training)
        caches_L2HND = torch.stack([torch.cat(pair) for pair in pairs])
        return caches_L2HND if self.group is None else joined(caches_L2HND, 2, self.group)


def load_pre_caches(directory: str | Path, model: nn.Module, batch_size: int = 1) -> DynamicCache:
    """The prefix of a directory as a cache for the plain `model`, which then needs no wrapper to run with it.

    Args:
        directory: where `save_pretrained` wrote `pre_caches.npy`.
        model: the base model.
        batch_size: how many rows the cache is for.

    Returns:
        what the model's `forward` takes as `past_key_values`; its attention mask begins with N ones then.

    Raises:
        DataError: the file is missing or damaged, or is not for such a model.
    """
    file = Path(directory) / PRE_CACHES
    try:
        caches_L2HND = torch.from_numpy(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise DataError(
            "CKPT-01", f"{file} cannot be read", why=str(error), fix="copy it again from where it was made"
        ) from error
    layers = _text_config(model)["num_hidden_layers"]
    if caches_L2HND.ndim != 5 or caches_L2HND.shape[:2] != (layers, 2):
        what = f"{file} has the shape {tuple(caches_L2HND.shape)}, not [{layers}, 2, heads, tokens, head_dim]"
        raise DataError("CKPT-02", what)
    group = group_of(model) if has_cut_heads(model) else None
    caches_L2HND = caches_L2HND if group is None else Cut(2, group).part(caches_L2HND)
    cache = _new_cache(model)
    for layer, (key_HND, value_HND) in enumerate(caches_L2HND.to(_like(model))):
        cache.update(key_HND.expand(batch_size, -1, -1, -1), value_HND.expand(batch_size, -1, -1, -1), layer)
    return cache


def _cut_encoder(encoder: nn.Sequential, cut: Cut, dropout: float) -> None:
    """Leave in an encoder the outputs that are this process's heads.

    Args:
        encoder: whole.
        cut: of the outputs: a block for the keys and one for the values of each layer.
        dropout: of the outputs.
    """
    last: Any = encoder[3 if len(encoder) > 2 else 0]
    of_weight = cut if isinstance(last, nn.Linear) else replace(cut, axis=1)
    for name, parameter in last.named_parameters():
        cut_down(parameter, of_weight if name == "weight" else cut)
    if isinstance(last, nn.Linear):
        encoder[2].register_forward_hook(functools.partial(_spread, group=cut.group))
    encoder[-1] = CutDropout(dropout, replace(cut, axis=-1))


def _spread(module: nn.Module, inputs: Any, output: Tensor, group: Group) -> Tensor:
    return spread(output, group)


def _heads_together(tensors: Mapping[str, Tensor], blocks: int, degree: int) -> dict[str, Tensor]:
    """The encoder of several ranks in the order of one: from [ranks, 2·L, H/ranks, D] outputs to [2·L, H, D].

    Under tensor parallelism each rank takes its share of the encoder's outputs and reads it as its own heads.

    Args:
        tensors: the encoder's, whole.
        blocks: 2·L.
        degree: how many ranks there were.
    """

    def together(tensor: Tensor, axis: int) -> Tensor:
        of_ranks = tensor.movedim(axis, -1).unflatten(-1, (degree, blocks, -1))
        return of_ranks.transpose(-3, -2).flatten(-3).movedim(-1, axis)

    axes = {"3.weight": 0, "3.bias": 0} if "3.weight" in tensors else {"0.weight": 1}
    return {**tensors, **{name: together(tensors[name], axis) for name, axis in axes.items()}}


def _encoder(config: PrefixConfig, width: int) -> nn.Sequential:
    """From N token ids to [N, 2·L·width] numbers."""
    n, out = _n(config), 2 * (config.num_hidden_layers or 0) * width
    dtype, dropout = as_dtype(config.dtype), nn.Dropout(config.prefix_dropout)
    if not config.prefix_projection:
        return nn.Sequential(nn.Embedding(n, out, dtype=dtype), dropout)
    middle = config.prefix_projection_hidden_size or 0
    return nn.Sequential(
        nn.Embedding(n, width, dtype=dtype),
        nn.Linear(width, middle, dtype=dtype),
        nn.Tanh(),
        nn.Linear(middle, out, dtype=dtype),
        dropout,
    )


def _heads(config: PrefixConfig, model: nn.Module) -> tuple[int, int]:
    """Heads of keys and values and the size of one, the same in the config and in the model."""
    own = _text_config(model)
    said = {key: config.__dict__[key] for key in ("num_attention_heads", "num_hidden_layers", "hidden_size")}
    wrong = [f"{key}={value}, the model's is {own[key]}" for key, value in said.items() if own.get(key, value) != value]
    if wrong:
        raise ConfigError(CONFIG, f"PrefixConfig does not fit the model: {'; '.join(wrong)}")
    groups = own.get("num_key_value_heads") or config.num_attention_heads or 1
    if config.multi_query_group_num is None and groups != config.num_attention_heads:
        config.multi_query_group_num = groups
        get_logger().info(f"multi_query_group_num is {groups}, the model's heads of keys and values")
    heads = config.multi_query_group_num or config.num_attention_heads or 1
    if own and heads != groups:
        raise ConfigError(CONFIG, f"multi_query_group_num={heads}, the model has {groups} heads of keys and values")
    return heads, own.get("head_dim") or (config.hidden_size or 0) // (config.num_attention_heads or 1)


def _text_config(model: Any) -> dict[str, Any]:
    """The numbers of the model's text decoder, under transformers' usual names."""
    config = model.config.get_text_config(decoder=True)
    values = config.to_dict()
    return {**{usual: values[own] for usual, own in config.attribute_map.items() if own in values}, **values}


def _new_cache(model: Any) -> DynamicCache:
    return DynamicCache(config=model.config)


def _like(model: nn.Module) -> Tensor:
    """A parameter that has the model's dtype and place."""
    return next(p for p in model.parameters() if p.is_floating_point())


def _length(cache: Cache | None) -> int:
    return 0 if cache is None else int(cache.get_seq_length())


def _n(config: PrefixConfig) -> int:
    assert config.num_prefix_tokens is not None, "checked before"
    return config.num_prefix_tokens
