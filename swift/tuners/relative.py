"""PiSSA and OLoRA with the base left alone: LoRA whose start is inside the weight, taken out by its own second half.

Both start at a part of W itself, W = s B0 A0 + rest, and train B and A next to the rest. PEFT puts the rest into the
base, so an adapter fits no model but the one that it changed. Here the base keeps W, and

    W x + s B A x - s B0 A0 x = W x + s [B, -B0] [A; A0] x,

which is the same function with the same gradients, with B0 and A0 fixed. So the model starts as it was, the adapter can
be switched off, live beside others and be merged, and its file is a plain LoRA of twice the rank for the original base.
Dropout is before both halves, where PEFT has it before B A alone: what it blurs is the update and not the weight.

Paper: PiSSA, https://arxiv.org/abs/2404.02948, section 3 (A0 and B0 from the R largest singular values) and appendix on
the conversion to LoRA; OLoRA, https://arxiv.org/abs/2406.01775, section 3 (from the QR decomposition).
Cost: as LoRA to train (the optimizer sees R ranks), and as LoRA of rank 2R in memory, time and on disk. One
decomposition of each target at the start: O(I O min(I, O)), or O(I O R) with "pissa_niter_N".

Letters in names: I and O features in and out, R the rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn

from swift.errors import ConfigError, DataError
from swift.tuners import files
from swift.tuners.lora import LoraConfig, is_relative, of
from swift.tuners.starts import start_of

PARTS = ("trained", "start")
FACTOR = re.compile(r"(?P<stem>(.*\.)?lora_(?P<which>[AB])(\.[\w-]+)?)\.(?P<part>weight|trained|start)")


class Half(nn.Module):
    """A factor of which one half is trained and the other is its fixed start (for B: the negative of it).

    Args:
        start: A0 (R, I) or -B0 (O, R).
        dim: along which the halves meet: 0 for A, 1 for B.
        trained: where the trained half begins.
    """

    start: Tensor

    def __init__(self, trained: Tensor, start: Tensor, dim: int) -> None:
        super().__init__()
        self.dim, self.bias = dim, None
        self.trained = nn.Parameter(trained)
        self.register_buffer("start", start)

    @property
    def weight(self) -> Tensor:
        """Both halves, as the factor of a plain LoRA."""
        return torch.cat([self.trained, self.start.to(self.trained.dtype)], self.dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """The factor applied to `hidden` (..., I or R)."""
        return F.linear(hidden, self.weight)


def as_ours(config: peft.PeftConfig) -> peft.PeftConfig:
    """PEFT's own config as ours where it is relative, since only ours can say so on disk."""
    if isinstance(config, peft.LoraConfig) and not isinstance(config, LoraConfig) and is_relative(config):
        return of(config)
    return config


@contextmanager
def base_kept(model: Any, config: Any, name: str) -> Iterator[None]:
    """While PEFT adds the adapter `name`, see that it leaves the base's weights alone; then give it its start.

    Raises:
        ConfigError: a target is of a kind that cannot be decomposed, or LoftQ has no GPU.
    """
    if isinstance(config, peft.LoraConfig) and config.init_lora_weights == "loftq" and not torch.cuda.is_available():
        raise ConfigError("CONFIG-03", "LoftQ needs a GPU: PEFT quantises there", fix="--init_lora_weights pissa")
    if not isinstance(config, LoraConfig) or not is_relative(config):
        yield
        return
    said: Any = config.init_lora_weights
    config.init_lora_weights = True
    try:
        yield
    finally:
        config.init_lora_weights = said
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and name in layer.r:
            _install(layer, name, said, loading=config.lora_start is not None)


def _install(layer: Any, name: str, said: str, loading: bool) -> None:
    kind, weight = type(layer), layer.get_base_layer().weight
    rank, most = layer.r[name], min(weight.shape)
    if kind is not Linear or not weight.is_floating_point() or rank > most:
        what = f"{said} of rank {rank} cannot start in {type(layer.get_base_layer()).__name__}"
        why = f"it takes a part of a linear layer's weight, here of rank {most} at most"
        raise ConfigError("CONFIG-02", what, why=why, fix="--init_lora_weights true")
    plain, dtype = layer.lora_A[name].weight, torch.promote_types(torch.float32, weight.dtype)
    if loading:
        first_RI, first_OR = plain.data.to(dtype), layer.lora_B[name].weight.data.to(dtype)
    else:
        weight_OI = (weight.data.T if layer.fan_in_fan_out else weight.data).to(dtype)
        first_RI, first_OR = start_of(weight_OI, rank, layer.scaling[name], said)
    layer.lora_A[name] = Half(first_RI, first_RI.clone(), 0).requires_grad_(plain.requires_grad)
    layer.lora_B[name] = Half(first_OR, -first_OR, 1).requires_grad_(plain.requires_grad)


def fold(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as a file has them: both halves of a factor in one. Others are as they were."""
    folded: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = FACTOR.fullmatch(key)
        if match is None or match["part"] == "weight":
            folded[key] = tensor
        elif match["part"] == "trained":
            start = tensors[f"{match['stem']}.start"].to(tensor)
            folded[f"{match['stem']}.weight"] = torch.cat([tensor, start], 0 if match["which"] == "A" else 1)
    return folded


def unfold(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file as an adapter that trains has them: what `fold` put together, apart again."""
    apart: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = FACTOR.fullmatch(key)
        if match is None or match["part"] != "weight":
            apart[key] = tensor
        else:
            halves = tensor.chunk(2, 0 if match["which"] == "A" else 1)
            apart |= {f"{match['stem']}.{part}": half.contiguous() for part, half in zip(PARTS, halves, strict=True)}
    return apart


def without_start(config: Any) -> bool:
    """Whether an adapter of this config, from a file, lacks its start: PEFT takes it from the base once more."""
    return is_relative(config) and vars(config).get("lora_start") is None


def trained_alone(tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The tensors of PEFT's file that lacks the start of its adapter, as those of the half that is trained.

    Raises:
        DataError: the start was drawn at random, so it is lost.
    """
    if "niter" in config.init_lora_weights:
        what = f"PEFT saved the adapter without its start, and {config.init_lora_weights} draws one at random"
        fix = "save it with PEFT's path_initial_model_for_weight_conversion, or from swift"
        raise DataError("CKPT-02", what, fix=fix)
    parts = {key: FACTOR.fullmatch(key) for key in tensors}
    return {f"{match['stem']}.trained" if (match := parts[key]) else key: value for key, value in tensors.items()}


def starts(own: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Of a model's `own` tensors those that a file of an adapter without its start lacks."""
    return {key: own[key] for key in own if key.endswith(".start")} if without_start(config) else {}


class RelativeModel(peft.PeftModel):
    """A PeftModel whose adapters train from a start inside the weight and are saved as plain LoRA for the base."""

    def save_pretrained(self, save_directory: str, *args: Any, state_dict: Any = None, **kwargs: Any) -> None:
        """Save as PEFT does. There is nothing to convert, so `path_initial_model_for_weight_conversion` is not used."""
        kwargs.pop("path_initial_model_for_weight_conversion", None)
        state = fold(self.state_dict() if state_dict is None else state_dict)
        super().save_pretrained(save_directory, *args, state_dict=state, **kwargs)

    def load_adapter(self, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """Load as PEFT does; an adapter that is here and trains takes both its halves from the file."""
        config = self.peft_config.get(adapter_name)
        if config is None or not is_relative(config):
            return super().load_adapter(model_id, adapter_name, *args, **kwargs)
        tensors = unfold(files.read_tensors(Path(model_id)))
        return peft.set_peft_model_state_dict(self, tensors, adapter_name=adapter_name)


def saves_plainly(model: peft.PeftModel) -> peft.PeftModel:
    """`model`, which saves adapters that train from a start inside the weight as plain LoRA."""
    if any(map(is_relative, model.peft_config.values())) and not isinstance(model, RelativeModel):
        kind = type(model)
        model.__class__ = type(kind.__name__, (RelativeModel, kind), {})
    return model
