"""Where PiSSA and OLoRA start: the part of a weight that is trained.

Letters in names: I and O features in and out, R the rank.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from swift.errors import ConfigError


def start_of(weight_OI: Tensor, rank: int, scale: float, said: str) -> tuple[Tensor, Tensor]:
    """A0 (R, I) and B0 (O, R): the part of the weight that is trained.

    Args:
        weight_OI: in float32 or higher.
        rank: R.
        scale: s, of s B A.
        said: "pissa", "pissa_niter_N" (a randomised decomposition with N iterations) or "olora".

    Raises:
        ConfigError: `said` is none of these.
    """
    if said.lower() == "olora":
        basis_OR, rest_RI = torch.linalg.qr(weight_OI)
        return rest_RI[:rank].contiguous(), basis_OR[:, :rank].contiguous()
    if said == "pissa":
        left_OR, sizes_R, right_RI = torch.linalg.svd(weight_OI, full_matrices=False)
        left_OR, sizes_R, right_RI = left_OR[:, :rank], sizes_R[:rank], right_RI[:rank]
    elif match := re.fullmatch(r"pissa_niter_(\d+)", said):
        left_OR, sizes_R, right_IR = torch.svd_lowrank(weight_OI, rank, niter=int(match[1]))
        right_RI = right_IR.T
    else:
        raise ConfigError("CONFIG-02", f"init_lora_weights={said!r}", fix="'pissa', 'pissa_niter_4' or 'olora'")
    roots_R = (sizes_R / scale).sqrt()
    return roots_R[:, None] * right_RI, left_OR * roots_R
