"""How fast this machine computes: matrix products, and everything else, which waits for memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from swift.estimate import Speed

SECONDS = 0.15  # that each of the two is watched for
TOKENS, INNER, OUTER = 1024, 1024, 2048  # of a product as layers have them
MOVED = 2**24  # numbers, more than a cache holds


def measure_speed(dtype: torch.dtype, device: torch.device) -> Speed:
    """What the device does in a second, in that precision."""
    x, w = (torch.ones(shape, dtype=dtype, device=device) for shape in ((TOKENS, INNER), (INNER, OUTER)))
    y = torch.ones(MOVED, dtype=dtype, device=device)
    rounds = _rounds(lambda: x @ w, device)
    moves = _rounds(lambda: y * y, device)
    return Speed(2 * TOKENS * INNER * OUTER * rounds, 3 * y.numel() * y.element_size() * moves)


def _rounds(work: Callable[[], object], device: torch.device) -> float:
    """How often a second, by the fastest of several turns: others may use the machine too."""
    turns: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(turns) < 3:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # needs-cuda
        turns.append(time.perf_counter() - start)
    return 1 / min(turns)
