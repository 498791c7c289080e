"""Command R and Aya. See https://docs.cohere.com/docs/models and https://arxiv.org/abs/2412.04261."""

from __future__ import annotations

from swift.models import MODELS, family

QKV = ("q_proj", "k_proj", "v_proj")
first = family("cohere", "AI-ModelScope", "CohereForAI", targets=QKV, arch="CohereForCausalLM")
labs = family("cohere", None, "CohereLabs", targets=QKV, arch="CohereForCausalLM")
second = family("cohere", None, "CohereLabs", targets=QKV, arch="Cohere2ForCausalLM")

MODELS.add(
    first("c4ai-command-r-v01", "c4ai", "c4ai-command-r-v01"),
    first("c4ai-command-r-plus", "c4ai", "c4ai-command-r-plus"),
    labs("c4ai-command-r-08-2024", "auto", "c4ai-command-r-08-2024"),
    labs("c4ai-command-r-plus-08-2024", "auto", "c4ai-command-r-plus-08-2024"),
    second("c4ai-command-r7b-12-2024", "auto", "c4ai-command-r7b-12-2024"),
    second("c4ai-command-a-03-2025", "auto", "c4ai-command-a-03-2025"),
    first("aya-expanse-8b", "aya", "aya-expanse-8b"),
    first("aya-expanse-32b", "aya", "aya-expanse-32b"),
)
