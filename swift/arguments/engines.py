"""Options that say how several processes or devices hold one model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from swift.arguments.fields import option
from swift.errors import UsageError

BUNDLED = ("zero1", "zero2", "zero3", "zero2-offload", "zero3-offload")  # each a JSON file beside the trainer
WORDS = {"full_shard": False, "shard_grad_op": False, "offload": True, "auto_wrap": True}  # whether it says more only


@dataclass(kw_only=True)
class DeviceOptions:
    """Where the parts of a model lie."""

    device_map: str | None = option(
        None,
        group="Model",
        help="Where a model's parts lie, in one process: auto, cpu, balanced, sequential, or a JSON file of "
        '{"part": device}.',
        none="on all GPUs that this process has for itself, else on the CPU",
    )


@dataclass(kw_only=True)
class EngineOptions(DeviceOptions):
    """What several processes share."""

    deepspeed: str | None = option(
        None,
        group="Workers",
        help="Train with DeepSpeed: default-zero1, default-zero2, default-zero3, zero2-offload, zero3-offload, or a "
        "JSON file.",
        none="without DeepSpeed",
    )
    fsdp: str | None = option(
        None,
        group="Workers",
        help="Cut the model into as many shards as there are processes (FSDP2): full_shard, or shard_grad_op, which "
        "keeps gathered weights until the backward pass; with the word `offload` the shards lie in main memory.",
        none="every process has the whole model",
    )


@dataclass(frozen=True)
class Sharding:
    """How FSDP2 cuts a model.

    `reshard` frees the gathered weights of a layer after its forward pass, and gathers them again for the backward;
    `offload` keeps the shards in main memory.
    """

    reshard: bool = True
    offload: bool = False


def read_sharding(said: str | None) -> Sharding | None:
    """What the words of `--fsdp` ask for, those of transformers' old `fsdp` among them; None without any.

    Raises:
        UsageError: a word that means nothing, or none that says what is cut.
    """
    words = (said or "").replace(",", " ").split()
    if not words:
        return None
    kinds = [word for word in words if not WORDS.get(word, True)]
    if set(words) - WORDS.keys() or len(kinds) != 1:
        raise UsageError("USAGE-01", f"--fsdp {said!r} is not known", fix='full_shard, or "full_shard offload"')
    return Sharding(reshard=kinds == ["full_shard"], offload="offload" in words)


def bundled_name(said: str) -> str | None:
    """Which of our own files `--deepspeed` names: `default-zero2`, `zero2` and `zero2-offload` do; None for none."""
    name = said.removeprefix("default-")
    return name if name in BUNDLED else None


def cuts_weights(said: str | None) -> bool:
    """Whether `--deepspeed` asks for ZeRO-3: by a name of ours, in a JSON file or in JSON."""
    if not said:
        return False
    if bundled_name(said):
        return "zero3" in said
    try:
        config = json.loads(said if said.lstrip().startswith("{") else Path(said).expanduser().read_text("utf-8"))
    except (OSError, ValueError):
        return "zero3" in said
    zero = config.get("zero_optimization") if isinstance(config, dict) else None
    return isinstance(zero, dict) and str(zero.get("stage")) == "3"
