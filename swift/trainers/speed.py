"""How fast this machine computes: matrix products, and everything else, which waits for memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from swift.estimate import Speed

SECONDS, LEAST_TURNS = 0.15, 3  # that each of the two is watched for
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
    clock = time.thread_time if device.type == "cpu" else time.perf_counter  # this thread works as long as any
    turns: list[float] = []
    while sum(turns) < SECONDS or len(turns) < LEAST_TURNS:
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # needs-cuda
        turns.append(clock() - start)
    return 1 / min(turns)
