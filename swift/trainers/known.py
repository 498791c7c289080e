"""What the host knows of a batch, since it was there before the device had it: nobody has to ask the device for it.

Letters in names: B rows, T tokens, N supervised tokens in a flat list, K kept positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import masking_utils

from swift.trainers.loss import IGNORED
from swift.tuners.layers import PerThread

KNOWN = PerThread()
LOOKS_AT_MASK, LOOKS_AT_POSITIONS = "fast_all", "find_packed_sequence_indices"  # transformers' functions


@dataclass(frozen=True)
class Known:
    """Of one batch; the tensors are where the model is.

    `rows_N` and `columns_N` are the places of what predicts a supervised token; `kept_K` their columns, rising, never
    none of them; `numbers_N` which of these each place has. `padded` says whether the mask hides a token, `packed`
    whether positions begin anew within a row.
    """

    rows_N: Tensor
    columns_N: Tensor
    kept_K: Tensor
    numbers_N: Tensor
    padded: bool
    packed: bool

    @classmethod
    def of(cls, batch: Mapping[str, Any], device: torch.device) -> Known:
        """What a batch on the host tells."""
        on_BT = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED) != IGNORED
        rows_N, columns_N = on_BT.nonzero().unbind(1)
        kept_K, numbers_N = columns_N.unique(return_inverse=True)
        kept_K = kept_K if len(kept_K) else kept_K.new_zeros(1)
        mask_BT, positions_BT = batch.get("attention_mask"), batch.get("position_ids")
        return cls(
            *(sent(places, device) for places in (rows_N, columns_N, kept_K, numbers_N)),
            padded=mask_BT is not None and not bool(mask_BT.all()),
            packed=positions_BT is not None and bool((positions_BT.diff(dim=-1) != 1).any()),
        )


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, by a copy that nobody waits for."""
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()  # needs-cuda
    return tensor.to(device, non_blocking=True)


@contextmanager
def masks_told(known: Known | None) -> Iterator[None]:
    """Let transformers make the masks of attention inside the block by what is known, not by looking at tensors.

    Args:
        known: of the batch that this thread calls the model with; None lets it look.
    """
    if known is not None:
        _ask_first()
    KNOWN.set(known)
    try:
        yield
    finally:
        KNOWN.set(None)


@cache
def _ask_first() -> None:
    """Let transformers' functions that look ask `KNOWN` first, from now on."""
    names: Any = vars(masking_utils)
    for name, answer in ((LOOKS_AT_MASK, _all), (LOOKS_AT_POSITIONS, _indices)):
        if name in names:
            names[name] = partial(_asked, names[name], answer)


def _asked(plain: Callable[[Tensor], Any], answer: Callable[[Known, Tensor], Any], tensor: Tensor) -> Any:
    known = KNOWN.get()
    return plain(tensor) if known is None else answer(known, tensor)


def _all(known: Known, mask_BT: Tensor) -> bool:
    """Whether a mask, or that part of it which is the batch's, hides nothing."""
    return not known.padded


def _indices(known: Known, positions_BT: Tensor) -> Tensor | None:
    """Which sequence each token is of; None where a row is one sequence."""
    if not known.packed:
        return None
    return (torch.diff(positions_BT, prepend=positions_BT[:, :1] - 1, dim=-1) != 1).cumsum(-1)
