"""Which layers of a model are cut, and how: the plan that transformers has for it, checked against its sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from swift.errors import ConfigError
from swift.log import get_logger
from swift.parallel.collectives import summed
from swift.parallel.degrees import check_degree
from swift.parallel.groups import Group
from swift.parallel.layers import ColumnLinear, RowLinear, cut_embedding, split_cross_entropy

COLUMN, COLUMN_WHOLE, ROW, ROW_WHOLE = "colwise", "colwise_gather_output", "rowwise", "rowwise_split_input"
ROWS_OF_WORDS, SHARED = "embedding_rowwise", "replicated_with_grad_allreduce"
STYLES = {COLUMN, COLUMN_WHOLE, ROW, ROW_WHOLE, ROWS_OF_WORDS, SHARED}
KEYS = ("k_proj", "qkv_proj", "query_key_value")  # layers that make keys


def cut_model(model: PreTrainedModel, group: Group, *, whole_logits: bool = True) -> PreTrainedModel:
    """Cut a model as transformers' `tp_plan` for it says; changed in place.

    Args:
        model: the whole one; on the meta device, or the same in all processes.
        group: the processes that share it.
        whole_logits: whether every process has all logits, or its part of the vocabulary.

    Raises:
        ConfigError: there is no plan, it needs a kind of layer that is not offered, or the degree does not divide the
            model's sizes.
    """
    found = _styles(model)
    check_degree(group.degree, _sizes(model, found))
    words = _words(model, found)
    stay = _words_stay_whole(model, words, group.degree)
    for path, style in found.items():
        if path not in words or not stay:
            whole = style in (COLUMN_WHOLE, ROW_WHOLE) and (path not in words or whole_logits)
            _cut(model, path, style, group, whole)
    vars(model)["shared_paths"] = [path for path, style in found.items() if style == SHARED]
    model.tie_weights()
    head = model.get_output_embeddings()
    if isinstance(head, ColumnLinear) and not head.whole:
        model.loss_function = split_cross_entropy(group)
    vars(model)["tensor_parallel"] = group
    return model


def group_of(model: nn.Module) -> Group | None:
    """The processes that share a model; None for one that is whole."""
    return vars(model).get("tensor_parallel")


def has_cut_heads(model: nn.Module) -> bool:
    """Whether each process has its own heads of keys and values."""
    layers = [(path.rpartition(".")[2], module) for path, module in model.named_modules()]
    return any(isinstance(one, ColumnLinear) and not one.whole and name in KEYS for name, one in layers)


def _styles(model: PreTrainedModel) -> dict[str, str]:
    """The style of each module that the plan names, by path."""
    name, plan = type(model).__name__, dict(model.tp_plan or {})
    if not any(style in (COLUMN, ROW, ROW_WHOLE) for style in plan.values()):
        fix = "--deepspeed default-zero3, or --fsdp, which split any model"
        raise ConfigError("CONFIG-03", f"transformers has no tensor-parallel plan for {name}", fix=fix)
    paths = [path for path, _ in model.named_modules()]
    found: dict[str, str] = {}
    for pattern, style in plan.items():
        spelt = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
        named = {path: style for path in paths if spelt.fullmatch(path)}
        if style not in STYLES and (named or "experts" in pattern):
            what = f"{name} cannot be cut: its plan has {pattern} {style!r}"
            raise ConfigError("CONFIG-03", what, why="only dense decoders are offered")
        found |= named
    return found


def _sizes(model: PreTrainedModel, found: Mapping[str, str]) -> dict[str, int]:
    """What the degree has to divide, by the name that a user knows."""
    config = model.config.get_text_config(decoder=True)
    sizes = {"attention heads": int(config.num_attention_heads)}
    keys = any(path.endswith(("k_proj", "v_proj")) and style == COLUMN for path, style in found.items())
    if keys and config.num_key_value_heads:
        sizes["heads of keys and values"] = int(config.num_key_value_heads)
    for path, style in found.items():
        module = model.get_submodule(path)
        last = path.rpartition(".")[2]
        if style in (COLUMN, ROW, ROW_WHOLE, COLUMN_WHOLE) and type(module) is not nn.Linear:
            raise ConfigError("CONFIG-03", f"{path} is a {type(module).__name__}: only linear layers can be cut")
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings():
            rows = style in (ROW, ROW_WHOLE)
            sizes[f"{'inputs' if rows else 'outputs'} of {last}"] = module.in_features if rows else module.out_features
    return sizes


def _words(model: PreTrainedModel, found: Mapping[str, str]) -> set[str]:
    """The paths of the embedding and the head, as far as the plan names them."""
    named = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    return {path for path in found if id(model.get_submodule(path)) in named}


def _words_stay_whole(model: PreTrainedModel, words: set[str], degree: int) -> bool:
    embedding: Any = model.get_input_embeddings()
    vocabulary = int(embedding.weight.shape[0])
    tied = bool(model.config.get_text_config(decoder=True).tie_word_embeddings)
    stay = vocabulary % degree != 0 or (tied and len(words) < 2)
    if stay and words:
        get_logger().info(f"tensor parallel: embedding and head stay whole: {vocabulary} words, cut by {degree}")
    return stay


def _cut(model: nn.Module, path: str, style: str, group: Group, whole: bool) -> None:
    module = model.get_submodule(path)
    if isinstance(module, nn.Embedding):
        cut_embedding(module, group)
    elif isinstance(module, nn.Linear):
        parent, _, name = path.rpartition(".")
        kind = ColumnLinear if style in (COLUMN, COLUMN_WHOLE) else RowLinear
        setattr(model.get_submodule(parent), name, kind(module, group, whole))


def share_gradients(model: PreTrainedModel, group: Group) -> None:
    """Let parameters that all processes have, but use on heads of their own, get the sum of the gradients."""
    for path in vars(model)["shared_paths"]:
        for parameter in model.get_submodule(path).parameters():
            parameter.register_hook(partial(summed, group=group))
