"""SmolLM2 and SmolLM3. See https://arxiv.org/abs/2502.02737."""

from __future__ import annotations

from swift.models import MODELS, family

QKV = ("q_proj", "k_proj", "v_proj")
second = family("smollm", "HuggingFaceTB", "HuggingFaceTB", targets=QKV, arch="LlamaForCausalLM")
third = family("smollm", "HuggingFaceTB", "HuggingFaceTB", targets=QKV, arch="SmolLM3ForCausalLM")

MODELS.add(
    second("smollm2-135m", "default-generation", "SmolLM2-135M"),
    second("smollm2-135m-instruct", "smollm2", "SmolLM2-135M-Instruct"),
    second("smollm2-360m", "default-generation", "SmolLM2-360M"),
    second("smollm2-360m-instruct", "smollm2", "SmolLM2-360M-Instruct"),
    second("smollm2-1_7b", "default-generation", "SmolLM2-1.7B"),
    second("smollm2-1_7b-instruct", "smollm2", "SmolLM2-1.7B-Instruct"),
    third("smollm3-3b-base", "default-generation", "SmolLM3-3B-Base"),
    third("smollm3-3b", "auto", "SmolLM3-3B"),
)
