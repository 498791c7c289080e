"""Full fine-tuning of a part of the model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from swift.errors import UsageError


def freeze_parameters(model: nn.Module, share: float, thawed: Sequence[str] = ()) -> None:
    """Freeze the first `share` (0 to 1) of the model's parameters by count, then thaw those with a prefix in `thawed`.

    Parameters are counted in the order of `model.parameters()`: embeddings first, then layer by layer. A parameter is
    frozen when it lies within the share as a whole.

    Raises:
        UsageError: a prefix that no parameter has, or nothing left to train.
    """
    total = sum(p.numel() for p in model.parameters())
    seen = 0
    for parameter in model.parameters():
        seen += parameter.numel()
        parameter.requires_grad_(seen > share * total)
    for prefix in thawed:
        matched = [p for name, p in model.named_parameters() if name.startswith(prefix)]
        if not matched:
            raise UsageError(
                "USAGE-02",
                f"--additional_trainable_parameters {prefix}: no parameter starts so",
                fix="the beginning of a parameter's name, such as model.layers.31",
            )
        for parameter in matched:
            parameter.requires_grad_(True)
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError(
            "USAGE-02",
            f"--freeze_parameters {share} leaves nothing to train",
            fix="a smaller share, or --additional_trainable_parameters for what is to train",
        )
