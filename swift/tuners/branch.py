"""Branches: the parts that a tuner adds to its host modules, and the switch that says which adapters run.

A branch is an ordinary child of its host, under the name `<kind>_<adapter>`. Branches on one host nest: each is around
the host with those that came before it. One pair of hooks per host runs them all; the hooks look them up on the module
that they are called for, so a deep copy of a model runs its own branches.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload
from weakref import WeakKeyDictionary

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from swift.errors import ConfigError, UnknownNameError
from swift.registry import unknown

COPIES = "copies"  # the attribute of a module that lists the branches with copies of its parameters


class Active(Sequence[str]):
    """The adapters that run, oldest first: one list for the process or, with `per_thread`, one for each thread.

    Every branch and every PEFT layer of a model holds the same object, so switching costs the same for one layer as for
    a thousand. A new thread starts with none.
    """

    def __init__(self, per_thread: bool = False) -> None:
        self.per_thread = per_thread
        self._shared: tuple[str, ...] = ()
        self._own = threading.local()
        self._threads: WeakKeyDictionary[threading.Thread, tuple[str, ...]] = WeakKeyDictionary()

    @property
    def names(self) -> tuple[str, ...]:
        """The active adapters of the calling thread."""
        return self._own.__dict__.get("names", ()) if self.per_thread else self._shared

    @names.setter
    def names(self, names: Sequence[str]) -> None:
        if self.per_thread:
            self._own.names = self._threads[threading.current_thread()] = tuple(names)
        else:
            self._shared = tuple(names)

    def elsewhere(self, name: str) -> bool:
        """Whether another living thread runs the adapter `name`."""
        here = threading.current_thread()
        others = [names for thread, names in list(self._threads.items()) if thread.is_alive() and thread is not here]
        return any(name in names for names in others)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return list(self.names)[index]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getstate__(self) -> dict[str, Any]:  # a thread's own list cannot be copied; the copier's can
        return {"per_thread": self.per_thread, "names": self.names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["per_thread"])
        self.names = state["names"]


class ActiveHere(Sequence[str]):
    """Those of `active` that one module knows: what PEFT's wrapper of a whole module has to be shown."""

    def __init__(self, active: Active, known: set[str]) -> None:
        self.active, self.known = active, known

    def __getitem__(self, index: Any) -> Any:
        return [name for name in self.active if name in self.known][index]

    def __len__(self) -> int:
        return len(self[:])

    def __radd__(self, names: list[str]) -> list[str]:
        return names + self[:]


class Idle:
    """True while none of the adapters that one module knows is active: PEFT's layers then only call their base."""

    def __init__(self, active: Active, known: set[str]) -> None:
        self.active, self.known = active, known

    def __bool__(self) -> bool:
        return self.known.isdisjoint(self.active.names)


class Branch(nn.Module):
    """A tuner's trainable part in one host module. It runs while its adapter is active.

    A method overrides `before` (edits what the host is given), `after` (edits what it returns) or both. To a branch the
    host is the module with the branches that were added earlier, so its `before` runs ahead of theirs and its `after`
    behind. A branch made alone, without an adapter, is always on.
    """

    method = "forward"
    adapter = ""
    active: Sequence[str] = ("",)

    @property
    def on(self) -> bool:
        """Whether the host calls this branch now."""
        return self.adapter in self.active

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that the host gets instead of these."""
        return args, kwargs

    def after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """What the host returns instead of `output`.

        Args:
            args: what this branch's `before` has handed on; branches inside may have changed it for the host.
            kwargs: likewise.
            output: what the host has returned, edited by the branches inside.
        """
        return output


def edit(output: Any, position: int | str, change: Callable[[Tensor], Tensor]) -> Any:
    """`output` with `change` applied to it, when it is a tensor, or to its element at `position`."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple):
        return tuple(change(item) if i == position else item for i, item in enumerate(output))
    assert isinstance(output, dict)
    position = list(output)[position] if isinstance(position, int) else position
    output[position] = change(output[position])  # a dict, or a model's output class
    return output


def attach(host: nn.Module, key: str, branch: Branch) -> None:
    """Put `branch` into `host` as its child `key`, and see that the host calls its branches."""
    host.add_module(key, branch)
    hooked: set[str] = host.__dict__.setdefault("branch_methods", set())
    if branch.method in hooked:
        return
    hooked.add(branch.method)
    if branch.method == "forward":
        host.register_forward_pre_hook(_before_forward, with_kwargs=True)
        host.register_forward_hook(_after_forward, with_kwargs=True)
    else:
        _wrap(host, branch.method)


def detach(model: nn.Module, adapter: str) -> None:
    """Take the branches of an adapter out of their hosts."""
    for host in list(model.modules()):
        for key, child in list(host.named_children()):
            if isinstance(child, Branch) and child.adapter == adapter:
                delattr(host, key)
        copies = vars(host).get(COPIES, [])
        copies[:] = [branch for branch in copies if branch.adapter != adapter]


def hosts(model: nn.Module, target: str | Sequence[str]) -> list[tuple[str, nn.Module]]:
    """The modules that `target` names, with their paths.

    Args:
        model: where to look; the inside of branches and of PEFT's layers does not count.
        target: a regular expression that has to match a whole path, or a list of endings of paths.

    Raises:
        UnknownNameError: nothing has such a name.
        ConfigError: a target is a plain list of modules, which nothing ever calls.
    """
    places = dict(outside(model))
    found = [(path, module) for path, module in places.items() if path and matches(target, path)]
    for path, module in found:
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            raise ConfigError(
                "CONFIG-02",
                f"target {path!r} is a list of modules, which cannot be tuned as one",
                fix=f"{path}.0 for its first member; r'{re.escape(path)}\\.\\d+' for all of them",
            )
    if not found:
        raise no_target(model, target)
    return found


def no_target(model: nn.Module, target: str | Sequence[str] | set[str] | None) -> UnknownNameError:
    """The error for a `target` that names no module of `model`, with the nearest names."""
    first = target if isinstance(target, str) else next(iter(sorted(target or [])), "")
    names = {path.rpartition(".")[2] for path, _ in outside(model)} - {""}
    if isinstance(target, str) and target in names:
        what = f"the expression {target!r} matches no whole path of a module"
        fix = f"write [{target!r}] for the modules whose paths end so, or r'.*\\.{target}'"
        return UnknownNameError("USAGE-04", what, fix=fix)
    known = sorted(name for name in names if not name.isdigit())
    if not first:
        fix = f"target_modules=[...], of {', '.join(known)}"
        return UnknownNameError("USAGE-04", "target_modules names no module, and none is usual in this model", fix=fix)
    return unknown("module of this model", first, known)


def matches(target: str | Sequence[str], path: str) -> bool:
    """Whether the regular expression `target` is the whole `path`, or one of the list `target` ends it.

    Raises:
        ConfigError: it is no regular expression.
    """
    if isinstance(target, str):
        try:
            return re.fullmatch(target, path) is not None
        except re.error as error:
            raise ConfigError(
                "CONFIG-02",
                f"{target!r} is no regular expression: {error}",
                fix="a list of endings of paths, such as ['q_proj'], needs no expression",
            ) from error
    return any(path.endswith(ending) for ending in target)


@contextmanager
def branches_aside(model: nn.Module) -> Iterator[None]:
    """Take all branches out while the modules of `model` are wrapped or unwrapped, and put them back by path.

    A branch so always sits on the outermost module of its place, whatever came first.
    """
    taken = [
        (path, key, child)
        for path, host in model.named_modules()
        for key, child in host.named_children()
        if isinstance(child, Branch)
    ]
    for path, key, _ in taken:
        delattr(model.get_submodule(path), key)
    try:
        yield
    finally:
        for path, key, branch in taken:
            attach(model.get_submodule(path), key, branch)


def outside(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module with its path, but for what lies inside branches and PEFT's layers."""
    yield path, module
    if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        return
    for name, child in module.named_children():
        if not isinstance(child, Branch):
            yield from outside(child, f"{path}.{name}" if path else name)


# A branch that runs, and what its `before` has handed on.
Call = tuple[Branch, tuple[Any, ...], dict[str, Any]]


class Handed(dict[str, Any]):
    """The keyword arguments of a host between its hooks, with the calls of its branches, the innermost first."""

    calls: Sequence[Call] = ()


def _running(host: nn.Module, method: str) -> list[Branch]:
    """The branches that are on, in the order in which they were added."""
    children = vars(host)["_modules"].values()
    return [child for child in children if isinstance(child, Branch) and child.method == method and child.on]


def _enter(running: Sequence[Branch], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Call]:
    """Run the `before` of each branch, the last one's first. The host gets what the first of the result says."""
    calls: list[Call] = []
    for branch in reversed(running):
        args, kwargs = branch.before(args, kwargs)
        calls.append((branch, args, kwargs))
    return calls[::-1]


def _leave(calls: Sequence[Call], output: Any) -> Any:
    for branch, args, kwargs in calls:
        output = branch.after(args, kwargs, output)
    return output


def _before_forward(host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    calls = _enter(_running(host, "forward"), args, kwargs)
    if not calls:
        return None
    _, args, kwargs = calls[0]
    if len(calls) > 1:
        kwargs = Handed(kwargs)
        kwargs.calls = calls
    return args, kwargs


def _after_forward(host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    if isinstance(kwargs, Handed):
        return _leave(kwargs.calls, output)
    return _leave([(branch, args, kwargs) for branch in _running(host, "forward")], output)


def _wrap(host: nn.Module, method: str) -> None:
    """Let `host.method(...)` call its branches. Torch has hooks for `forward` alone, so the host gets its own class.

    A function stored on the host would not do: a deep copy would go on calling the old host.
    """
    plain = type(host)
    original = getattr(plain, method)

    @functools.wraps(original)  # callers look at how many arguments it takes
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        calls = _enter(_running(self, method), args, kwargs)
        if calls:
            _, args, kwargs = calls[0]
        return _leave(calls, original(self, *args, **kwargs))

    host.__class__ = type(plain.__name__, (plain,), {method: run})
