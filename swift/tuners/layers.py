"""Where the layers of a transformer are, found by how the model is built, and what a model was called with."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedConfig

from swift.errors import ConfigError
from swift.tuners.branch import COPIES, Active, Branch, attach, no_target, outside


def find_layers(model: nn.Module, key: str | None = None) -> tuple[str, nn.ModuleList]:
    """The list of the model's layers, with its path.

    Args:
        model: any model with one list of equal parts, such as a transformer.
        key: the path of the list or the end of it; None finds the one that is as long as the model's config says it
            is deep, or else the longest. Of an encoder and a decoder it is the decoder's.

    Raises:
        UnknownNameError: there is no list with that path.
        ConfigError: there is no list of layers at all.
    """
    lists = {path: module for path, module in outside(model) if isinstance(module, nn.ModuleList) and len(module)}
    if key is not None:
        named = [path for path in lists if path == key or path.endswith(f".{key}")]
        if not named:
            raise no_target(model, key)
        return named[0], lists[named[0]]
    outer = {path: found for path, found in lists.items() if not any(path.startswith(f"{other}.") for other in lists)}
    if not outer:
        raise ConfigError(
            "CONFIG-02",
            f"{type(model).__name__} has no list of layers",
            fix="name the modules by target_modules, where the tuner has them",
        )
    depth = layer_count(model)
    path = [path for path in outer if len(outer[path]) == (depth or max(map(len, outer.values())))] or [
        max(outer, key=lambda path: len(outer[path]))
    ]
    return path[-1], outer[path[-1]]


def text_config(model: nn.Module) -> PreTrainedConfig | None:
    """The config of a transformers model's text part."""
    config = vars(model).get("config")
    return config.get_text_config(decoder=True) if isinstance(config, PreTrainedConfig) else None


def layer_count(model: nn.Module) -> int | None:
    """How many layers the model's config says that it has; None when it says nothing."""
    config = text_config(model)
    return config.num_hidden_layers if config is not None and "num_hidden_layers" in dir(config) else None


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that `module` itself holds, not those of its children."""
    return {key: parameter for key, parameter in vars(module)["_parameters"].items() if parameter is not None}


def read_as(module: nn.Module, read: Callable[[nn.Module, str], Any]) -> None:
    """Let `module` compute with `read(module, key)` in place of its parameter `key`, for each parameter that it holds.

    Its class becomes a child of its class with a property of each name, so a deep copy reads its own.
    """
    plain = type(module)
    parts = {key: property(lambda owner, key=key: read(owner, key)) for key in own_parameters(module)}
    module.__class__ = type(plain.__name__, (plain,), parts)


def copies_on(module: nn.Module) -> list[Branch]:
    """The active branches with copies of the parameters of `module`, with which it computes."""
    return [branch for branch in vars(module).get(COPIES, ()) if branch.on]


def check_no_copies(modules: Iterable[nn.Module], names: Iterable[str]) -> None:
    """Raise ConfigError if one of `modules`, whose weights the adapters `names` would change, computes with a copy."""
    for module in modules:
        if copies_on(module):
            other = copies_on(module)[0].adapter
            what = f"{', '.join(names)} cannot be merged while {other!r} trains copies of the weights"
            raise ConfigError("MERGE-01", what, fix="deactivate it first; it goes on without what is merged then")


def bare(module: nn.Module) -> nn.Module:
    """The module that PEFT has wrapped, or the module itself."""
    while isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        inner = module.base_layer if isinstance(module, BaseTunerLayer) else module.original_module
        assert isinstance(inner, nn.Module)
        module = inner
    return module


class PerThread:
    """A value that each thread has its own of."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._last: Any = None

    def set(self, value: Any) -> None:
        """Set it for this thread."""
        self._own.value = self._last = value

    def get(self) -> Any:
        """This thread's value; None when it has none."""
        return self._own.__dict__.get("value")

    def get_or_last(self) -> Any:
        """This thread's value, or the last of any: backward runs layers again in threads of its own."""
        return self._own.__dict__.get("value", self._last)

    def __getstate__(self) -> dict[str, Any]:  # what one model was called with is nothing to its copy
        return {"own": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()


LABELS = PerThread()


@contextmanager
def telling(labels_BT: Tensor) -> Iterator[None]:
    """Let tuners that need to know where prompts end know the labels of a call that does not get them.

    Args:
        labels_BT: -100 where nothing is learnt.
    """
    LABELS.set(labels_BT)
    try:
        yield
    finally:
        LABELS.set(None)


PREFIX = PerThread()


@contextmanager
def prefixed(length: int) -> Iterator[None]:
    """Let tuners that count positions know that `length` of those in the cache are a tuner's, not the text's."""
    PREFIX.set(length)
    try:
        yield
    finally:
        PREFIX.set(None)


class Listener(Branch):
    """Sits on the whole model and hears what it is called with, for the branches inside that need to know."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names: Sequence[str] = list(inspect.signature(model.forward).parameters)
        self.heard = PerThread()

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as they are; what `keep` makes of them is remembered until the next call."""
        self.heard.set(self.keep({**dict(zip(self.names, args, strict=False)), **kwargs}))
        return args, kwargs

    def keep(self, named: dict[str, Any]) -> Any:
        """What is to be remembered of the arguments: here the mask of padding."""
        return named.get("attention_mask")


def put(host: nn.Module, key: str, branch: Branch, name: str, active: Active) -> None:
    """Make `branch` the child `key` of `host`, for the adapter `name`, in the mode that the host is in."""
    branch.adapter, branch.active = name, active
    attach(host, key, branch.train(host.training))
