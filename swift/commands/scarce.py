"""A run that finds no memory: what it would need, by part, and the flags that lower it most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from swift import dist
from swift.arguments.sft import SftArguments
from swift.commands.estimate import advice, estimate_run
from swift.commands.pictures import size
from swift.commands.task import task_of
from swift.dist import Hardware
from swift.errors import InternalError, SwiftError, brief
from swift.models.source import ModelSource

FIX = "a smaller --batch_size or --max_length, or --gradient_checkpointing true"
LONGEST = 300  # characters of what was said
OF_THE_SYSTEM = ("can't allocate memory", "Cannot allocate memory", "out of memory")


@contextmanager
def memory_explained(args: SftArguments, source: ModelSource, hardware: Hardware) -> Iterator[None]:
    """Say what a run needs, and what would make it less, when there is no memory for it inside the block.

    Raises:
        InternalError: there was none.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = brief(error)
    else:
        return
    why, fix = _explained(args, source, hardware) if dist.is_main() else (None, FIX)
    raise InternalError("RUN-06", f"there is not enough memory: {said[:LONGEST]}", why=why, fix=fix)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no more memory."""
    if isinstance(error, SwiftError):
        return False
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OF_THE_SYSTEM)


def _explained(args: SftArguments, source: ModelSource, hardware: Hardware) -> tuple[str | None, str]:
    """What a process needs by part, and the flags that lower it most; None and a rule where no estimate can be made."""
    if task_of(args).unsized(args, source) is not None:
        return None, FIX
    try:
        found = estimate_run(args, source, hardware)
        others = list(advice(args, source, found)) if found.size.memory is not None else []
    except (SwiftError, MemoryError):
        return None, FIX
    if found.size.memory is None:
        return None, FIX
    parts = ", ".join(f"{name} {size(count)}" for name, count in found.size.memory.parts().items() if count)
    flags = "; or ".join(f"{flag} ({size(count)})" for flag, count, _ in others)
    return f"the height of a step takes {size(found.size.memory.total)}: {parts}", flags or FIX
