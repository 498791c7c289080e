"""What the reference says: the model with its tuners turned off, another model, or numbers that were kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from swift import dist, storage
from swift.datasets import cache
from swift.datasets.digest import digest_of_rows
from swift.errors import ConfigError, DiskError, OutputError
from swift.log import get_logger
from swift.preference.rows import PreferenceRows
from swift.trainers import saving
from swift.trainers.sameness import versions
from swift.tuners import fingerprint
from swift.tuners.fingerprint import base_modules

logger = get_logger()
VALUES = "values.npy"
KIND = "reference log-probabilities"
FORMAT = 2  # numbers by example
FOLDED = ("pissa", "olora", "loftq", "corda", "eva", "lora_ga")
"""Starts of LoRA that take something out of the base, which is another one then."""


class Reference:
    """The model that changes are measured against.

    Args:
        model: a model of its own; None is the policy with its tuners turned off.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model = model
        if model is not None:
            model.eval().requires_grad_(False)

    def place(self, device: torch.device) -> None:
        """Put a model of its own where it computes, unless it is there; of one on several devices that is the first."""
        if self.model is not None and next(self.model.parameters()).device != device:
            self.model.to(device)

    def told(self) -> str:
        """Which model it is, whatever that is called."""
        if self.model is None:
            return "the model without its tuners"
        base = {name: value for name, value in fingerprint.take(self.model).to_dict().items() if name != "name"}
        return hashlib.sha256(json.dumps(base, sort_keys=True).encode()).hexdigest()

    @contextmanager
    def of(self, policy: Any) -> Iterator[Any]:
        """The reference for a policy, without dropout and noise, inside the block."""
        if self.model is not None:
            yield self.model
            return
        training = policy.training
        policy.eval()
        try:
            with turned_off(policy):
                yield policy
        finally:
            policy.train(training)


@contextmanager
def turned_off(policy: Any) -> Iterator[None]:
    """Let a policy compute without its tuners inside the block.

    PEFT would also take their gradients off meanwhile, and FSDP, which looks whether a weight trains when it is first
    gathered, would believe it for good.
    """
    layers = [layer for layer in policy.modules() if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    flagged = isinstance(policy, PeftModel) and not policy.active_peft_config.is_prompt_learning and layers
    if not flagged:
        with policy.disable_adapter():
            yield
        return
    before = [layer.disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was


def check_stays(policy: Any, starts: str) -> None:
    """Make sure that the policy with its tuners turned off stays the model that it was.

    Args:
        policy: the model with its tuners.
        starts: how LoRA starts.

    Raises:
        ConfigError: something that trains is still there then, or the tuner has changed the base.
    """
    fix = "--ref_model_id_or_path <the model>, which keeps a second one in memory"
    if any(starts.startswith(name) for name in FOLDED):
        what = f"--init_lora_weights {starts} changes the base: the model without LoRA is not the one it was"
        raise ConfigError("CONFIG-02", what, fix=fix)
    device = next(policy.parameters()).device
    ids_BT = torch.zeros(1, 2, dtype=torch.long, device=device)
    with Reference().of(policy) as base, torch.enable_grad():
        logits = base(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), use_cache=False).logits
    if logits.requires_grad:
        what = "something that trains is not turned off with the tuner: there is no reference to measure against"
        raise ConfigError("CONFIG-02", what, fix=fix)


def weights_digest(model: nn.Module) -> str:
    """The SHA-256 of all that a model saves without its tuners: parameters, buffers, what quantised ones consist of."""
    seen, found = hashlib.sha256(), dict[str, Any]()
    for path, module in base_modules(saving.base_of(model)):
        module._save_to_state_dict(found, path, keep_vars=False)
    for name, tensor in sorted(found.items()):
        for part in _parts(tensor) if isinstance(tensor, Tensor) else ():
            data = part.detach().contiguous().flatten().view(torch.uint8).cpu().numpy()
            seen.update(f"{name} {part.dtype} {tuple(part.shape)}\n".encode())
            seen.update(data.data)
    return seen.hexdigest()


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a tensor consists of."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _parts(vars(tensor)[name])


def config_digest(model: nn.Module) -> str:
    """The SHA-256 of a model's config, wherever the model lies."""
    base: Any = saving.base_of(model)
    told = {name: value for name, value in base.config.to_dict().items() if name != "_name_or_path"}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def key_of(model: nn.Module, rows: PreferenceRows) -> dict[str, Any]:
    """All that decides what the reference says of these rows."""
    partners = None
    if rows.partner is not None:
        rank = np.zeros(len(rows.rows), np.int64)
        rank[rows.used] = np.arange(len(rows.used))
        partners = hashlib.sha256(rank[rows.partner[rows.used]].tobytes()).hexdigest()
    return {
        "format": FORMAT,
        "weights": weights_digest(model),
        "config": config_digest(model),
        "rows": digest_of_rows(rows),
        "partners": partners,
        "limit": rows.limit,
        "versions": versions(),
    }


def place_of(key: dict[str, Any]) -> Path:
    """Where the numbers for a key are kept."""
    return cache.cache_directory().with_name("reference") / cache.digest(key)[:32]


def read(key: dict[str, Any], rows: PreferenceRows) -> np.ndarray | None:
    """The kept numbers for a key, of each different row, None where there are none that are whole."""
    place = place_of(key)
    if not place.is_dir():
        return None
    problems = storage.verify(place)
    if problems or storage.read_manifest(place).get("key") != key:
        logger.warning(f"{place}: {problems[0] if problems else 'made of something else'}; computed anew")
        storage.remove(place)
        return None
    values = np.load(place / VALUES, allow_pickle=False)
    if len(values) != len(rows.order):
        return None
    whole = np.zeros((len(rows.rows), values.shape[1]), values.dtype)
    whole[rows.order] = values
    return whole


def keep(key: dict[str, Any], values: np.ndarray) -> None:
    """Keep the numbers of each example for later runs; where that cannot be, which stops nobody, it is said.

    How rows are stored differs from run to run, their order does not.
    """
    if not np.isfinite(values).all():
        logger.warning("what the reference says is not kept for the next run: some of it is no number")
        return
    place = place_of(key)
    try:
        storage.make_directory(place.parent)
        with storage.staged_directory(place, {"kind": KIND, "key": key}) as stage:
            np.save(stage / VALUES, values, allow_pickle=False)
    except (DiskError, OutputError, OSError) as error:
        logger.warning(f"what the reference says is not kept for the next run: {error}")


def batches(rows: PreferenceRows, size: int) -> Iterator[np.ndarray]:
    """The different rows, those of like length together, `size` at a time, of this process."""
    used = rows.used
    lengths = rows.rows.lengths[used]
    ordered = used[np.argsort(-lengths, kind="stable")]
    parts = np.split(ordered, range(size, len(ordered), size))
    yield from parts[dist.rank() :: dist.world_size()]


def together(values: np.ndarray) -> np.ndarray:
    """The numbers of all processes, each of which has those of its own rows and nothing elsewhere."""
    if dist.world_size() == 1:
        return values
    whole = torch.from_numpy(values)
    if torch.distributed.get_backend() == "nccl":  # needs-cuda
        whole = whole.cuda()
    torch.distributed.all_reduce(whole)
    return whole.cpu().numpy()
