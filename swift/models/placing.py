"""Where the parts of one model lie when one process has several devices, or too little memory for it."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swift import dist
from swift.errors import ConfigError, NotFoundError, UsageError
from swift.log import get_logger

logger = get_logger()
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


def device_map_of(said: str | None) -> str | dict[str, Any] | None:
    """What `--device_map` means to accelerate: a strategy, or a device for each part; None for None.

    Raises:
        NotFoundError: it is neither a strategy, a device nor a file.
        ConfigError: the file is not a JSON object of devices, or this process has no such device.
    """
    if said is None or said in STRATEGIES:
        return said
    if Path(said).is_file() or said.lstrip().startswith("{"):
        return _there(said, _read(said))
    try:
        torch.device(said)
    except RuntimeError:
        known = ", ".join((*STRATEGIES, "cpu", "cuda:0"))
        raise NotFoundError(
            "FOUND-01", f"--device_map {said}: no such file", fix=f"one of {known}, or a file"
        ) from None
    return _there(said, {"": said})


def _there(said: str, parts: dict[str, Any]) -> dict[str, Any]:
    """The parts, once each of their devices is known to be there: a number is a GPU's."""
    kind = torch.accelerator.current_accelerator()
    gpus = [f"{kind.type}:{number}" for number in range(torch.accelerator.device_count())] if kind else []
    known = {"cpu", "cpu:0", "disk", *gpus, *map(str, range(len(gpus))), *((kind.type,) if kind and gpus else ())}
    missing = sorted({str(place) for place in parts.values()} - known)
    if missing:
        what = f"--device_map {said}: this process has no {', '.join(missing)}"
        raise ConfigError("CONFIG-02", what, fix=f"what it has: {', '.join(['cpu', *gpus])}, or disk for parts")
    return parts


def _read(said: str) -> dict[str, Any]:
    text = said if said.lstrip().startswith("{") else Path(said).read_text(encoding="utf-8")
    try:
        parts = json.loads(text)
    except ValueError as error:
        raise ConfigError("CONFIG-01", f"--device_map {said}: {error}", fix="write it as JSON") from None
    if not isinstance(parts, dict) or not all(isinstance(place, (str, int)) for place in parts.values()):
        raise ConfigError(
            "CONFIG-01", f"--device_map {said} is no object of devices", fix='{"model": 0, "lm_head": "cpu"}'
        )
    return parts


def loading_options(said: str | None) -> dict[str, Any]:
    """What loading a model so asks of `from_pretrained`; parts on the disk go into a directory that is then removed."""
    places = device_map_of(said)
    if places is None:
        return {}
    options: dict[str, Any] = {"device_map": places}
    if not isinstance(places, dict) or "disk" in places.values():
        folder = tempfile.mkdtemp(prefix="swift-offload-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        options["offload_folder"] = folder
    return options


def own_devices() -> int:
    """How many GPUs this process sees, of which no other one takes any."""
    return torch.cuda.device_count() if dist.local_world_size() == 1 else 1


def check_trains(model: nn.Module) -> None:
    """Make sure that every weight of a model that is to train is in memory.

    Raises:
        UsageError: some are elsewhere until they are needed, and gradients cannot reach them.
    """
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        what = f"--device_map leaves {len(away)} weights out of the devices that compute: {', '.join(away[:3])}"
        raise UsageError("USAGE-02", what, fix="more memory for them, --deepspeed zero3-offload, or a quantised base")
