"""Phi-1.5, Phi-2, Phi-3, Phi-3.5 and Phi-4. See https://arxiv.org/abs/2404.14219, https://arxiv.org/abs/2412.08905."""

from __future__ import annotations

from swift.models import MODELS, family

phi2 = family("phi", "LLM-Research", "microsoft", targets=("q_proj", "k_proj", "v_proj"), arch="PhiForCausalLM")
phi3 = family("phi", "LLM-Research", "microsoft", targets=("qkv_proj",), arch="Phi3ForCausalLM")
small = family("phi", "LLM-Research", "microsoft", targets=("query_key_value",), arch="Phi3SmallForCausalLM")
moe = family("phi", "LLM-Research", "microsoft", targets=("q_proj", "k_proj", "v_proj"), arch="PhiMoEForCausalLM")

MODELS.add(
    phi2("phi2-3b", "default-generation", "AI-ModelScope/phi-2"),
    phi3("phi3-4b-128k-instruct", "phi3", "Phi-3-mini-128k-instruct"),
    phi3("phi3-4b-4k-instruct", "phi3", "Phi-3-mini-4k-instruct"),
    phi3("phi3-medium-128k-instruct", "phi3", "Phi-3-medium-128k-instruct"),
    phi3("phi3-medium-4k-instruct", "phi3", "Phi-3-medium-4k-instruct"),
    phi3("phi3_5-mini-instruct", "phi3", "Phi-3.5-mini-instruct"),
    small("phi3-small-128k-instruct", "phi3", "Phi-3-small-128k-instruct"),
    small("phi3-small-8k-instruct", "phi3", "Phi-3-small-8k-instruct"),
    moe("phi3_5-moe-instruct", "phi3", "Phi-3.5-MoE-instruct"),
    phi2("phi1_5-1b", "default-generation", "AI-ModelScope/phi-1_5"),
    phi3("phi4", "phi4", "phi-4"),
    phi3("phi4-mini-instruct", "phi4-mini", "Phi-4-mini-instruct"),
    phi3("phi4-mini-reasoning", "auto", "Phi-4-mini-reasoning"),
    phi3("phi4-reasoning", "auto", "Phi-4-reasoning"),
    phi3("phi4-reasoning-plus", "auto", "Phi-4-reasoning-plus"),
)
