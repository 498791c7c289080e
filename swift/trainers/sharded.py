"""A model in shards, one in each process: PyTorch's FSDP2, and checkpoints that every number of processes can read.

A checkpoint's shards are safetensors files with a note of which part of which tensor each holds: nothing in them is
unpickled, and DCP (`torch.distributed.checkpoint`) puts the tensors together for any number of processes, or for none.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from swift import storage
from swift.arguments.engines import Sharding
from swift.checkpoint import MODEL_SHARDS, OPTIMIZER_SHARDS, SHARDS
from swift.errors import DataError, InternalError
from swift.trainers import saving
from swift.tuners.layers import find_layers

NUMBERS = "optimizer.json"
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def shard(model: nn.Module, how: Sharding, device: torch.device, precision: torch.dtype | None = None) -> None:
    """Cut every parameter of `model` into as many shards as there are processes, layer by layer, in place.

    A layer's weights are whole only while it computes; what lies outside the layers is whole during the whole pass.

    Args:
        model: what is called in training, with its tuners.
        how: see `Sharding`.
        device: where this process computes.
        precision: in which gathered weights compute, gradients being summed in float32; None leaves both as they are.

    Raises:
        InternalError: a parameter is not cut afterwards.
    """
    policy: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (torch.distributed.get_world_size(),)),
        "offload_policy": CPUOffloadPolicy() if how.offload and device.type != "cpu" else OffloadPolicy(),
        "mp_policy": MixedPrecisionPolicy(precision, torch.float32) if precision else MixedPrecisionPolicy(),
    }
    for layer in find_layers(saving.base_of(model))[1]:
        _shard_one(layer, reshard_after_forward=how.reshard, **policy)
    _shard_one(model, **policy)
    check_sharded(model)


def _shard_one(module: nn.Module, **options: Any) -> None:
    """Shard what `module` holds; its new class says that it is of the module of its old one."""
    place = type(module).__module__
    fully_shard(module, **options)
    type(module).__module__ = place


def check_sharded(model: nn.Module) -> None:
    """Make sure that no process holds a whole parameter.

    Raises:
        InternalError: one does.
    """
    whole = [name for name, parameter in parameters(model) if not isinstance(parameter, DTensor)]
    if whole:
        shown = ", ".join(whole[:3])
        raise InternalError("RUN-02", f"--fsdp: {len(whole)} parameters were not cut into shards: {shown}")


def parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter as its shard: after a pass without a backward one, an evaluation, some are still whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    yield from model.named_parameters()


def clip(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradients down to a norm of at most `limit`; return the norm of the whole gradient before that."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = get_total_norm(gradients)
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    if limit != float("inf"):
        clip_grads_with_norm_(list(model.parameters()), limit, norm)
    return norm


def gather(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """Every trained tensor whole, and the model's buffers; all processes ask, those that `keep` nothing get {}."""
    found: dict[str, Tensor] = {}
    for name, parameter in parameters(model):
        if parameter.requires_grad:
            whole = parameter.detach()
            whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
            if keep:
                found[name] = whole.cpu()
    return {**found, **dict(saving.kept_buffers(model))} if keep else {}


def shares(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What this process holds of every trained parameter."""
    for name, parameter in parameters(model):
        if parameter.requires_grad:
            yield name, parameter.to_local() if isinstance(parameter, DTensor) else parameter


# Checkpoints


def save_weights(model: nn.Module, directory: Path, *, everything: bool) -> None:
    """Write this process's shards; of all parameters and buffers, or of what is trained alone."""
    _save(_weights(model, everything), directory / SHARDS / MODEL_SHARDS)


def load_weights(model: nn.Module, directory: Path, *, everything: bool) -> None:
    """Read the shards of a checkpoint into those of `model`, however many processes wrote them.

    Raises:
        DataError: the checkpoint has no shards, or others than the model.
    """
    _load(_weights(model, everything), directory / SHARDS / MODEL_SHARDS)


def save_optimizer(model: nn.Module, optimizer: Optimizer, directory: Path) -> None:
    """Write this process's shards of the optimiser's state."""
    check_sharded(model)
    state = get_optimizer_state_dict(model, optimizer, options=FLAT)
    _save(
        {key: value for key, value in state.items() if isinstance(value, Tensor)}, directory / SHARDS / OPTIMIZER_SHARDS
    )
    if torch.distributed.get_rank() == 0:
        numbers = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
        storage.write_json(directory / SHARDS / NUMBERS, numbers)


def load_optimizer(model: nn.Module, optimizer: Optimizer, directory: Path) -> None:
    """Read the optimiser's state, however many processes wrote it.

    Raises:
        DataError: the checkpoint has none, or that of another optimiser.
    """
    check_sharded(model)
    state = get_optimizer_state_dict(model, optimizer, options=FLAT)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    _load(tensors, directory / SHARDS / OPTIMIZER_SHARDS)
    saved = json.loads((directory / SHARDS / NUMBERS).read_text(encoding="utf-8"))
    numbers = {key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()}
    whole: Any = {**tensors, **numbers}
    set_optimizer_state_dict(model, optimizer, whole, options=FLAT)


def put_together(directory: Path) -> dict[str, Tensor]:
    """The whole tensors of a checkpoint's weights, in one process and without a group.

    Raises:
        DataError: the checkpoint has no shards, or cannot be read.
    """
    place = directory / SHARDS / MODEL_SHARDS
    if not place.is_dir():
        raise DataError("CKPT-01", f"{directory} holds no shards", fix="its weights can be used as they are")
    known: dict[str, Any] = dict(HuggingFaceStorageReader(str(place)).read_metadata().state_dict_metadata)
    whole = {name: torch.empty(kind.size, dtype=kind.properties.dtype) for name, kind in known.items()}
    with _quiet():
        load(dict(whole), storage_reader=HuggingFaceStorageReader(str(place)), no_dist=True)
    return whole


def _weights(model: nn.Module, everything: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: parameter for name, parameter in parameters(model) if everything or parameter.requires_grad
    }
    return {**found, **dict(saving.kept_buffers(model))} if everything else found


def _save(tensors: dict[str, Any], place: Path) -> None:
    with _quiet():
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(place), save_distributed=True))


def _load(tensors: dict[str, Any], place: Path) -> None:
    """Fill `tensors` in place."""
    if not place.is_dir():
        raise DataError("CKPT-01", f"{place.parent.parent} has no {SHARDS}/{place.name}", fix="take another checkpoint")
    known: dict[str, Any] = dict(HuggingFaceStorageReader(str(place)).read_metadata().state_dict_metadata)
    odd = sorted(tensors.keys() ^ known.keys())
    odd += [key for key in sorted(tensors.keys() & known.keys()) if tensors[key].shape != known[key].size]
    if odd:
        what = f"{place}: {len(odd)} tensors are not those of this run: {', '.join(odd[:3])}"
        raise DataError("CKPT-02", what, fix="use the model and the options that it was written with")
    with _quiet(), torch.no_grad():
        load(tensors, storage_reader=HuggingFaceStorageReader(str(place)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without DCP's remark that one process is no group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to (load|save) in a single process.*")
        yield
