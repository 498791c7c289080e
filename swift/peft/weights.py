"""Files of weights in PaddleNLP's layout: their names, whether they fit a model, and those of several ranks as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swift.errors import DataError
from swift.log import get_logger
from swift.peft import pdparams

SHOWN = 5


class DegreeError(DataError, NotImplementedError):
    """Weights that are split over more devices than the model is."""


def check_degree(directory: Path, degree: int, merge: bool) -> None:
    """Raise DegreeError for weights split over several devices that nobody asked to put together."""
    if degree > 1 and not merge:
        what = f"{directory} holds weights split over {degree} devices, the model is on 1"
        raise DegreeError("CKPT-02", what, fix="from_pretrained(..., merge_tensor_parallel=True)")


def weights_name(stem: str, variant: str | None) -> str:
    """The name of a file of weights, such as `lora_model_state.tp00.pdparams`."""
    return ".".join([stem, *([variant] if variant else []), "pdparams"])


def paddle_layout(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the weights of linear layers turned, torch's [out, in] into Paddle's [in, out] or back.

    The files are the same for both, whichever wrote them.
    """
    turned = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {key: tensor.T if key in turned and tensor.ndim == 2 else tensor for key, tensor in tensors.items()}


def read_weights(directory: Path, names: Iterable[str]) -> dict[str, Tensor] | None:
    """The tensors of the first of the named files that there is; without one None, and an error in the log."""
    files = [directory / name for name in names]
    for file in files:
        if file.is_file():
            return pdparams.read(file)
    get_logger().error(f"{files[0]} does not exist: the weights start new")
    return None


def read_shards(directory: Path, stem: str, degree: int, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `degree` tensor-parallel files, each put together along the axis along which it was split.

    The axis is the one along which the pieces add up to the size that the model has; a tensor whose pieces have that
    size already is the same in each file.

    Args:
        directory: holds `<stem>.tp00.pdparams` and so on.
        stem: how the files' names begin.
        degree: how many there are.
        expected: tensors of the whole shapes, in the layout of the files.

    Raises:
        DataError: a file or a piece is missing, or does not fit.
    """
    files = [directory / weights_name(stem, f"tp{rank:02d}") for rank in range(degree)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError("CKPT-01", f"{directory} lacks {', '.join(missing[:SHOWN])} of {degree} tensor-parallel files")
    shards = [pdparams.read(file) for file in files]
    odd = sorted(set.union(*map(set, shards)) - set.intersection(*map(set, shards)))
    if odd:
        raise DataError("CKPT-01", f"{directory}: not in every tensor-parallel file: {', '.join(odd[:SHOWN])}")
    return {key: _join([shard[key] for shard in shards], expected.get(key)) for key in shards[0]}


def fitted(model: nn.Module, found: Mapping[str, Tensor], needed: Iterable[str], what: str) -> dict[str, Tensor]:
    """The `found` tensors under the model's names, after a look that they fit.

    PaddleNLP calls the body of a model by its kind ("llama.layers.0 ..."), transformers mostly "model": a first word
    that the model does not know is replaced by its own.

    Raises:
        DataError: naming up to five keys that are missing, unknown or of another shape.
    """
    expected = model.state_dict()
    root = next(
        (vars(kind)["base_model_prefix"] for kind in type(model).mro() if "base_model_prefix" in vars(kind)), ""
    )
    own = {key if key in expected else f"{root}.{key.partition('.')[2]}": key for key in found}
    faults = {
        "missing": [key for key in needed if key not in own],
        "not in the model": [key for name, key in own.items() if name not in expected],
        "of another shape": [
            f"{name} {tuple(found[key].shape)}, not {tuple(expected[name].shape)}"
            for name, key in own.items()
            if name in expected and found[key].shape != expected[name].shape
        ],
    }
    said = [f"{len(keys)} {fault}: {', '.join(keys[:SHOWN])}" for fault, keys in faults.items() if keys]
    if said:
        fix = "load it onto the model and with the config that it was trained with"
        raise DataError("CKPT-02", f"{what} does not fit the model; {'; '.join(said)}", fix=fix)
    return {name: found[key] for name, key in own.items()}


@torch.no_grad()
def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy the tensors into the model, in the model's dtypes and places."""
    own = model.state_dict()
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def one_device(config: Any, name: str) -> None:
    """Set the config's tensor_parallel_degree to that of the model, which is 1, and say so where it was another."""
    if config.tensor_parallel_degree > 1:
        get_logger().warning(f"tensor_parallel_degree of {name} is set to 1, that of the model")
        config.tensor_parallel_degree = 1


def _join(pieces: list[Tensor], whole: Tensor | None) -> Tensor:
    if whole is None or pieces[0].shape == whole.shape or pieces[0].ndim != whole.ndim:
        return pieces[0]
    for axis in range(whole.ndim):
        if sum(piece.shape[axis] for piece in pieces) == whole.shape[axis]:
            return torch.cat(pieces, axis)
    return pieces[0]
