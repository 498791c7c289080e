"""Which base an adapter was trained on: a few hundred of its weights, saved with the adapter, compared on loading."""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from swift import storage
from swift.errors import DataError
from swift.log import get_logger
from swift.tuners.branch import Branch

TENSORS, WEIGHTS, SHOWN = 128, 4, 5
WRAPPERS = ("base_layer", "original_module", "token_adapter")
FINGERPRINT_FILE = "base_fingerprint.json"  # beside PEFT's own files; ours say it in adapter_config.json
REMEMBERED = "base_fingerprint"

logger = get_logger()


@dataclass(frozen=True)
class Fingerprint:
    """Weights sampled from a base, rounded to bf16, so that the precision in which it is loaded does not matter.

    Only fp16 has fewer small values than bf16 has: where one side was fp16, one step of rounding is allowed.

    Args:
        name: the base's name or path; None when it has none.
        weights: `WEIGHTS` of each of up to `TENSORS` parameters; None for a base that cannot be sampled, because it is
            quantised or not in memory.
        half: whether the base was in fp16.
        keys: the parameters that were sampled; empty for a fingerprint from a file.
    """

    name: str | None = None
    weights: Tensor | None = None
    half: bool = False
    keys: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fingerprint as JSON can hold it."""
        data = None if self.weights is None else bytes(self.weights.view(torch.uint8).tolist())
        return {"name": self.name, "half": self.half, "weights": data and base64.b64encode(data).decode()}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The fingerprint that `to_dict` gave. Raises DataError for anything else."""
        try:
            data = base64.b64decode(values["weights"] or "", validate=True)
            weights = torch.tensor(list(data), dtype=torch.uint8).view(torch.bfloat16) if data else None
            return cls(values["name"], weights, bool(values["half"]))
        except (TypeError, KeyError, ValueError, RuntimeError) as error:
            raise DataError(
                "CKPT-01",
                f"the fingerprint of the base cannot be read: {error}",
                fix="copy the checkpoint again from where it was made",
            ) from error

    def differing(self, base: Fingerprint) -> list[str] | None:
        """The sampled parameters of `base` that are not those of this one; None when the two cannot be compared."""
        if self.weights is None or base.weights is None:
            return None
        if self.weights.shape != base.weights.shape:
            return ["the number of its parameters"]
        mine, theirs = self.weights.float(), base.weights.float()
        allowed = torch.maximum(mine.abs(), theirs.abs()) * 2**-7 + 2**-24 if self.half or base.half else 0
        unlike = ((mine - theirs).abs() > allowed).reshape(-1, WEIGHTS).any(dim=1)
        return [key for key, differs in zip(base.keys, unlike.tolist(), strict=True) if differs]


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
    found = sorted(base_parameters(model), key=lambda item: item[0])
    chosen = [found[i * len(found) // TENSORS] for i in range(TENSORS)] if len(found) > TENSORS else found
    if not chosen or _quantised(model) or not all(_readable(tensor) for _, tensor in chosen):
        return Fingerprint(name)
    weights = torch.cat([_sample(tensor) for _, tensor in chosen])
    half = any(tensor.dtype == torch.float16 for _, tensor in chosen)
    return Fingerprint(name, weights, half, tuple(key for key, _ in chosen))


def check_base(trained_on: Fingerprint | None, base: Fingerprint, what: str, allow_other: bool) -> None:
    """See that an adapter meets the base that it was trained on; warn where that cannot be known.

    Raises:
        DataError: it is another base, and `allow_other` is not set.
    """
    differing = trained_on.differing(base) if trained_on is not None else None
    if trained_on is None or differing is None:
        reason = "does not say which weights it was trained on" if trained_on is None else "or the base is quantised"
        logger.warning("%s %s: nothing tells whether this is its base", what, reason)
        return
    if differing and not allow_other:
        shown = ", ".join(differing[:SHOWN]) + (f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else "")
        raise DataError(
            "CKPT-02",
            f"{what} was trained on {trained_on.name or 'another base'}, whose weights are not those of "
            f"{base.name or 'this model'}",
            why=f"they differ in {shown}",
            fix="load the base that it was trained on, or say --allow_other_base (allow_other_base=True in Python)",
        )


def base_parameters(module: nn.Module, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The parameters of a base under the names that they have without tuners, tied ones under each of theirs."""
    if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
        inside = next(child for name in WRAPPERS if (child := module._modules.get(name)) is not None)
        yield from base_parameters(inside, path)
        return
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield path + name, parameter
    for name, child in module._modules.items():
        if child is not None and not isinstance(child, Branch):
            yield from base_parameters(child, f"{path}{name}.")


def _save(config: peft.PeftConfig, save_directory: str, **kwargs: Any) -> None:
    type(config).save_pretrained(config, save_directory, **kwargs)
    storage.write_json(Path(save_directory) / FINGERPRINT_FILE, vars(config)[REMEMBERED].to_dict())


def _sample(tensor: Tensor) -> Tensor:
    """`WEIGHTS` evenly spread elements in bf16, taken without a copy of the whole."""
    size = tensor.numel()
    places = torch.tensor([(2 * i + 1) * size // (2 * WEIGHTS) for i in range(WEIGHTS)], device=tensor.device)
    return tensor.detach()[torch.unravel_index(places, tensor.shape)].to(torch.bfloat16).cpu()


def _readable(tensor: Tensor) -> bool:
    """Whether the values are here: meta tensors have none, and of sharded ones nothing is left in their place."""
    return tensor.device.type != "meta" and tensor.numel() > 0 and type(tensor) in (Tensor, nn.Parameter)


def _quantised(model: nn.Module) -> bool:
    if model.__dict__.get("hf_quantizer") is not None:
        return True
    return any(not parameter.is_floating_point() for parameter in model.parameters())
