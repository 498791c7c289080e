"""MiniCPM and MiniCPM3, text models. See https://arxiv.org/abs/2404.06395."""

from __future__ import annotations

from swift.models import MODELS, family

minicpm = family("minicpm", "OpenBMB", "openbmb", targets=("q_proj", "k_proj", "v_proj"), arch="MiniCPMForCausalLM")
latent = family(
    "minicpm",
    "OpenBMB",
    "openbmb",
    targets=("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),
    arch="MiniCPM3ForCausalLM",
)

MODELS.add(
    minicpm("minicpm-1b-sft-chat", "minicpm", "MiniCPM-1B-sft-bf16"),
    minicpm("minicpm-2b-sft-chat", "minicpm", "MiniCPM-2B-sft-fp32"),
    minicpm("minicpm-2b-chat", "minicpm", "MiniCPM-2B-dpo-fp32"),
    minicpm("minicpm-2b-128k", "chatml", "MiniCPM-2B-128k"),
    minicpm("minicpm-moe-8x2b", "minicpm", "MiniCPM-MoE-8x2B"),
    latent("minicpm3-4b", "chatml", "MiniCPM3-4B"),
)
