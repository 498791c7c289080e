"""UnSloth, an optional package with kernels of its own for LoRA on CUDA: its model, and its LoRA on that."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from swift import dist
from swift.dist import Hardware
from swift.errors import ConfigError, MissingPackageError, SwiftError, UsageError, brief
from swift.models.source import ModelSource, with_weights

if TYPE_CHECKING:
    import torch

FALL_BACK = "--tuner_backend peft"
LORA_FIELDS = (
    "r",
    "target_modules",
    "lora_alpha",
    "lora_dropout",
    "bias",
    "modules_to_save",
    "use_rslora",
    "init_lora_weights",
)


def check_unsloth(hardware: Hardware, sft_type: str = "lora", *, several: bool = False, dora: bool = False) -> None:
    """Make sure that UnSloth can train here, and what is asked for.

    Args:
        hardware: of this machine.
        sft_type: what trains; UnSloth knows plain LoRA.
        several: whether several tuners are asked for.
        dora: whether DoRA is.

    Raises:
        UsageError: another tuner than LoRA.
        ConfigError: there is no CUDA GPU.
        MissingPackageError: the package is not installed.
    """
    if sft_type != "lora" or several or dora:
        what = "several tuners" if several else "--use_dora" if dora else f"--sft_type {sft_type}"
        raise UsageError("USAGE-02", f"{what} does not work with --tuner_backend unsloth", fix=FALL_BACK)
    without_gpu = hardware.accelerator != "cuda"
    lacking = ["a CUDA GPU"] if without_gpu else []
    lacking += [] if importlib.util.find_spec("unsloth") else ["the package unsloth"]
    if lacking:
        kind: type[SwiftError] = ConfigError if without_gpu else MissingPackageError
        raise kind(
            "CONFIG-03" if without_gpu else "PACKAGE-01",
            f"--tuner_backend unsloth needs {' and '.join(lacking)}",
            fix=("on a machine with one: " if without_gpu else "") + f"pip install unsloth; or {FALL_BACK}",
        )


def load_unsloth(source: ModelSource, torch_dtype: torch.dtype, max_length: int | None) -> Any:
    """The model with UnSloth's kernels.

    Args:
        source: what `find_model` gave.
        torch_dtype: of the weights.
        max_length: the longest sequence it will see, in tokens; None is as UnSloth reads the model's config.

    Raises:
        MissingPackageError: UnSloth cannot be imported here.
        ConfigError: it does not know the model.
    """
    source = with_weights(source)
    try:
        model, _tokenizer = _fast_model().from_pretrained(
            model_name=str(source.path),
            max_seq_length=max_length,
            dtype=torch_dtype,
            load_in_4bit=False,
            device_map={"": dist.local_rank()},
            trust_remote_code=source.trusted,
        )
    except (NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        raise ConfigError("CONFIG-03", f"UnSloth cannot load {source.path}: {brief(error)}", fix=FALL_BACK) from error
    return model


def add_unsloth_lora(
    model: Any, config: Mapping[str, Any], *, seed: int, max_length: int | None, checkpointing: bool
) -> Any:
    """A PeftModel of what `load_unsloth` gave.

    Args:
        model: UnSloth's model.
        config: the fields of a LoRA config; those that UnSloth does not know, such as LoRA+'s, are left out.
        seed: of A.
        max_length: as for `load_unsloth`.
        checkpointing: whether activations are recomputed, in UnSloth's way.
    """
    said = {name: config[name] for name in LORA_FIELDS if config.get(name) is not None}
    targets = said.get("target_modules")
    if isinstance(targets, set | tuple):
        said["target_modules"] = sorted(targets)
    return _fast_model().get_peft_model(
        model,
        **said,
        random_state=seed,
        use_gradient_checkpointing="unsloth" if checkpointing else False,
        **({} if max_length is None else {"max_seq_length": max_length}),
    )


def _fast_model() -> Any:
    try:
        from unsloth import FastLanguageModel  # type: ignore[import-not-found]
    except (ImportError, NotImplementedError, RuntimeError) as error:  # it looks for a GPU while it is imported
        raise MissingPackageError(
            "PACKAGE-01", f"unsloth cannot be imported: {brief(error)}", fix=f"pip install unsloth; or {FALL_BACK}"
        ) from error
    return FastLanguageModel
