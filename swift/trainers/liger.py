"""Liger's Triton kernels in a model that trains: norms, rotary positions, gated MLPs. The loss stays ours."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from swift.errors import ConfigError, MissingPackageError, brief
from swift.log import get_logger

logger = get_logger()
KERNELS = {
    "rope": True,
    "rms_norm": True,
    "swiglu": True,
    "geglu": True,
    "cross_entropy": False,
    "fused_linear_cross_entropy": False,
}
"""Which of its kernels are used where a model has the part. Its losses would take the place of ours."""


def use_liger(base: nn.Module, kernels: dict[str, bool]) -> None:
    """Put the kernels into `base`, a model without its tuners' wrapping.

    Raises:
        MissingPackageError: liger-kernel is not installed.
        ConfigError: it does not know the model.
    """
    try:
        liger: Any = import_module("liger_kernel.transformers.monkey_patch")
    except ImportError as error:
        what = f"liger-kernel cannot be imported: {brief(error)}"
        raise MissingPackageError("PACKAGE-01", what, fix="pip install 'swift-finetune[liger]'") from None
    kind = base.config.model_type if isinstance(base, PreTrainedModel) else type(base).__name__
    if kind not in liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ConfigError("CONFIG-03", f"Liger has no kernels for {kind} models", fix="--use_liger_kernel false")
    liger._apply_liger_kernel_to_instance(model=base, **kernels)
    names = ", ".join(name for name, on in kernels.items() if on)
    logger.info(f"Liger: {names}, where the model has them; loss and LoRA layers stay as they are")
