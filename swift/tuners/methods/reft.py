"""ReFT: learnt edits of the hidden states between layers, at some positions of the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, GenerationMixin
from transformers.activations import ACT2FN

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.registry import unknown
from swift.tuners.branch import Active, Branch, edit, hosts
from swift.tuners.config import SwiftConfig, check_type, place
from swift.tuners.layers import LABELS, PREFIX, Listener, PerThread, find_layers, put, text_config

# B: rows, S: positions seen so far, T: positions in this call, D: size of the hidden states, R: rank.


@dataclass(frozen=True)
class Kind:
    """One form of intervention: h + (source - target) basis.

    The basis is orthonormal or free; the source is W h + b or b alone; the target is basis h or nothing.
    """

    orthonormal: bool
    conditioned: bool
    subtracts: bool


KINDS = {
    "LoreftIntervention": Kind(orthonormal=True, conditioned=True, subtracts=True),
    "NoreftIntervention": Kind(orthonormal=False, conditioned=True, subtracts=True),
    "ConsreftIntervention": Kind(orthonormal=True, conditioned=False, subtracts=True),
    "LobireftIntervention": Kind(orthonormal=True, conditioned=False, subtracts=False),
    "DireftIntervention": Kind(orthonormal=True, conditioned=True, subtracts=False),
    "NodireftIntervention": Kind(orthonormal=False, conditioned=True, subtracts=False),
}
IGNORED_LABEL = -100
PROMPT = "reft_prompt"


@dataclass(frozen=True)
class Settings:
    """What `args` of a ReftConfig may hold."""

    first_n: int | None = 7
    last_n: int | None = 7
    dropout: float = 0.0
    act_fn: str | None = None
    add_bias: bool = False
    identity: bool = True


def orthonormal_rows(free_RD: Tensor) -> Tensor:
    """The nearest thing to `free_RD` with orthonormal rows that keeps their order: Gram-Schmidt, signs kept."""
    wide_RD = free_RD.to(torch.promote_types(free_RD.dtype, torch.float32))  # there is no QR in half precision
    q_DR, r_RR = torch.linalg.qr(wide_RD.T)
    return (q_DR * r_RR.diagonal().sign()).T.to(free_RD.dtype)


def prompt_positions(first_n: int | None, last_n: int | None, mask_BS: Tensor, ends_B: Tensor | None) -> Tensor:
    """Which positions lie in the first `first_n` or last `last_n` of each row's prompt, as bool_BS.

    Args:
        first_n: None, like None for `last_n`, takes the whole prompt.
        last_n: see above.
        mask_BS: 1 where there is a token.
        ends_B: where each row's prompt ends; None is behind its last token.
    """
    index_S = torch.arange(mask_BS.shape[1], device=mask_BS.device)
    is_token_BS = mask_BS.bool()
    start_B = is_token_BS.int().argmax(1)
    last_B = torch.where(is_token_BS, index_S + 1, 0).amax(1)
    end_B = last_B if ends_B is None else torch.minimum(last_B, ends_B)
    inside_BS = is_token_BS & (index_S < end_B[:, None])
    if first_n is not None and last_n is not None:
        near_BS = (index_S < start_B[:, None] + first_n) | (index_S >= end_B[:, None] - last_n)
        inside_BS = inside_BS & near_BS
    return inside_BS


def prompt_ends(labels_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Where the first supervised token of each row is: its prompt's end. A row without a prompt is all prompt."""
    supervised_BT = (labels_BT != IGNORED_LABEL) & mask_BT.bool()
    end_B, start_B = supervised_BT.int().argmax(1), mask_BT.bool().int().argmax(1)
    return torch.where(supervised_BT.any(1) & (end_B > start_B), end_B, labels_BT.shape[1])


class Positions(Listener):
    """Sits on the whole model and says which positions of a call are edited."""

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        super().__init__(model)
        self.settings, self.prompt = settings, hear_prompts(model)

    def keep(self, named: dict[str, Any]) -> Any:
        """The masks, and how much came before this call. The cache itself is not kept: it goes on growing."""
        cache, prefix = named.get("past_key_values"), PREFIX.get() or 0
        past = max(0, int(cache.get_seq_length()) - prefix) if isinstance(cache, Cache) else 0
        labels = LABELS.get() if named.get("labels") is None else named["labels"]
        return {"mask": named.get("attention_mask"), "labels": labels, "past": past, "prefix": prefix}

    def find(self, hidden_BTD: Tensor) -> Tensor | None:
        """Where the hidden states of this call are edited, as bool_BT; None is nowhere."""
        heard, shape = self.heard.get_or_last() or {}, (hidden_BTD.shape[0], hidden_BTD.shape[1])
        if heard.get("shape") != shape:
            heard |= {"shape": shape, "found": self._find(heard, shape, hidden_BTD.device)}
        found = heard["found"]
        return found if found is None else found.to(hidden_BTD.device)

    def _find(self, heard: Mapping[str, Any], shape: tuple[int, int], device: torch.device) -> Tensor | None:
        past, prompt = heard.get("past", 0), self.prompt.get()
        if past and (prompt is None or past >= prompt):
            return None
        total, mask_BS, labels_BT, ends_B = past + shape[1], heard.get("mask"), heard.get("labels"), None
        prefix = heard.get("prefix", 0)
        if prefix and isinstance(mask_BS, Tensor) and mask_BS.shape == (shape[0], prefix + total):
            mask_BS = mask_BS[:, prefix:]
        if not isinstance(mask_BS, Tensor) or mask_BS.shape != (shape[0], total):
            mask_BS = torch.ones(shape[0], total, device=device)
        if prompt is not None:
            ends_B = torch.full((shape[0],), prompt, device=mask_BS.device)
            mask_BS = F.pad(mask_BS, (0, max(0, prompt - total)), value=1)  # a prompt may come in several parts
        elif isinstance(labels_BT, Tensor) and labels_BT.shape == mask_BS.shape:
            ends_B = prompt_ends(labels_BT.to(mask_BS.device), mask_BS)
        return prompt_positions(self.settings.first_n, self.settings.last_n, mask_BS, ends_B)[:, past:total]


def hear_prompts(model: nn.Module) -> PerThread:
    """How long the prompts are that `model.generate` is at work on in a thread; None outside of it.

    The model gets a class of its own, as without a cache nothing in a call of `forward` tells a prompt from its answer.
    """
    if PROMPT in vars(model) or not isinstance(model, GenerationMixin):
        return vars(model).get(PROMPT, PerThread())
    plain: Any = type(model)

    def generate(self: Any, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        given = [inputs, kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        lengths = [tensor.shape[1] for tensor in given if isinstance(tensor, Tensor)]
        prompt: PerThread = vars(self)[PROMPT]
        prompt.set(lengths[0] if lengths else None)
        try:
            return plain.generate(self, inputs, *args, **kwargs)
        finally:
            prompt.set(None)

    vars(model)[PROMPT] = PerThread()
    model.__class__ = type(plain.__name__, (plain,), {"generate": generate})
    return vars(model)[PROMPT]


class Intervention(Branch):
    """Edits what one layer returns: h + (source - target) basis, at the positions of the prompt.

    Shapes: basis (R, D), W (R, D), b (R).
    """

    def __init__(self, kind: Kind, dim: int, rank: int, settings: Settings, positions: Positions) -> None:
        super().__init__()
        self.kind, self.settings = kind, settings
        self.positions = (positions,)  # a tuple, as it is a child of another module
        self.act = ACT2FN[settings.act_fn or "linear"]
        self.dropout = nn.Dropout(settings.dropout)
        self.basis = nn.Parameter(torch.empty(rank, dim))
        self.source_bias = nn.Parameter(torch.zeros(rank))
        self.source_weight = nn.Parameter(torch.zeros(rank, dim)) if kind.conditioned else None
        self.basis_bias = nn.Parameter(torch.zeros(rank)) if settings.add_bias and not kind.orthonormal else None
        nn.init.orthogonal_(self.basis)

    @torch.no_grad()
    def start(self) -> None:
        """Take the values of the start: see ReftConfig."""
        if self.source_weight is None:
            return
        if not self.settings.identity:
            plain = nn.Linear(self.basis.shape[1], self.basis.shape[0])
            self.source_weight.copy_(plain.weight)
            self.source_bias.copy_(plain.bias)
        elif self.kind.subtracts:
            self.source_weight.copy_(self.rows())

    def rows(self) -> Tensor:
        """The basis as (R, D), orthonormal where the kind says so."""
        return orthonormal_rows(self.basis) if self.kind.orthonormal else self.basis

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """The edited hidden states, at every position."""
        own_BTD, rows_RD = hidden_BTD.to(self.basis.dtype), self.rows()
        if self.source_weight is None:
            edit_BTR = self.source_bias - (F.linear(own_BTD, rows_RD) if self.kind.subtracts else 0)
        elif self.kind.subtracts and self.settings.act_fn in (None, "linear"):
            # W h - R h = (W - R) h, which is exactly zero while W is R
            edit_BTR = F.linear(own_BTD, self.source_weight - rows_RD) + self.source_bias
        else:
            edit_BTR = self.act(F.linear(own_BTD, self.source_weight) + self.source_bias)
            edit_BTR = edit_BTR - (F.linear(own_BTD, rows_RD) if self.kind.subtracts else 0)
        if self.basis_bias is not None and self.kind.subtracts:
            edit_BTR = edit_BTR - self.basis_bias
        return (own_BTD + self.dropout(edit_BTR @ rows_RD)).to(hidden_BTD.dtype)

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The layer's output, with its hidden states edited at the positions of the prompt."""
        return edit(output, 0, self._edit)

    def _edit(self, hidden_BTD: Tensor) -> Tensor:
        where_BT = self.positions[0].find(hidden_BTD)
        return hidden_BTD if where_BT is None else torch.where(where_BT[..., None], self(hidden_BTD), hidden_BTD)


@dataclass(kw_only=True)
class ReftConfig(SwiftConfig):
    """Learnt edits of the hidden states h after layers, at the first and last positions of the prompt.

    - LoreftIntervention: h + R^T (W h + b - R h), R with orthonormal rows
    - NoreftIntervention: h + P^T (W h + b - P h), P free
    - ConsreftIntervention: h + R^T (b - R h)
    - LobireftIntervention: h + R^T b
    - DireftIntervention: h + R^T (W h + b)
    - NodireftIntervention: h + P^T (W h + b)

    Paper: ReFT, https://arxiv.org/abs/2404.03592, section 3.2 (equations 2 and 3) and its appendix on ablations.
    Shapes: h (B, T, D); R, P, W (r, D); b (r). R is what Gram-Schmidt makes of a free matrix.
    Saved: for each layer the free matrix, W and b.
    Cost: 2 r D + r parameters and about 6 r D multiply-adds per token of a prompt and layer; nothing after it.

    Positions: a row's prompt is, where the model or our trainer has labels, all before its first supervised one; in
    `generate`, what was given; otherwise, or when nothing comes before the first label, all of the row's tokens.
    Padding on either side does not count, nor does a prefix that another tuner has put in the cache. Where a call goes
    on from a cache outside `generate`, nothing more is edited.
    As one pair of weights serves the first and the last positions, they are "tied" in the paper's words.

    Our start differs: W = R (or P) and b = 0, for DiReFT's kinds W = 0, so that the model starts as it was; the paper
    draws W at random. Only ConsreftIntervention, or an `act_fn`, cannot start so. `identity: False` in `args` is the
    paper's.

    Args:
        model_type: kept from configs written elsewhere; the layers are found by how the model is built.
        layer_key: path of the list of layers; None finds it.
        layers: indices of the layers, negative ones from the end; None is all.
        r: the rank.
        intervention_type: one of the six kinds.
        args: further settings: `first_n` and `last_n` (7 and 7, which the paper has for most of its tasks; None for
            either is the whole prompt), `dropout` of the edit (0), `act_fn` on the source by its transformers name,
            `add_bias` for a bias in P h, `identity` (True).
        target_modules: the layers by name, instead of `layer_key` and `layers`.
    """

    kind: ClassVar[str] = "reft"

    target_modules: str | Sequence[str] = ()
    model_type: str | None = None
    layer_key: str | None = None
    layers: Sequence[int] | None = None
    r: int = 4
    intervention_type: str = "LoreftIntervention"
    args: Mapping[str, Any] | None = None

    def inject(self, model: nn.Module, name: str, active: Active) -> None:
        """Put an intervention after each layer.

        Raises:
            UnknownNameError: there is no such kind, setting, activation or list of layers.
            ConfigError: there is no such layer, or a number is out of range.
        """
        settings, layers = self.settings(), self._hosts(model)
        config = text_config(model)
        if config is None or not 1 <= self.r <= config.hidden_size:
            size = "unknown: it is no transformers model" if config is None else config.hidden_size
            raise ConfigError(
                "CONFIG-02", f"r={self.r} does not fit hidden states whose size is {size}", fix="r=4, as by default"
            )
        positions = Positions(model, settings)
        for host in layers:
            branch = Intervention(KINDS[self.intervention_type], config.hidden_size, self.r, settings, positions)
            branch.to(**place(host)).start()
            put(host, f"{self.kind}_{name}", branch, name, active)
        put(model, f"{self.kind}_{name}", positions, name, active)

    def _hosts(self, model: nn.Module) -> list[nn.Module]:
        if self.target_modules:
            return [host for _, host in hosts(model, self.target_modules)]
        path, layers = find_layers(model, self.layer_key)
        chosen = range(len(layers)) if self.layers is None else self.layers
        for index in chosen:
            if not -len(layers) <= index < len(layers):
                raise ConfigError(
                    "CONFIG-02",
                    f"there is no layer {index}: {path} has {len(layers)}",
                    fix=f"0 to {len(layers) - 1}, or -1 for the last",
                )
        return [layers[index] for index in sorted({index % len(layers) for index in chosen})]

    def settings(self) -> Settings:
        """What `args` says, checked."""
        if self.intervention_type not in KINDS:
            raise unknown("intervention", self.intervention_type, KINDS)
        known = Settings.__dataclass_fields__
        for key in self.args or {}:
            if key not in known:
                raise unknown("setting in args", key, known)
        settings = Settings(**(self.args or {}))
        if settings.act_fn is not None and settings.act_fn not in ACT2FN:
            raise unknown("activation", settings.act_fn, ACT2FN)
        check_type("dropout in args", settings.dropout, float)
        for key in ("first_n", "last_n"):
            value = getattr(settings, key)
            if value is not None and (not isinstance(value, int) or value < 0):
                raise ConfigError(
                    "CONFIG-02",
                    f"{key}={value!r} is no number of positions",
                    fix=f"{key}=7, or None for the whole prompt",
                )
        if settings.first_n == settings.last_n == 0:
            raise ConfigError(
                "CONFIG-02",
                "first_n and last_n are both 0: nothing would be edited",
                fix="first_n=7, last_n=7, as by default",
            )
        if not 0 <= settings.dropout < 1:
            raise ConfigError("CONFIG-02", f"dropout={settings.dropout} is no share below 1", fix="dropout=0.05")
        return settings

    @classmethod
    def from_options(cls, args: SftArguments, model: Any, default_targets: Sequence[str] = ()) -> ReftConfig:
        """The edits that the options `reft_...` ask for."""
        return cls(
            layer_key=args.reft_layer_key,
            layers=args.reft_layers,
            r=args.reft_rank,
            intervention_type=args.reft_intervention_type,
            args=args.reft_args,
        )
