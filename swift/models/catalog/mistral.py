"""Mistral, Mixtral and Codestral. See https://arxiv.org/abs/2310.06825 and https://arxiv.org/abs/2401.04088."""

from __future__ import annotations

from swift.models import MODELS, family

mistral = family("AI-ModelScope", "mistralai", targets=("q_proj", "k_proj", "v_proj"), arch="MistralForCausalLM")
mixtral = family("AI-ModelScope", "mistralai", targets=("q_proj", "k_proj", "v_proj"), arch="MixtralForCausalLM")

MODELS.add(
    mistral("codestral-22b", "default-generation", "swift/Codestral-22B-v0.1"),
    mistral("ministral-8b-instruct-2410", "mistral-nemo", "Ministral-8B-Instruct-2410"),
    mistral("mistral-7b", "default-generation", "Mistral-7B-v0.1"),
    mistral("mistral-7b-instruct", "llama", "Mistral-7B-Instruct-v0.1"),
    mistral("mistral-7b-instruct-v2", "llama", "Mistral-7B-Instruct-v0.2"),
    mistral("mistral-7b-instruct-v3", "llama", "LLM-Research/Mistral-7B-Instruct-v0.3"),
    mistral("mistral-7b-v2", "default-generation", "Mistral-7B-v0.2-hf", "alpindale/Mistral-7B-v0.2-hf"),
    mistral("mistral-large-instruct-2407", "mistral-nemo", "LLM-Research/Mistral-Large-Instruct-2407"),
    mistral("mistral-nemo-base-2407", "default-generation", "Mistral-Nemo-Base-2407"),
    mistral("mistral-nemo-instruct-2407", "mistral-nemo", "Mistral-Nemo-Instruct-2407"),
    mistral("mistral-small-instruct-2409", "mistral-nemo", "Mistral-Small-Instruct-2409"),
    mixtral("mixtral-moe-8x22b-v1", "default-generation", "Mixtral-8x22B-v0.1", "mistral-community/Mixtral-8x22B-v0.1"),
    mixtral("mixtral-moe-7b", "default-generation", "Mixtral-8x7B-v0.1"),
    mixtral("mixtral-moe-7b-instruct", "llama", "Mixtral-8x7B-Instruct-v0.1"),
)
