"""A model's layers, compiled by `torch.compile` while they train.

One kind of layer is compiled once, for batches of any size, however many layers there are; a model compiled as a whole
would be compiled anew for every length that a batch has. What is around the layers, and what does not train, computes
as ever: embedding, head and loss, evaluation, answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch._dynamo
import torch._dynamo.exc
import torch._inductor.config
from torch import nn

from swift.errors import ConfigError
from swift.log import get_logger
from swift.registry import unknown
from swift.tuners.layers import find_layers

logger = get_logger()
LONGEST = 300  # characters of what a compiler said
MOST_KINDS = 16  # of input that a kind of layer is compiled for: with a mask or without, of one row or several


def check_backend(name: str) -> None:
    """Raise UnknownNameError for what is no backend of `torch.compile`."""
    names = torch._dynamo.list_backends(exclude_tags=())
    if name not in names:
        raise unknown("torch_compile_backend", name, names)


@contextmanager
def compiled_layers(model: nn.Module, backend: str = "inductor", mode: str | None = None) -> Iterator[int]:
    """Let the layers of `model` be compiled inside the block where they train; gives how many are.

    Modules, and with them the names of weights, stay what they are.

    Args:
        model: with its tuners.
        backend: of `torch.compile`.
        mode: of `torch.compile`; None for its default.

    Raises:
        ConfigError: a layer cannot be compiled.
    """
    path, layers = find_layers(model)
    made: dict[type[nn.Module], Callable[..., Any]] = {}
    changed = [layer for layer in layers if "forward" not in vars(layer)]
    if not changed:
        what = "--torch_compile: every layer has code of its own in front of it, as --device_map puts it there"
        raise ConfigError("CONFIG-02", what, fix="--torch_compile false, or one device")
    for layer in changed:
        kind = type(layer)
        if kind not in made:
            made[kind] = torch.compile(kind.forward, dynamic=True, backend=backend, mode=mode)
        vars(layer)["forward"] = partial(_forward, layer, kind.forward, made[kind])
    logger.info(
        f"torch.compile ({backend}): {len(changed)} of {len(layers)} layers in {path}; "
        "the first steps take longer, by a minute or more"
    )
    try:
        with (
            torch._dynamo.config.patch(recompile_limit=MOST_KINDS),
            torch._inductor.config.patch(fallback_random=True),
        ):
            yield len(changed)
    except torch._dynamo.exc.TorchDynamoException as error:
        cause = " ".join(str(error).split())[:LONGEST]
        what = f"torch.compile cannot compile the layers: {cause}"
        raise ConfigError("CONFIG-03", what, fix="--torch_compile false") from error
    finally:
        for layer in changed:
            del vars(layer)["forward"]


def _forward(layer: nn.Module, plain: Callable[..., Any], compiled: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    trains = layer.training and torch.is_grad_enabled()
    return compiled(layer, *args, **kw) if trains else plain(layer, *args, **kw)
