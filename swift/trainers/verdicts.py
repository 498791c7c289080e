"""Whether a step is sound, decided where the numbers are: nobody waits for the device to hear of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

FLAG = "found_inf"  # what PyTorch's fused optimisers look at on the device: where it is 1 they change nothing


class Later:
    """Numbers on their way from the device: a copy that runs beside the computation, to be read when it must be there.

    One is on its way at a time.
    """

    def __init__(self) -> None:
        self._host: Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._sent = False

    def send(self, values: Tensor) -> None:
        """Let `values`, of the same shape each time, come to the host."""
        assert not self._sent, "what was sent before was not read"
        if self._host is None:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
        self._host.copy_(values, non_blocking=True)
        if values.is_cuda:
            self._copied = torch.cuda.Event()  # needs-cuda
            self._copied.record()  # needs-cuda
        self._sent = True

    def read(self) -> list[Any] | None:
        """What was sent; None when nothing was since it was read."""
        if not self._sent or self._host is None:
            return None
        self._sent = False
        if self._copied is not None:
            self._copied.synchronize()  # needs-cuda
        return list(self._host.numpy())


class Verdicts:
    """Judges each step just before the optimiser takes it.

    A step that is not sound changes no weight and no state: the optimiser is told so on the device, by the flag that
    the scaling of losses uses. The host gets the verdict by a copy that runs beside the computation, and reads it when
    the next step is judged, so a step never waits for itself, and none is taken after one that was not sound.

    Args:
        optimizer: a fused one of PyTorch; see `takes_flag`.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._verdict = Later()
        self._step, self._names = 0, [""]

    def judge(self, step: int, sound: Mapping[str, Tensor]) -> None:
        """Keep the optimiser from a step that is not sound.

        The verdict on the step before must have been read.

        Args:
            step: its number.
            sound: what has to be, by name, the same ones each time; a boolean on a device each.
        """
        flags = [one.reshape(()) for one in sound.values()]
        sound_Q = torch.stack([one.to(flags[0].device, non_blocking=True) for one in flags])
        vars(self.optimizer)[FLAG] = (~sound_Q.all()).float()
        self._verdict.send(sound_Q)
        self._step, self._names = step, list(sound)

    def read(self) -> tuple[int, str] | None:
        """Of the step that was judged last, its number and what is not sound; None when all is, or it was read."""
        wrong = [name for name, sound in zip(self._names, self._verdict.read() or [], strict=False) if not sound]
        return (self._step, wrong[0]) if wrong else None

    def close(self) -> None:
        """Leave the optimiser as it was."""
        vars(self.optimizer).pop(FLAG, None)


def takes_flag(optimizer: Any) -> bool:
    """Whether an optimiser can be kept from a step on the device; a state that was loaded may have made it another."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused and bool(vars(optimizer).get("_step_supports_amp_scaling"))
