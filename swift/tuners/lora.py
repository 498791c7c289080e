"""LoRA: PEFT's own config with the few fields that PEFT lacks. What it writes is plain PEFT."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from swift.registry import unknown

EXTRAS = ("lora_dtype", "lorap_lr_ratio", "lorap_emb_lr")
EXTRAS_FILE = "additional_config.json"
DTYPES = {
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp32": torch.float32,
    "float32": torch.float32,
}


@dataclass
class LoraConfig(peft.LoraConfig):
    """W x + (alpha / r) B A x, as PEFT does it; B is zero at the start.

    Paper: LoRA, https://arxiv.org/abs/2106.09685, section 4.1; LoRA+, https://arxiv.org/abs/2402.12354, section 4.
    Shapes: A (r, in), B (out, r).

    Args:
        lora_dtype: precision of A and B: "fp16", "bf16" or "fp32"; None is PEFT's rule: that of the layer, but float32
            where the layer's is half.
        lorap_lr_ratio: learning rate of B over that of A in `create_optimizer_param_groups`; None is plain LoRA.
        lorap_emb_lr: learning rate of the LoRA parts of embeddings, while there is a ratio.
    """

    lora_dtype: str | None = None
    lorap_lr_ratio: float | None = 16.0
    lorap_emb_lr: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_dtype is not None and self.lora_dtype not in DTYPES:
            raise unknown("precision", self.lora_dtype, DTYPES)

    @property
    def extras(self) -> dict[str, Any]:
        """The fields that PEFT does not know."""
        return {name: getattr(self, name) for name in EXTRAS}

    def to_dict(self) -> dict[str, Any]:
        """The fields that PEFT knows, so that whatever PEFT writes stays plain PEFT."""
        return {key: value for key, value in super().to_dict().items() if key not in EXTRAS}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write PEFT's adapter_config.json, and the other fields beside it."""
        super().save_pretrained(save_directory, **kwargs)
        text = json.dumps(self.extras, indent=2, sort_keys=True)
        (Path(save_directory) / EXTRAS_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def of(cls, plain: peft.LoraConfig, **extras: Any) -> LoraConfig:
        """PEFT's config `plain` with our fields; without `extras` it is plain LoRA."""
        values = {field.name: getattr(plain, field.name) for field in fields(plain) if field.init}
        return cls(**values, **{"lorap_lr_ratio": None, **extras})


def kind_of(config: peft.PeftConfig) -> peft.PeftType:
    """Which of PEFT's methods the config is of."""
    return peft.PeftType(config.peft_type)


def cast(model: nn.Module, config: peft.PeftConfig, keys: list[str]) -> None:
    """Give the adapter's parameters `keys` of `model` the precision that `config.lora_dtype` asks for, if it does."""
    if isinstance(config, LoraConfig) and config.lora_dtype is not None:
        own = set(keys)
        for key, parameter in model.named_parameters():
            if key in own:
                parameter.data = parameter.data.to(DTYPES[config.lora_dtype])
