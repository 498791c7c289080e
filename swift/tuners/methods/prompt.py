"""Visual prompt tuning: learnt tokens beside those of the input, in one layer or in each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.tuners.branch import Active, Branch, attach, edit, hosts
from swift.tuners.config import SwiftConfig, place
from swift.tuners.layers import LABELS, put
from swift.tuners.places import Place, item, per_place, positive
from swift.tuners.positions import Positions

# Tensor names end in their shape: B rows, T tokens, P prompts, D channels, Q queries, K keys, H a head's channels.


class Prompts(Branch):
    """The prompts of one layer: put in when they are `fresh`, else in the place of those that are there.

    Args:
        host: the layer.
        dim: D.
        config: of the adapter.
        stack: what the layer's path has before its number.
        number: of the layer in its stack.
        fresh: the layer is given no prompts of this adapter.
        outer: the branches, added earlier, whose prompts lie farther out on the same side, if they run.
    """

    def __init__(
        self,
        host: nn.Module,
        dim: int,
        config: PromptConfig,
        stack: str,
        number: int,
        fresh: bool,
        outer: tuple[Prompts, ...],
    ) -> None:
        super().__init__()
        self.stack, self.number, self.fresh, self.outer = stack, number, fresh, outer
        self.front, self.extracts, self.value = (
            config.attach_front,
            config.extract_embedding,
            config.attention_mask_value,
        )
        self.place = Place.of(host, config.embedding_pos)
        mask = "attention_mask" if config.attention_mask_pos is None else config.attention_mask_pos
        self.mask = Place.of(host, mask)
        self.tokens = nn.Parameter(torch.empty(config.prompt_length, dim))
        nn.init.xavier_uniform_(self.tokens)

    @property
    def length(self) -> int:
        """P."""
        return len(self.tokens)

    def lies_before(self, number: int) -> bool:
        """Whether what the layer of that number is given already holds these prompts, or what became of them.

        Prompts that are put in at this layer and were added earlier come in after those added later.
        """
        return not self.extracts and self.number < number

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call with the prompts among its hidden states, and with room for them in what goes along."""
        hidden_BTD = self.place.tensor(args, kwargs)
        self._check(hidden_BTD)
        skip = 0 if self.fresh else self.length
        offset = sum(branch.length for branch in self.outer if branch.on and branch.lies_before(self.number))
        count = hidden_BTD.shape[1] - skip  # tokens that are no prompts of this adapter
        start = offset if self.front else count - offset
        prompts_BPD = self.tokens.to(hidden_BTD.dtype).expand(len(hidden_BTD), -1, -1)
        parts = (hidden_BTD[:, :start], prompts_BPD, hidden_BTD[:, start + skip :])
        args, kwargs = self.place.put(args, kwargs, torch.cat(parts, 1))
        cached = _cached(args, kwargs, self.number)
        mask = self.mask.get(args, kwargs)
        if cached:
            self._check_cache(args, kwargs)
            mask = _causal_mask(count, cached, hidden_BTD.device) if mask is None else mask
        if isinstance(mask, Tensor):
            mask = widen_mask(mask, count, start, self.length, self.value)
            args, kwargs = self.mask.put(args, kwargs, mask)
        return args, _without_rotation(kwargs, count, start, self.length)

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The output, without the prompts if they are to be taken out."""
        if not self.extracts:
            return output
        offset = sum(branch.length for branch in self.outer if branch.on and not branch.extracts)
        total = item(output, 0).shape[1]  # without the prompts that other branches have taken out already
        start = offset if self.front else total - offset - self.length
        layer = _cache_layer(args, kwargs, self.number)
        if layer is not None and layer.get_seq_length():
            self._check_cache(args, kwargs)
            first = layer.get_seq_length() - total + start
            for each in _as_long(args, kwargs, layer):
                each.keys, each.values = (cut(tensor, -2, first, self.length) for tensor in (each.keys, each.values))
        return edit(output, 0, lambda out_BTD: cut(out_BTD, 1, start, self.length))

    def _check(self, hidden: Tensor) -> None:
        dim = self.tokens.shape[1]
        if hidden.ndim != 3 or hidden.shape[-1] != dim:
            what = f"prompts of size {dim} cannot go among hidden states of shape {tuple(hidden.shape)}"
            raise ConfigError("CONFIG-02", what, fix="dim is the last of the sizes (rows, tokens, dim) of the target")

    def _check_cache(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self.extracts or type(_cache_layer(args, kwargs, self.number)) is not DynamicLayer:
            what = "prompts cannot be kept out of this cache of keys and values"
            raise ConfigError("CONFIG-02", what, fix="extract_embedding=True with a dynamic cache, or use_cache=False")


class Whole(Positions):
    """Sits on the whole model: says positions in a text, and refuses labels for one that prompts stay in.

    Args:
        model: the model.
        stays: what it returns has the prompts in it.
    """

    def __init__(self, model: nn.Module, stays: bool) -> None:
        super().__init__(model)
        self.stays = stays

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with the positions of the tokens where the model takes them."""
        named = {"labels": LABELS.get(), **dict(zip(self.names, args, strict=False)), **kwargs}
        labels, ids = named["labels"], named.get("input_ids")
        if self.stays and isinstance(labels, Tensor) and isinstance(ids, Tensor) and labels.shape == ids.shape:
            what = "the model returns the prompts with the text, for which there are no labels"
            raise ConfigError("CONFIG-02", what, fix="PromptConfig(extract_embedding=True, ...) takes them out again")
        return super().before(args, kwargs)


@dataclass(kw_only=True)
class PromptConfig(SwiftConfig):
    """Prompts: P learnt tokens among the tokens that a layer is given.

    Deep prompts, one set for each of the layers i = 0, 1, ... that `target_modules` names (shallow: name the first
    layer only)::

        [_, E_1] = L_0([P_0, E_0])        [_, E_i+1] = L_i([P_i, E_i])

    The first layer of a stack gets its prompts in addition to its tokens; the later ones get theirs in the place of
    what became of the earlier layer's. `extract_embedding` takes them out after every layer instead, so that every
    layer gets its own in addition: the same numbers, and nothing behind the last layer sees the prompts. A stack is
    the layers whose paths differ in the last number only.

    Paper: Visual Prompt Tuning, https://arxiv.org/abs/2203.12119, section 3.2: VPT-shallow and VPT-deep.
    Shapes: E_BTD -> [P, E] of T + P tokens. A mask that goes along is widened by P columns, and rows, of
    `attention_mask_value`; rotary position embeddings by P positions that are not rotated; a dynamic cache of keys and
    values stays free of prompts, when they are extracted.
    Saved: `tokens` (P, D) for each target.
    Cost: PD parameters for each target; each of its T tokens costs (T + P) / T of what it did, and each pair of tokens
    in its attention (T + P)^2 / T^2.
    Not as in the paper: the prompts come first by default, not behind the class token; attention cannot tell. A head
    that reads the class token by its position needs `extract_embedding`, or `attach_front=False`. (Prompts behind the
    tokens of a model whose tokens only look back need a mask that lets them be seen.)
    Several at once lie side by side, the ones added earlier farther out. Padding between them and a text is not
    counted.

    Args:
        dim: D, or a list with that of each target in the model's order.
        embedding_pos: which argument of a target the hidden states are: an index or a name.
        attention_mask_pos: which argument is the mask; None is the one that is called attention_mask, if any.
        attention_mask_value: what a mask of floats says for prompts; other masks let them be seen if it is not
            negative.
        prompt_length: P.
        attach_front: prompts come before the tokens, not behind them.
        extract_embedding: take the prompts out of what a target returns; a text that is to be learnt needs it.
    """

    kind: ClassVar[str] = "prompt"

    dim: int | list[int]
    embedding_pos: int | str = 0
    attention_mask_pos: int | str | None = None
    attention_mask_value: float = 0.0
    prompt_length: int = 16
    attach_front: bool = True
    extract_embedding: bool = False

    def inject(self, model: nn.Module, name: str, active: Active) -> None:
        """Add prompts to every target. Raises ConfigError for sizes that cannot be, UnknownNameError for no target."""
        found = hosts(model, self.target_modules)
        positive(prompt_length=self.prompt_length)
        dims = per_place(self.dim, len(found), "dim")
        earlier = [(path.rpartition(".")[0], m) for path, m in model.named_modules() if isinstance(m, Prompts)]
        begun: set[str] = set()
        for (path, host), dim in zip(found, dims, strict=True):
            stack, number = split_number(path)
            outer = tuple(
                branch
                for where, branch in earlier
                if (branch.stack, branch.front) == (stack, self.attach_front)
                and (where == path if branch.extracts else branch.fresh and branch.number <= number)
            )
            fresh = self.extract_embedding or stack not in begun
            branch = Prompts(host, dim, self, stack, number, fresh, outer)
            begun.add(stack)
            branch.to(**place(host, model))
            branch.adapter, branch.active = name, active
            attach(host, f"{self.kind}_{name}", branch)
        if isinstance(model, PreTrainedModel):
            put(model, f"{self.kind}_{name}", Whole(model, stays=not self.extract_embedding), name, active)

    @classmethod
    def from_options(cls, args: SftArguments, model: Any, default_targets: Sequence[str] = ()) -> PromptConfig:
        """Prompts in every layer of a language model, taken out again after each."""
        return cls(dim=model.config.hidden_size, target_modules=find_layers(model), extract_embedding=True)


def find_layers(model: nn.Module) -> str:
    """A regular expression for the layers of a model: the members of its longest list of modules.

    Raises:
        ConfigError: it has no such list; lists inside others, as of experts, do not count.
    """
    lists = [
        (len(module), path)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and not any(part.isdigit() for part in path.split("."))
    ]
    if not lists:
        raise ConfigError("CONFIG-02", f"{type(model).__name__} has no list of layers", fix="say target_modules")
    return re.escape(max(lists, key=lambda found: found[0])[1]) + r"\.\d+"


def split_number(path: str) -> tuple[str, int]:
    """A path without the last number in it, and that number: 0 where there is none."""
    parts = path.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=None)
    if last is None:
        return path, 0
    return ".".join([*parts[:last], "*", *parts[last + 1 :]]), int(parts[last])


def widen_mask(mask: Tensor, count: int, start: int, length: int, value: float) -> Tensor:
    """The mask with `length` columns more among its last `count`, from `start` on, and rows where it has `count`."""
    fill = value if mask.is_floating_point() else value >= 0
    columns = mask.shape[-1] - count + start
    if mask.ndim > 2 and mask.shape[-2] == count:
        mask = grow(mask, -2, start, length, fill)
    return grow(mask, -1, columns, length, fill)


def grow(tensor: Tensor, axis: int, start: int, length: int, value: float) -> Tensor:
    """The tensor with `length` entries of `value` put in at `start` of the axis."""
    shape = list(tensor.shape)
    shape[axis] = length
    head, tail = tensor.narrow(axis, 0, start), tensor.narrow(axis, start, tensor.shape[axis] - start)
    return torch.cat((head, tensor.new_full(shape, value), tail), axis)


def cut(tensor: Tensor, axis: int, start: int, length: int) -> Tensor:
    """The tensor without `length` entries from `start` of the axis on."""
    end = start + length
    return torch.cat((tensor.narrow(axis, 0, start), tensor.narrow(axis, end, tensor.shape[axis] - end)), axis)


def _without_rotation(kwargs: dict[str, Any], count: int, start: int, length: int) -> dict[str, Any]:
    """The keyword arguments with rotary embeddings (cosines 1, sines 0) for prompts that are not rotated."""
    rotary = kwargs.get("position_embeddings")
    if not isinstance(rotary, tuple) or len(rotary) != 2 or rotary[0].ndim != 3 or rotary[0].shape[1] != count:
        return kwargs
    cos, sin = (grow(tensor, 1, start, length, value) for tensor, value in zip(rotary, (1.0, 0.0), strict=True))
    return {**kwargs, "position_embeddings": (cos, sin)}


def _causal_mask(count: int, cached: int, device: torch.device) -> Tensor:
    """Which keys, cached ones first, each of the last `count` tokens sees."""
    return torch.ones(count, cached + count, dtype=torch.bool, device=device).tril(cached)[None, None]


def _cache_layer(args: tuple[Any, ...], kwargs: dict[str, Any], number: int) -> Any:
    cache = next((value for value in (*args, *kwargs.values()) if isinstance(value, Cache)), None)
    return cache.layers[number] if cache is not None and number < len(cache.layers) else None


def _as_long(args: tuple[Any, ...], kwargs: dict[str, Any], layer: Any) -> list[Any]:
    """The places of the cache like `layer` and with as many keys: it, and those of new blocks that branches inside run.

    Those of other layers have no prompts now, and so fewer.
    """
    cache = next(value for value in (*args, *kwargs.values()) if isinstance(value, Cache))
    alike = [each for each in cache.layers if isinstance(each, DynamicLayer) and type(each) is type(layer)]
    return [each for each in alike if each.get_seq_length() == layer.get_seq_length()]


def _cached(args: tuple[Any, ...], kwargs: dict[str, Any], number: int) -> int:
    layer = _cache_layer(args, kwargs, number)
    return int(layer.get_seq_length()) if layer is not None else 0
