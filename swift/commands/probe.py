"""What only torch can tell of a machine, as one line of JSON: `python -m swift.commands.probe`.

A process of its own, so that a broken installation ends it and not the one that asks.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import torch

COMPANIONS = ("torchvision", "torchaudio")


def probe() -> dict[str, Any]:
    """Devices, the CUDA that torch was built for, and why a library built for torch cannot be imported."""
    return {"cuda": torch.version.cuda, "devices": devices(), "broken": broken()}


def devices() -> list[dict[str, Any]]:
    """Accelerators with their memory in bytes."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return []
    if accelerator.type != "cuda":  # needs-cuda
        return [{"name": f"{accelerator.type}:{k}"} for k in range(torch.accelerator.device_count())]  # needs-cuda
    return [_cuda(k) for k in range(torch.cuda.device_count())]  # needs-cuda


def _cuda(index: int) -> dict[str, Any]:  # needs-cuda
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    with torch.cuda.device(index):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    kind = {"kind": properties.name, "bf16": bf16}
    return {"name": f"cuda:{index}", **kind, "memory_bytes": total, "free_bytes": free}


def broken() -> dict[str, str]:
    """The first line of the error that importing raises, by library; only for those that raise one."""
    found = {}
    for name in COMPANIONS:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                found[name] = str(error)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            found[name] = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe()) + "\n")
