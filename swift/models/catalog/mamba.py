"""Mamba. See https://arxiv.org/abs/2312.00752.

Its `out_proj` stays as it is: the fused kernels read that weight past any adapter.
"""

from __future__ import annotations

from swift.models import MODELS, family

mamba = family(
    "mamba",
    "AI-ModelScope",
    "state-spaces",
    targets=("in_proj", "x_proj", "embeddings"),
    arch="MambaForCausalLM",
)

MODELS.add(
    mamba("mamba-130m", "default-generation", "mamba-130m-hf"),
    mamba("mamba-370m", "default-generation", "mamba-370m-hf"),
    mamba("mamba-390m", "default-generation", "mamba-390m-hf"),
    mamba("mamba-790m", "default-generation", "mamba-790m-hf"),
    mamba("mamba-1.4b", "default-generation", "mamba-1.4b-hf"),
    mamba("mamba-2.8b", "default-generation", "mamba-2.8b-hf"),
)
