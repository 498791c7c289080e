"""DeepSpeed: its configuration, what it compiles at its first run, and weights that ZeRO-3 cut apart."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments
from transformers.integrations.deepspeed import (
    HfTrainerDeepSpeedConfig,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)

from swift import dist
from swift.arguments.engines import BUNDLED, bundled_name
from swift.errors import ConfigError, MissingPackageError, NotFoundError, SwiftError
from swift.log import get_logger
from swift.trainers import saving

logger = get_logger()
CONFIGS = Path(__file__).with_name("deepspeed")
COLLECTIVES, ADAM = "deepspeed_shm_comm", "cpu_adam"  # extensions, by DeepSpeed's names
BUILD_SECONDS = 30  # each of them


def read_config(said: str | Mapping[str, Any]) -> dict[str, Any]:
    """The DeepSpeed configuration that `--deepspeed` names: one of ours, a JSON file, or the JSON itself.

    Raises:
        MissingPackageError: DeepSpeed is not installed.
        NotFoundError: there is neither such a name nor such a file.
        ConfigError: it is not a JSON object, or asks for something that exact sums do not allow.
    """
    if importlib.util.find_spec("deepspeed") is None:
        what = "--deepspeed needs the package deepspeed"
        raise MissingPackageError("PACKAGE-01", what, fix="pip install 'swift-finetune[deepspeed]'")
    config = dict(said) if isinstance(said, Mapping) else _read_text(said)
    part = config.get("zero_optimization")
    if not isinstance(part, Mapping) or part.get("stage") not in (1, 2, 3):
        fix = '"zero_optimization": {"stage": 2}, or --deepspeed default-zero2'
        raise ConfigError("CONFIG-02", "--deepspeed: its configuration has no ZeRO stage 1, 2 or 3", fix=fix)
    return config


def check_agrees(config: HfTrainerDeepSpeedConfig) -> None:
    """Make sure that a configuration and the options, from which its `auto` values are filled in, say the same.

    Raises:
        ConfigError: both say something, and not the same.
    """
    differing = [found.removeprefix("- ds ").replace(" vs hf ", " there, ") + " here" for found in config.mismatches]
    if differing:
        what = f"--deepspeed: its configuration and the options differ: {'; '.join(differing)}"
        raise ConfigError("CONFIG-02", what, fix='write "auto" there, and the options decide')


@contextmanager
def told_as_said() -> Iterator[None]:
    """Tell what DeepSpeed does not take of its configuration as a mistake in that.

    Raises:
        ConfigError: it refused something.
    """
    try:
        yield
    except SwiftError:
        raise
    except ValueError as error:  # pydantic's are such
        raise ConfigError("CONFIG-01", f"--deepspeed: {' '.join(str(error).split())}") from error


def _read_text(said: str) -> dict[str, Any]:
    name = bundled_name(said)
    path = CONFIGS / f"{name}.json" if name else Path(said).expanduser()
    if said.lstrip().startswith("{"):
        text = said
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        known = ", ".join(BUNDLED)
        raise NotFoundError("FOUND-01", f"--deepspeed {said}: no such file", fix=f"one of {known}, or a JSON file")
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigError("CONFIG-01", f"--deepspeed {said}: {error}", fix="write it as JSON") from None
    if not isinstance(config, dict):
        raise ConfigError("CONFIG-01", f"--deepspeed {said} is not a JSON object", fix='{"zero_optimization": …}')
    return config


def stage_of(config: Mapping[str, Any]) -> int:
    """The ZeRO stage, 0 for none."""
    return int(config.get("zero_optimization", {}).get("stage", 0))


def offloads(config: Mapping[str, Any]) -> bool:
    """Whether the optimiser computes in main memory."""
    place = config.get("zero_optimization", {}).get("offload_optimizer") or {}
    return place.get("device", "none") != "none"


def prepare_build(config: Mapping[str, Any]) -> None:
    """Say what DeepSpeed will compile and how long that takes; find the tools for it.

    Raises:
        ConfigError: there is no C++ compiler or no ninja.
    """
    for name in ("reduce_scatter_tensor", "all_gather_into_tensor"):  # DeepSpeed calls them by their old names
        warnings.filterwarnings("ignore", message=f".*{name}. is deprecated", category=FutureWarning)
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    wanted = [] if torch.cuda.is_available() else [COLLECTIVES]
    wanted += [ADAM] if offloads(config) else []
    missing = [name for name in wanted if not _is_built(name)]
    if not missing:
        return
    own = Path(sys.executable).parent
    if shutil.which("ninja") is None and (own / "ninja").is_file():
        os.environ["PATH"] = f"{own}{os.pathsep}{os.environ.get('PATH', '')}"
    lacking = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if lacking:
        what = f"DeepSpeed compiles {' and '.join(missing)} at its first run and finds no {' and no '.join(lacking)}"
        raise ConfigError("CONFIG-03", what, fix="apt-get install g++, pip install ninja")
    if dist.is_main():
        seconds = BUILD_SECONDS * len(missing)
        logger.info(f"deepspeed: compiles {' and '.join(missing)}, once on this machine, which takes about {seconds} s")


def _is_built(name: str) -> bool:
    said, cache = os.environ.get("TORCH_EXTENSIONS_DIR"), os.environ.get("XDG_CACHE_HOME")
    root = Path(said) if said else Path(cache or Path.home() / ".cache") / "torch_extensions"
    return any(root.glob(f"*/{name}/{name}.so")) or any(root.glob(f"{name}/{name}.so"))


@contextmanager
def loaded_whole(args: TrainingArguments) -> Iterator[None]:
    """Let every process load the whole model inside the block: tuners are put on whole weights, which are cut later."""
    config = args.hf_deepspeed_config if args.deepspeed else None
    if config is not None:
        unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            set_hf_deepspeed_config(config)


def gather(model: nn.Module, keep: bool, *, everything: bool) -> dict[str, Tensor]:
    """Tensors that ZeRO-3 cut apart, whole: all, or those that train; processes that `keep` nothing get {}."""
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters  # pyright: ignore[reportMissingImports]

    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if everything or parameter.requires_grad:
            with GatheredParameters([parameter]):
                if keep:
                    found[name] = parameter.detach().cpu().clone()
    return {**found, **dict(saving.kept_buffers(model))} if keep else {}


def shares(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What this process holds of every trained parameter."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, vars(parameter).get("ds_tensor", parameter)
