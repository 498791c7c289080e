"""Files of weights in PaddleNLP's layout: their names, whether they fit a model, and those of several ranks as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swift.errors import DataError
from swift.log import get_logger
from swift.parallel.cuts import cut_of, whole_shape
from swift.parallel.groups import Group
from swift.parallel.plan import group_of
from swift.peft import pdparams

SHOWN = 5


class DegreeError(DataError, NotImplementedError):
    """Weights that are split over more devices than the model is."""


def check_degree(directory: Path, degree: int, merge: bool, model: nn.Module) -> None:
    """Raise DegreeError for weights split over other devices than the model that nobody asked to put together."""
    own = degree_of(model)
    if degree > 1 and degree != own and not merge:
        what = f"{directory} holds weights split over {degree} devices, the model is on {own}"
        raise DegreeError("CKPT-02", what, fix="from_pretrained(..., merge_tensor_parallel=True)")


def degree_of(model: nn.Module) -> int:
    """Over how many processes a model is split."""
    group = group_of(model)
    return 1 if group is None else group.degree


def shard_name(group: Group) -> str:
    """What tells the file of this process from those of the others."""
    return f"tp{group.rank:02d}"


def wholes(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors put together from those of all processes, each of which has to ask."""
    cuts = {name: cut_of(parameter) for name, parameter in module.named_parameters()}
    return {name: tensor if (cut := cuts.get(name)) is None else cut.whole(tensor) for name, tensor in tensors.items()}


def own_parts(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This process's part of whole tensors; one whose shape is not the module's is left as it is."""
    own = dict(module.named_parameters())
    found = dict(tensors)
    for name, tensor in tensors.items():
        cut = cut_of(own[name]) if name in own else None
        if cut is not None and tensor.shape == cut.whole_shape(own[name]):
            found[name] = cut.part(tensor)
    return found


def weights_name(stem: str, variant: str | None) -> str:
    """The name of a file of weights, such as `lora_model_state.tp00.pdparams`."""
    return ".".join([stem, *([variant] if variant else []), "pdparams"])


def paddle_layout(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the weights of linear layers turned, torch's [out, in] into Paddle's [in, out] or back.

    The files are the same for both, whichever wrote them.
    """
    turned = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {key: tensor.T if key in turned and tensor.ndim == 2 else tensor for key, tensor in tensors.items()}


def own_names(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the model's names.

    PaddleNLP calls the body of a model by its kind ("llama.layers.0 ..."), transformers mostly "model": a first word
    that the model does not know is replaced by its own.
    """
    kinds = [vars(kind) for kind in type(model).mro()]
    root = next((kind["base_model_prefix"] for kind in kinds if "base_model_prefix" in kind), "")
    known = model.state_dict().keys()
    names = {key: f"{root}.{key.partition('.')[2]}" for key in tensors if key not in known}
    return {names[key] if names.get(key) in known else key: tensor for key, tensor in tensors.items()}


def read_weights(model: nn.Module, directory: Path, names: Iterable[str]) -> dict[str, Tensor] | None:
    """The tensors of the first of the named files that there is; without one None, and an error in the log.

    Args:
        model: gives the tensors' names and tells which of them to turn.
        directory: where the files are.
        names: of the files.
    """
    files = [directory / name for name in names]
    for file in files:
        if file.is_file():
            return paddle_layout(model, own_names(model, pdparams.read(file)))
    get_logger().error(f"{files[0]} does not exist: the weights start new")
    return None


def read_shards(model: nn.Module, directory: Path, stem: str, degree: int) -> dict[str, Tensor]:
    """The tensors of `degree` tensor-parallel files, each put together along the axis along which it was split.

    The axis is the one along which the pieces add up to the size that the model has; a tensor whose pieces have that
    size already is the same in each file.

    Args:
        model: gives the tensors' names and whole shapes.
        directory: holds `<stem>.tp00.pdparams` and so on.
        stem: how the files' names begin.
        degree: how many there are.

    Raises:
        DataError: a file or a piece is missing.
    """
    files = [directory / weights_name(stem, f"tp{rank:02d}") for rank in range(degree)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DataError(
            "CKPT-01",
            f"{directory} lacks {', '.join(missing[:SHOWN])} of {degree} tensor-parallel files",
            fix="copy all files of the checkpoint into one directory",
        )
    shards = [paddle_layout(model, own_names(model, pdparams.read(file))) for file in files]
    odd = sorted(set.union(*map(set, shards)) - set.intersection(*map(set, shards)))
    if odd:
        raise DataError(
            "CKPT-01",
            f"{directory}: not in every tensor-parallel file: {', '.join(odd[:SHOWN])}",
            fix="copy all files of one and the same checkpoint",
        )
    whole = {name: tensor.shape for name, tensor in model.state_dict().items()}
    whole |= {name: whole_shape(parameter) for name, parameter in model.named_parameters()}
    return {key: _join([shard[key] for shard in shards], whole.get(key)) for key in shards[0]}


def check_fit(model: nn.Module, found: Mapping[str, Tensor], needed: Iterable[str], what: str) -> None:
    """See that the model has a place for each of the `found` tensors, and that the `needed` ones are among them.

    Raises:
        DataError: naming up to five keys that are missing, unknown or of another shape.
    """
    own = model.state_dict()
    faults = {
        "missing": [key for key in needed if key not in found],
        "not in the model": [key for key in found if key not in own],
        "of another shape": [
            f"{key} {tuple(tensor.shape)}, not {tuple(own[key].shape)}"
            for key, tensor in found.items()
            if key in own and tensor.shape != own[key].shape
        ],
    }
    said = [f"{len(keys)} {fault}: {', '.join(keys[:SHOWN])}" for fault, keys in faults.items() if keys]
    if said:
        fix = "load it onto the model and with the config that it was trained with"
        raise DataError("CKPT-02", f"{what} does not fit the model; {'; '.join(said)}", fix=fix)


@torch.no_grad()
def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy the tensors into the model, in the model's dtypes and places."""
    own = model.state_dict()
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def settle_degree(config: Any, name: str, model: nn.Module) -> None:
    """Set the config's tensor_parallel_degree to that of the model, and say so where it was another."""
    said, own = max(config.tensor_parallel_degree, 1), degree_of(model)
    if said not in (1, own):
        get_logger().warning(f"tensor_parallel_degree of {name} is set to {own}, that of the model")
    if said > 1 or own > 1:
        config.tensor_parallel_degree = own


def _join(pieces: list[Tensor], whole: torch.Size | None) -> Tensor:
    if whole is None or pieces[0].shape == whole or pieces[0].ndim != len(whole):
        return pieces[0]
    for axis in range(len(whole)):
        if sum(piece.shape[axis] for piece in pieces) == whole[axis]:
            return torch.cat(pieces, axis)
    return pieces[0]
