"""Move the tensors of an adapter that does not run out of the way, and bring them back bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from swift.errors import UsageError

WHERE = ("cpu", "meta")


class Spill:
    """A temporary directory with one file of tensors. It goes with its last owner; copies of a model share it."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="swift-offload-")
        self.file = Path(self.directory.name) / "tensors.safetensors"
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, self.file)

    def __deepcopy__(self, memo: dict[int, Any]) -> Spill:
        return self

    def read(self) -> dict[str, Tensor]:
        """The tensors, on the CPU."""
        return load_file(self.file)


class Offloaded:
    """The tensors `keys` of `model`, away: in main memory ("cpu") or on disk with meta tensors in their place ("meta").

    The parameters stay the same objects, so an optimizer that knows them is not disturbed.

    Raises:
        UsageError: `where` is neither.
    """

    def __init__(self, model: nn.Module, keys: Iterable[str], where: str) -> None:
        check_place(where)
        self.away = {key: _tensor(model, key) for key in keys}
        self.devices = {key: tensor.device for key, tensor in self.away.items()}
        self.spill = Spill(self.away) if where == "meta" else None
        for key, tensor in self.away.items():
            if self.spill is None:
                tensor.data = tensor.data.cpu()
            else:
                _put(model, key, _like_meta(tensor))
                tensor.data = torch.empty(0, dtype=tensor.dtype)

    def values(self) -> dict[str, Tensor]:
        """The tensors as they were, wherever they are now."""
        return self.spill.read() if self.spill is not None else {key: tensor.data for key, tensor in self.away.items()}

    def restore(self, model: nn.Module) -> None:
        """Put every tensor back where it was."""
        values = self.values()
        for key, tensor in self.away.items():
            tensor.data = values[key].to(self.devices[key])
            _put(model, key, tensor)


def check_place(where: str | None) -> None:
    """Raise UsageError if `where` is no place for what does not run."""
    if where is not None and where not in WHERE:
        raise UsageError("USAGE-02", f"offload is None, 'cpu' or 'meta', not {where!r}", fix="offload='cpu'")


def _tensor(model: nn.Module, key: str) -> Tensor:
    path, _, leaf = key.rpartition(".")
    return getattr(model.get_submodule(path), leaf)


def _put(model: nn.Module, key: str, tensor: Tensor) -> None:
    path, _, leaf = key.rpartition(".")
    setattr(model.get_submodule(path), leaf, tensor)


def _like_meta(tensor: Tensor) -> Tensor:
    meta = torch.empty_like(tensor, device="meta")
    return nn.Parameter(meta, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else meta
