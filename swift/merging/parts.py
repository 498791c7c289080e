"""From the parts of an adapter's file to the changes that they mean, each for its tensor of the base."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from swift.errors import DataError
from swift.merging.adapters import Adapter, pattern_value
from swift.merging.tensors import Stored, whole
from swift.merging.updates import (
    Added,
    Dora,
    Experts,
    Fourier,
    FromStart,
    Hadamard,
    Kronecker,
    LowRank,
    Scaled,
    Turned,
    Update,
    cayley,
    neumann,
    shrunk,
    skew_of,
)

CONV1D = ("gpt2", "openai-gpt")  # whose layers keep their weights as (in, out)
EXPERTS_TURNED = ("gpt_oss", "llama4", "llama4_text", "dbrx")  # whose experts are (in, out)
# The experts of a layer as transformers holds them, and as files do, expert by expert: the names of each part.
FUSED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
Make = Callable[[tuple[int, ...]], Update]
Values = Mapping[str, Tensor]


class NeedsModel(Exception):
    """A change that only the model itself, with PEFT's layers in it, can make."""


class Names(Protocol):
    """What is asked of a base: names of its tensors, and its config."""

    @property
    def names(self) -> Mapping[str, Stored]:
        """All tensors, by their names in the files."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's config."""
        ...

    def find(self, name: str) -> str | None:
        """The name in the files of what the model calls `name`."""
        ...


def updates(adapter: Adapter, base: Names, path: str) -> Iterator[tuple[str, Make]]:
    """The tensors, as the model calls them, that the parts of the module at `path` change, each with its change.

    Raises:
        DataError: parts are missing, hold numbers that are not finite, or have another shape than the weight.
        NeedsModel: it has to be done by PEFT.
    """
    values = adapter.values(path)
    if adapter.config.get("target_parameters") and base.find(f"{path}.weight") is None:
        yield from _in_experts(adapter, base, path, values)
        return
    path = path.replace(".base_layer", "")
    if "lora_B.bias" in values:
        bias = values.pop("lora_B.bias") * _scale(adapter, path, len(values["lora_A"]))
        yield f"{path}.bias", lambda shape: Added(_shaped(adapter, path, bias, shape))
    if adapter.kind == "IA3" and values["ia3_l"].shape[1] == 1 and base.find(f"{path}.bias"):
        yield f"{path}.bias", lambda shape: Scaled(_shaped(adapter, path, values["ia3_l"][:, 0], shape))
    yield f"{path}.weight", lambda shape: _update(adapter, base, path, values, shape)


def _update(adapter: Adapter, base: Names, path: str, values: Values, shape: tuple[int, ...]) -> Update:
    try:
        return METHODS[adapter.kind](adapter, base, path, values, shape)
    except KeyError as error:
        raise DataError("CKPT-02", f"{adapter.folder} lacks {path}.{error.args[0]}") from None


def _lora(adapter: Adapter, base: Names, path: str, values: Values, shape: tuple[int, ...]) -> Update:
    table = "lora_embedding_A" in values
    first_RI = values["lora_embedding_A" if table else "lora_A"]
    second_OR = _blocks(adapter, values, shape) if "lora_B.blocks" in values else None
    second_OR = values["lora_embedding_B" if table else "lora_B"] if second_OR is None else second_OR
    if len(shape) != 2 or first_RI.ndim != 2:
        raise NeedsModel(f"{path} is no linear layer")
    turned = _turned(adapter, base, path, (len(second_OR), first_RI.shape[1]), shape, table)
    chunks = sum(map(bool, adapter.config["enable_lora"])) if "lora_B.blocks" in values else 1
    scale, start = _scale(adapter, path, len(first_RI) // chunks), adapter.config.get("init_lora_weights")
    if isinstance(start, str) and (start.startswith("pissa") or start.lower() == "olora"):
        if "niter" in start:
            raise NeedsModel(f"{start} draws its start at random")
        if adapter.config.get("use_dora"):
            raise NeedsModel(f"{start} with DoRA")
        return FromStart(first_RI, second_OR, scale, start, turned)
    if adapter.config.get("use_dora"):
        return Dora(first_RI, second_OR, scale, values["lora_magnitude_vector"], turned)
    return LowRank(first_RI, second_OR, scale, turned)


def _blocks(adapter: Adapter, values: Values, shape: tuple[int, ...]) -> Tensor:
    """B of a fused projection of which some chunks were trained, as one matrix (O, K R); see `Blocks` of the tuners."""
    tuned = [bool(one) for one in adapter.config["enable_lora"]]
    first, blocks = values["lora_A"], values["lora_B.blocks"]
    rank, size = len(first) // sum(tuned), shape[0] // len(tuned)
    second_OR = torch.zeros(shape[0], len(first))
    for place, chunk in enumerate(index for index, one in enumerate(tuned) if one):
        part = blocks[place * size : (place + 1) * size]
        second_OR[chunk * size : (chunk + 1) * size, place * rank : (place + 1) * rank] = part
    return second_OR


def _turned(
    adapter: Adapter, base: Names, path: str, plain: tuple[int, int], shape: tuple[int, ...], table: bool = False
) -> bool:
    """Whether a weight of this shape is (in, out). Raises DataError when it is neither that nor `plain`, (out, in)."""
    fits = [turned for turned in (False, True) if tuple(shape) == (plain[::-1] if turned else plain)]
    if not fits:
        what = f"{adapter.folder} does not fit the model; {path} is {tuple(shape)}, not {plain}"
        raise DataError("CKPT-02", what, fix="merge it into the model that it was trained on")
    if table or len(fits) == 1:
        return fits[-1]
    return _conv1d(base, path)


def _conv1d(base: Names, path: str) -> bool:
    """Whether a layer keeps its weight as (in, out): what the config says is of the layer that PEFT adapted last."""
    return base.config.get("model_type") in CONV1D and not path.endswith(("lm_head", "score"))


def _scale(adapter: Adapter, path: str, rank: int) -> float:
    alpha = pattern_value(adapter.config.get("alpha_pattern"), path, adapter.config.get("lora_alpha", rank))
    return alpha / (math.sqrt(rank) if adapter.config.get("use_rslora") else rank)


def _adalora(adapter: Adapter, base: Names, path: str, values: Values, shape: tuple[int, ...]) -> Update:
    first_RI, second_OR = values["lora_A"] * values["lora_E"], values["lora_B"]
    turned = _turned(adapter, base, path, (len(second_OR), first_RI.shape[1]), shape)
    rank, alpha = float(adapter.config.get("init_r", 12)), adapter.config.get("lora_alpha", 8)
    return LowRank(first_RI, second_OR, (alpha if alpha > 0 else rank) / (rank + 1e-5), turned)


def _loha(adapter: Adapter, base: Names, path: str, values: Values, shape: tuple[int, ...]) -> Update:
    factors = [values[f"hada_w{number}"] for number in ("1_a", "1_b", "2_a", "2_b")]
    _shaped(adapter, path, factors[0] @ factors[1][:, :1], (shape[0], 1))
    _shaped(adapter, path, factors[0][:1] @ factors[1], (1, *shape[1:]))
    return Hadamard(factors, _alpha(adapter, path) / len(factors[1]))


def _lokr(adapter: Adapter, base: Names, path: str, values: Values, shape: tuple[int, ...]) -> Update:
    pair = [
        values[name] if name in values else values[f"{name}_a"] @ values[f"{name}_b"] for name in ("lokr_w1", "lokr_w2")
    ]
    rank = pattern_value(adapter.config.get("rank_pattern"), path, adapter.config.get("r", 8))
    sizes = tuple(one * other for one, other in zip(pair[0].shape, pair[1].shape, strict=True))
    if sizes != tuple(shape):
        raise DataError("CKPT-02", f"{adapter.folder} does not fit the model; {path} is {tuple(shape)}, not {sizes}")
    return Kronecker(pair[0], pair[1], _alpha(adapter, path) / rank)


def _alpha(adapter: Adapter, path: str) -> float:
    return pattern_value(adapter.config.get("alpha_pattern"), path, adapter.config.get("alpha", 8))


def _ia3(adapter: Adapter, base: Names, path: str, values: Values, shape: tuple[int, ...]) -> Update:
    factors = values["ia3_l"]
    outputs = factors.shape[1] == 1
    if _conv1d(base, path):
        factors, outputs = factors.T.contiguous(), not outputs
    _shaped(adapter, path, factors, (shape[0], 1) if outputs else (1, shape[1]))
    return Scaled(factors)


def _vera(adapter: Adapter, base: Names, path: str, values: Values, shape: tuple[int, ...]) -> Update:
    if not adapter.shared:
        raise NeedsModel("VeRA without its projections draws them for the model")
    first_RI, second_OR = (whole(adapter.shared[name]) for name in ("vera_A", "vera_B"))
    scales_O, scales_R = values["vera_lambda_b"], values["vera_lambda_d"]
    turned = _conv1d(base, path)
    inside = shape[0] if turned else shape[1]
    _shaped(adapter, path, scales_O, (shape[1] if turned else shape[0],))
    return LowRank(scales_R[:, None] * first_RI[:, :inside], scales_O[:, None] * second_OR[: len(scales_O)], 1, turned)


def _fourier(adapter: Adapter, base: Names, path: str, values: Values, shape: tuple[int, ...]) -> Update:
    if len(shape) != 2 or base.config.get("model_type") in CONV1D:
        raise NeedsModel(f"{path} is no linear layer")
    seed, scale = adapter.config.get("random_loc_seed", 777), adapter.config.get("scaling", 150.0)
    return Fourier(values["fourierft_spectrum"], seed, scale)


def _oft(adapter: Adapter, base: Names, path: str, values: Values, shape: tuple[int, ...]) -> Update:
    skew = skew_of(values["oft_R"])
    if adapter.config.get("coft"):
        skew = shrunk(skew, adapter.config.get("eps", 6e-5))
    terms = adapter.config.get("num_cayley_neumann_terms", 5)
    turns = neumann(skew, terms) if adapter.config.get("use_cayley_neumann", True) else cayley(skew)
    if adapter.config.get("block_share"):
        turns = turns.expand(shape[1] // turns.shape[1], -1, -1)
    _shaped(adapter, path, turns[:, 0].reshape(-1), (shape[1],))
    return Turned(turns)


def _boft(adapter: Adapter, base: Names, path: str, values: Values, shape: tuple[int, ...]) -> Update:
    if len(values["boft_R"]) != 1:
        raise NeedsModel("BOFT with several butterfly factors runs on a GPU")
    blocks = values["boft_R"][0]
    turns = cayley(0.5 * (blocks - blocks.transpose(1, 2)))
    _shaped(adapter, path, turns[:, 0].reshape(-1), (shape[1],))
    return Turned(turns, _shaped(adapter, path, values["boft_s"].reshape(-1), (shape[0],)))


def _shaped(adapter: Adapter, path: str, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`values`, which have to have this shape. Raises DataError when they do not."""
    if tuple(values.shape) != tuple(shape):
        what = f"{adapter.folder} does not fit the model; {path}: {tuple(values.shape)}, not {tuple(shape)}"
        raise DataError("CKPT-02", what, fix="merge it into the model that it was trained on")
    return values


METHODS = {
    "LORA": _lora,
    "ADALORA": _adalora,
    "LOHA": _loha,
    "LOKR": _lokr,
    "IA3": _ia3,
    "VERA": _vera,
    "FOURIERFT": _fourier,
    "OFT": _oft,
    "BOFT": _boft,
}


def _in_experts(adapter: Adapter, base: Names, path: str, values: Values) -> Iterator[tuple[str, Make]]:
    """LoRA on a parameter that holds all experts: on that tensor, or on the tensors of the experts in the files."""
    parameter = _parameter(adapter, path)
    path = path.replace(".base_layer", "")
    first, second = values["lora_A"], values["lora_B"]
    stored = base.find(f"{path}.{parameter}")
    if stored is not None and len(base.names[stored].shape) == 2:
        scale = _scale(adapter, path, len(first))
        yield (
            stored,
            lambda shape: LowRank(
                first, second, scale, _turned(adapter, base, path, (len(second), first.shape[1]), shape)
            ),
        )
        return
    names = _expert_names(base, path, parameter) if stored is None else []
    count = len(names) or (base.names[stored].shape[0] if stored else 0)
    if not count or len(first) % count:
        raise DataError("CKPT-02", f"{adapter.folder} does not fit the model; {path}.{parameter} is not in it")
    rank = len(first) // count
    scale = _scale(adapter, path, rank)
    first_ERI, second_EOR = first.view(count, rank, -1), second.view(len(second), rank, count).permute(2, 0, 1)
    if stored:
        yield stored, lambda shape: _experts(adapter, base, path, first_ERI, second_EOR, scale, shape)
    for expert, parts in enumerate(names):
        size = second_EOR.shape[1] // len(parts)
        for place, name in enumerate(parts):
            part_OR = second_EOR[expert, place * size : (place + 1) * size].contiguous()
            yield (
                name,
                lambda shape, a=first_ERI[expert], b=part_OR: LowRank(
                    a, b, scale, _turned(adapter, base, path, (len(b), a.shape[1]), shape)
                ),
            )


def _experts(
    adapter: Adapter, base: Names, path: str, first: Tensor, second: Tensor, scale: float, shape: tuple[int, ...]
) -> Update:
    plain = (second.shape[1], first.shape[2])
    if tuple(shape[1:]) not in (plain, plain[::-1]):
        what = f"{adapter.folder} does not fit the model; experts of {path} are {tuple(shape[1:])}, not {plain}"
        raise DataError("CKPT-02", what)
    square = base.config.get("model_type") in EXPERTS_TURNED
    return Experts(first, second, scale, tuple(shape[1:]) != plain or (plain[0] == plain[1] and square))


def _parameter(adapter: Adapter, path: str) -> str:
    """Which parameter of a module PEFT's wrapper is for: the innermost wrapper is that of the first parameter."""
    module = path.replace(".base_layer", "")
    said = [name.rpartition(".") for name in adapter.config["target_parameters"]]
    short = {name for where, _, name in said if module == where or module.endswith(f".{where}") or not where}
    order = [name for name in FUSED if name in short] + sorted(short - FUSED.keys())
    depth = path.count(".base_layer")
    if depth >= len(order):
        raise DataError("CKPT-02", f"{adapter.folder}: target_parameters does not name a parameter of {module}")
    return order[len(order) - 1 - depth]


def _expert_names(base: Names, path: str, parameter: str) -> list[tuple[str, ...]]:
    """The tensors of each expert in the files, of which transformers makes one `parameter`."""
    for parts in FUSED.get(parameter, ()):
        names: list[tuple[str, ...]] = []
        while all(found := [base.find(f"{path}.{len(names)}.{part}.weight") for part in parts]):
            names.append(tuple(str(name) for name in found))
        if names:
            return names
    return []
