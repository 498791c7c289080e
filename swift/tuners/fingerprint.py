"""Which base an adapter was trained on: a few hundred of its weights, saved with the adapter, compared on loading."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from swift import storage
from swift.parallel.cuts import whole
from swift.tuners.branch import Branch
from swift.tuners.sampled import FINGERPRINT_FILE as FINGERPRINT_FILE
from swift.tuners.sampled import REMEMBERED, WEIGHTS, Fingerprint, chosen, places
from swift.tuners.sampled import check_base as check_base

FRESH = ("score.weight", "score.bias")  # a head that starts at random is none of the base
WRAPPERS = ("base_layer", "original_module", "token_adapter")


def remember(config: peft.PeftConfig, base: Fingerprint) -> None:
    """Let `config`, of a model that PEFT saves, know the base: whoever saves it writes the fingerprint beside it."""
    vars(config)[REMEMBERED] = base
    vars(config)["save_pretrained"] = functools.partial(_save, config)


def remembered(model: nn.Module) -> Fingerprint:
    """The fingerprint of a model as it was before its tuners came; taken now where none is remembered."""
    if not isinstance(model, peft.PeftModel):
        return take(model)
    known = [vars(config).get(REMEMBERED) for config in model.peft_config.values()]
    return next((base for base in known if base is not None), None) or take(model.get_base_model())


def take(model: nn.Module) -> Fingerprint:
    """The fingerprint of `model` without its tuners; what was folded into its weights shows."""
    name = model.__dict__.get("name_or_path") or None
    found = {name: values for name, values in base_parameters(model) if name not in FRESH}
    keys = chosen(list(found))
    method = _quantised_by(model)
    plain = [key for key in keys if _readable(found[key]) and found[key].is_floating_point()]
    if not plain or (method is None and len(plain) < len(keys)):
        return Fingerprint(name)
    unknown = torch.full((WEIGHTS,), torch.nan, dtype=torch.bfloat16)
    weights = torch.cat([_sample(found[key]) if key in plain else unknown for key in keys])
    half = any(found[key].dtype == torch.float16 for key in plain)
    return Fingerprint(name, weights, half, tuple(keys), method)


def base_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters of a base under the names that they have without tuners, tied ones under each of theirs."""
    for path, part in base_modules(module):
        for name, parameter in part._parameters.items():
            if parameter is not None:
                yield path + name, parameter


def base_modules(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules of a base, each with what the names of its tensors begin with where there are no tuners."""
    if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        inside = next(child for name in WRAPPERS if (child := module._modules.get(name)) is not None)
        yield from base_modules(inside, path)
        return
    yield path, module
    for name, child in module._modules.items():
        if child is not None and not isinstance(child, Branch):
            yield from base_modules(child, f"{path}{name}.")


def _save(config: peft.PeftConfig, save_directory: str, **kwargs: Any) -> None:
    type(config).save_pretrained(config, save_directory, **kwargs)
    storage.write_json(Path(save_directory) / FINGERPRINT_FILE, vars(config)[REMEMBERED].to_dict())


def _sample(tensor: Tensor) -> Tensor:
    """A few evenly spread elements in bf16, taken without a copy of the whole."""
    values = whole(tensor)
    here = torch.tensor(places(values.numel()), device=values.device)
    return values[torch.unravel_index(here, values.shape)].to(torch.bfloat16).cpu()


def _readable(tensor: Tensor) -> bool:
    """Whether the values are here: meta tensors have none, and of sharded ones nothing is left in their place."""
    return tensor.device.type != "meta" and tensor.numel() > 0 and type(tensor) in (Tensor, nn.Parameter)


def _quantised_by(model: nn.Module) -> str | None:
    """The method by which a model is quantised, None where it is not."""
    quantizer = model.__dict__.get("hf_quantizer")
    if quantizer is not None:
        return str.__str__(quantizer.quantization_config.quant_method)  # of an enum the value
    return "other" if any(not parameter.is_floating_point() for parameter in model.parameters()) else None
