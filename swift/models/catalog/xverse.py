"""XVERSE, which come with code of their own. See https://github.com/xverse-ai."""

from __future__ import annotations

from swift.models import MODELS, family

xverse = family("xverse", "xverse", "xverse", targets=("q_proj", "k_proj", "v_proj"), arch="XverseForCausalLM")

MODELS.add(
    xverse("xverse-7b", "default-generation", "XVERSE-7B"),
    xverse("xverse-7b-chat", "xverse", "XVERSE-7B-Chat"),
    xverse("xverse-13b", "default-generation", "XVERSE-13B"),
    xverse("xverse-13b-256k", "default-generation", "XVERSE-13B-256K", revision="v1.0.0"),
    xverse("xverse-13b-chat", "xverse", "XVERSE-13B-Chat"),
    xverse("xverse-65b", "default-generation", "XVERSE-65B"),
    xverse("xverse-65b-v2", "default-generation", "XVERSE-65B-2"),
    xverse("xverse-65b-chat", "xverse", "XVERSE-65B-Chat"),
    xverse("xverse-moe-a4_2b", "default-generation", "XVERSE-MoE-A4.2B"),
)
