"""The fingerprint of a base: a few hundred of its weights, and how two of them compare."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor

from swift.errors import DataError
from swift.log import get_logger

TENSORS, WEIGHTS, SHOWN = 128, 4, 5
FINGERPRINT_FILE = "base_fingerprint.json"  # beside PEFT's own files; ours say it in adapter_config.json
REMEMBERED = "base_fingerprint"
SAME_NAMES = ("bitsandbytes", "torchao")  # what they quantise is called as it was

logger = get_logger()


def chosen(names: Sequence[str]) -> list[str]:
    """The parameters that are sampled, of all of a base's."""
    names = sorted(names)
    return [names[i * len(names) // TENSORS] for i in range(TENSORS)] if len(names) > TENSORS else names


def places(size: int) -> list[int]:
    """Which elements are sampled of a parameter with so many."""
    return [(2 * i + 1) * size // (2 * WEIGHTS) for i in range(WEIGHTS)]


@dataclass(frozen=True)
class Fingerprint:
    """Weights sampled from a base, rounded to bf16, so that the precision in which it is loaded does not matter.

    Only fp16 has fewer small values than bf16 has: where one side was fp16, one step of rounding is allowed.

    Args:
        name: the base's name or path; None when it has none.
        weights: `WEIGHTS` of each of up to `TENSORS` parameters, NaN for those that are quantised; None for a base that
            cannot be sampled, because it is not in memory.
        half: whether the base was in fp16.
        keys: the parameters that were sampled; empty for a fingerprint from a file.
        quantised: the method by which the base was; None for one in full precision.
    """

    name: str | None = None
    weights: Tensor | None = None
    half: bool = False
    keys: tuple[str, ...] = ()
    quantised: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fingerprint as JSON can hold it."""
        data = None if self.weights is None else bytes(self.weights.view(torch.uint8).tolist())
        method = {"quantised": self.quantised} if self.quantised else {}
        return {"name": self.name, "half": self.half, "weights": data and base64.b64encode(data).decode(), **method}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """The fingerprint that `to_dict` gave. Raises DataError for anything else."""
        try:
            data = base64.b64decode(values["weights"] or "", validate=True)
            weights = torch.tensor(list(data), dtype=torch.uint8).view(torch.bfloat16) if data else None
            return cls(values["name"], weights, bool(values["half"]), quantised=values.get("quantised"))
        except (AttributeError, TypeError, KeyError, ValueError, RuntimeError) as error:
            raise DataError(
                "CKPT-01",
                f"the fingerprint of the base cannot be read: {error}",
                fix="copy the checkpoint again from where it was made",
            ) from error

    def differing(self, base: Fingerprint) -> list[str] | None:
        """The sampled parameters of `base` that are not those of this one; None when the two cannot be compared."""
        if self.weights is None or base.weights is None:
            return None
        alike = self.quantised == base.quantised
        if not alike and not {self.quantised, base.quantised} <= {None, *SAME_NAMES}:
            return None
        if self.weights.shape != base.weights.shape:
            return ["the number of its parameters"] if alike else None
        mine, theirs = self.weights.float(), base.weights.float()
        allowed = torch.maximum(mine.abs(), theirs.abs()) * 2**-7 + 2**-24 if self.half or base.half else 0
        if (mine - theirs).isnan().all():
            return None
        unlike = ((mine - theirs).abs() > allowed).reshape(-1, WEIGHTS).any(dim=1)
        return [key for key, differs in zip(base.keys, unlike.tolist(), strict=True) if differs]


@cache
def _warn(line: str) -> None:
    """Say it once a process: merging and comparing both look."""
    logger.warning(line)


def check_base(trained_on: Fingerprint | None, base: Fingerprint, what: str, allow_other: bool) -> None:
    """See that an adapter meets the base that it was trained on; warn where that cannot be known.

    Raises:
        DataError: it is another base, and `allow_other` is not set.
    """
    differing = trained_on.differing(base) if trained_on is not None else None
    if trained_on is None or differing is None:
        reason = "does not say which weights it was trained on" if trained_on is None else "or the base is quantised"
        _warn(f"{what} {reason}: nothing tells whether this is its base")
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
