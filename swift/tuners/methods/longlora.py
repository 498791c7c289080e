"""LongLoRA: LoRA for long sequences, trained with attention in shifted groups."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError, DataError
from swift.tuners.branch import Active, Branch, outside
from swift.tuners.config import SwiftConfig, check_type
from swift.tuners.layers import bare, find_layers, own_parameters, put, read_as
from swift.tuners.lora import LoRAConfig
from swift.tuners.targets import find_modules_to_save, find_targets

# B: rows, H: heads, T: positions, G: positions of a group, K: size of a head. h: heads of a mask, 1 or H.

FUNCTION = "shifted_groups"
EAGER = "eager_attention_forward"
UNSUPPORTED = ("softcap", "s_aux", "position_bias", "cu_seq_lens_q")


def group_spans(length: int, ratio: float) -> tuple[list[slice], list[slice]]:
    """The groups of T positions for the first half of the heads, and for the second, which is shifted by half a group.

    A group has G = ceil(ratio T) positions; the last may have fewer. The shifted groups begin with half a group. (The
    paper puts that half and the last, shorter one together, where a mask has to keep them apart.)
    """
    size = max(1, math.ceil(length * ratio - 1e-9))
    plain = [slice(start, min(start + size, length)) for start in range(0, length, size)]
    half = size // 2
    shifted = [slice(start, min(start + size, length)) for start in range(half, length, size)]
    return plain, ([slice(0, half)] if half else []) + shifted


def shifted_groups(
    query_BHTK: Tensor,
    key_BHTK: Tensor,
    value_BHTK: Tensor,
    ratio: float,
    mask: Tensor | None = None,
    *,
    window: int | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Causal attention within groups, as (B, H, T, K); half of the heads have shifted groups.

    Args:
        query_BHTK: queries.
        key_BHTK: keys; a divisor of H heads, each for as many heads of the queries.
        value_BHTK: values, likewise.
        ratio: size of a group over T.
        mask: (B, h, T, T), true or 0 where a query may see a key; (B, T), true where there is a token; None for all.
        window: how many positions back a query sees, where the mask does not say it.
        scaling: of the scores; None is 1 / sqrt(K).
        dropout: of the weights.
    """
    heads, length = query_BHTK.shape[1:3]
    key_BHTK, value_BHTK = (
        tensor.repeat_interleave(heads // tensor.shape[1], dim=1) for tensor in (key_BHTK, value_BHTK)
    )
    parts = []
    for of, spans in zip((slice(0, heads // 2), slice(heads // 2, heads)), group_spans(length, ratio), strict=True):
        groups = [
            F.scaled_dot_product_attention(
                query_BHTK[:, of, span],
                key_BHTK[:, of, span],
                value_BHTK[:, of, span],
                attn_mask=(allowed := group_mask(mask, of, span, window, query_BHTK)),
                is_causal=allowed is None,
                scale=scaling,
                dropout_p=dropout,
            )
            for span in spans
        ]
        parts.append(torch.cat(groups, dim=2))
    return torch.cat(parts, dim=1)


def group_mask(mask: Tensor | None, of: slice, span: slice, window: int | None, like: Tensor) -> Tensor | None:
    """What the queries of one group may see of its keys, (B or 1, h, G, G); None where that is all before them.

    A query always sees itself: where a row is padding nothing else might be left, and nobody reads the result.
    """
    index_G = torch.arange(span.stop - span.start, device=like.device)
    back_GG = index_G[:, None] - index_G
    itself_GG = back_GG == 0
    if mask is not None and mask.ndim == 4:
        part = mask[:, of if mask.shape[1] > 1 else slice(None), span, span]
        return part | itself_GG if part.dtype == torch.bool else part.masked_fill(itself_GG, 0).to(like.dtype)
    if mask is None and (window is None or window >= len(index_G)):
        return None
    allowed_GG = (back_GG >= 0) & (back_GG < (len(index_G) if window is None else window))
    if mask is None:
        return allowed_GG[None, None]
    return (allowed_GG & mask[:, None, None, span].bool()) | itself_GG


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """An attention function of transformers: in groups where a `Shift` of `module` is on, else the model's own."""
    shift = next((c for c in module.children() if isinstance(c, Shift) and c.on), None)
    if shift is None or not shift.training or key.shape[2] != query.shape[2]:  # from a cache it is not training
        return plain_function(module)(module, query, key, value, attention_mask, **kwargs)
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise ConfigError("CONFIG-02", f"LongLoRA cannot train a model whose attention has {name}")
    if attention_mask is not None and not isinstance(attention_mask, Tensor):
        raise ConfigError("CONFIG-02", "LongLoRA cannot read this model's attention mask", fix="--attn_impl sdpa")
    grouped_BHTK = shifted_groups(
        query,
        key,
        value,
        shift.ratio,
        attention_mask,
        window=kwargs.get("sliding_window"),
        scaling=kwargs.get("scaling"),
        dropout=kwargs.get("dropout") or 0.0,
    )
    return grouped_BHTK.transpose(1, 2).contiguous(), None


def plain_function(module: nn.Module) -> Any:
    """The attention function that the model's config names."""
    config = vars(module)["config"].plain
    files = [vars(sys.modules[kind.__module__]) for kind in type(module).__mro__]
    eager: Any = next((file[EAGER] for file in files if EAGER in file), None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager)


class GroupedConfig:
    """A model's config as its attention modules see it: all the same, but for the name of the attention function."""

    _attn_implementation = FUNCTION

    def __init__(self, plain: PreTrainedConfig) -> None:
        self.plain = plain

    def __getattr__(self, key: str) -> Any:
        if key == "plain":  # while a copy is being made
            raise AttributeError(key)
        return getattr(self.plain, key)


class Shift(Branch):
    """Makes an attention module attend in shifted groups while training. It has no parameters."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio


@dataclass
class LongLoRAConfig(LoRAConfig):
    """LoRA, with trained embeddings and norms, and attention in shifted groups (S2-Attn) while training.

    Each position attends to those before it in its group of G = ceil(ratio T) positions; for the second half of the
    heads the groups are shifted by G / 2. In evaluation, and while switched off, attention is the model's own, bit for
    bit. T need not be a multiple of G: the last group is shorter then. The paper's code lets the first half group see
    the last one, which is later in the text; here no position sees a later one.

    Paper: LongLoRA, https://arxiv.org/abs/2309.12307, section 3.2 (S2-Attn) and 3.3 (LoRA+ with embeddings and norms).
    Saved: A and B of each target, and the trained copies of embeddings and norms.
    Cost: of LoRA; V D parameters more for the embeddings and D for each norm. Attention while training takes about
        ratio of its time and memory. It runs on torch's scaled_dot_product_attention whatever the model uses else.

    Args:
        embedder_and_normalizer: what trains in full: modules with parameters that have one of these in their name or
            in the name of their class.
        model_type: kept from configs written elsewhere; the attention is found by how the model is built.
        group_size_ratio: size of a group over the length of the sequence.
    """

    kind: ClassVar[str] = "longlora"

    embedder_and_normalizer: str | Sequence[str] = ("embed", "norm")
    model_type: str | None = None
    group_size_ratio: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_type("LongLoRAConfig.group_size_ratio", self.group_size_ratio, float)
        if not 0 < self.group_size_ratio <= 1:
            raise ConfigError(
                "CONFIG-02",
                f"group_size_ratio={self.group_size_ratio} is not above 0 and at most 1",
                fix="0.25, as in the paper",
            )

    def fit(self, model: nn.Module) -> None:
        """Add to `modules_to_save` the embeddings and norms of `model`.

        Raises:
            ConfigError: the model's attention cannot be exchanged, or is not causal.
        """
        supported = isinstance(model, PreTrainedModel) and model._supports_attention_backend
        if not supported or not attention_modules(model):
            what = f"LongLoRA cannot change the attention of {type(model).__name__}"
            raise ConfigError("CONFIG-02", what, why="it is none of transformers' causal, exchangeable ones")
        words = self.embedder_and_normalizer
        words = [words] if isinstance(words, str) else list(words)
        found, others = set(), set()
        for path, module in outside(model):
            last = path.rpartition(".")[2]
            names = f"{last} {type(bare(module)).__name__}".lower()
            if path and own_parameters(bare(module)) and any(word.lower() in names for word in words):
                found.add((path, last))
            else:
                others.add(last)
        saved = {path if last in others or last.isdigit() else last for path, last in found}
        self.modules_to_save = sorted({*(self.modules_to_save or ()), *saved}) or None

    def extend(self, model: nn.Module, name: str, active: Active) -> None:
        """Let the attention of `model` be grouped while the adapter `name` is active."""
        ALL_ATTENTION_FUNCTIONS.register(FUNCTION, attend)
        for module in attention_modules(model):
            if not isinstance(vars(module)["config"], GroupedConfig):
                vars(module)["config"] = GroupedConfig(vars(module)["config"])
            put(module, f"{self.kind}_{name}", Shift(self.group_size_ratio), name, active)
        if self.lora_dtype is None:
            for wrapper in [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]:
                if name in wrapper.modules_to_save:
                    widen(wrapper.modules_to_save[name])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config with these `values`, of which those of other versions of PEFT are left out."""
        known = {field.name for field in fields(cls) if field.init}
        try:
            return cls(**{key: value for key, value in values.items() if key in known})
        except (TypeError, ValueError) as error:
            raise DataError("CKPT-01", f"{cls.__name__}: {error}") from error

    @classmethod
    def from_options(cls, args: SftArguments, model: Any, default_targets: Sequence[str] = ()) -> LongLoRAConfig:
        """LoRA as the options `lora_...` ask for it, in groups of `longlora_group_size_ratio`."""
        return cls(
            task_type="CAUSAL_LM",
            r=args.lora_rank,
            lora_alpha=cast(int, args.lora_alpha),
            lora_dropout=args.lora_dropout_p,
            target_modules=find_targets(model, args.lora_target_modules, default_targets),
            modules_to_save=find_modules_to_save(model, args.lora_modules_to_save) or None,
            bias=cast(Any, args.lora_bias_trainable),
            use_rslora=args.use_rslora,
            use_dora=args.use_dora,
            lora_dtype=None if args.lora_dtype == "AUTO" else args.lora_dtype,
            lorap_lr_ratio=args.lora_lr_ratio,
            group_size_ratio=args.longlora_group_size_ratio,
        )


def widen(module: nn.Module) -> None:
    """Keep the parameters of `module` in float32 if they are half; it goes on computing in its own precision."""
    for inner in list(module.modules()):
        half = {p.dtype for p in own_parameters(inner).values()} & {torch.float16, torch.bfloat16}
        if half:
            read_as(inner, partial(_narrowed, dtype=half.pop()))
            inner.float()


def _narrowed(module: nn.Module, key: str, dtype: torch.dtype) -> Tensor:
    return vars(module)["_parameters"][key].to(dtype)


def attention_modules(model: nn.Module) -> list[nn.Module]:
    """The causal self-attention modules in the layers of `model`."""
    modules = [module for layer in find_layers(model)[1] for _, module in outside(layer)]
    return [
        module
        for module in modules
        if isinstance(vars(module).get("config"), PreTrainedConfig | GroupedConfig) and vars(module).get("is_causal")
    ]


SwiftConfig.kinds["LONGLORA"] = cast(Any, LongLoRAConfig)
