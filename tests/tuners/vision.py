"""Tiny models that see: a vision transformer, a convolutional network and a diffusion U-Net, made on the spot."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import ViTConfig, ViTForImageClassification

IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).sin().reshape(2, 3, 16, 16)


def tiny_vit() -> ViTForImageClassification:
    """Two layers of 32 channels on images of 16 x 16; 17 tokens, the first of them is the class token."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, num_labels=4, **shape))


class Unet(nn.Module):
    """diffusers' `UNet2DConditionModel`, with logits and a loss as other hosts have."""

    supports_gradient_checkpointing = True

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        torch.manual_seed(0)
        self.unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            mid_block_type="UNetMidBlock2D",
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            cross_attention_dim=8,
            attention_head_dim=4,
            norm_num_groups=4,
        )

    def forward(self, sample: Any, timestep: Any, encoder_hidden_states: Any, labels: Any = None) -> dict[str, Any]:
        logits = self.unet(sample, timestep, encoder_hidden_states).sample
        return {"logits": logits} | ({} if labels is None else {"loss": (logits - labels).square().mean()})

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any]) -> None:
        function = partial(checkpoint, **gradient_checkpointing_kwargs)
        self.unet.enable_gradient_checkpointing(gradient_checkpointing_func=function)

    def enable_input_require_grads(self) -> None:
        self.unet.conv_in.register_forward_hook(lambda module, args, output: output.requires_grad_(True))


class ConvNet(nn.Module):
    """Three convolutions, the second and third in a residual block, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 4)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.stem(images)
        return maps + self.block(maps)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.head(self.features(images).mean((2, 3)))}


NOISE = {
    "sample": torch.linspace(-1, 1, 2 * 4 * 8 * 8).cos().reshape(2, 4, 8, 8),
    "timestep": torch.tensor([3, 500]),
    "encoder_hidden_states": torch.linspace(-1, 1, 2 * 3 * 8).reshape(2, 3, 8),
    "labels": torch.zeros(2, 4, 8, 8),
}
