"""Mistral, Mixtral, Codestral and their kin, and what others made of them. See https://arxiv.org/abs/2310.06825 and https://arxiv.org/abs/2401.04088."""

from __future__ import annotations

from swift.models import MODELS, family

mistral = family(
    "mistral", "AI-ModelScope", "mistralai", targets=("q_proj", "k_proj", "v_proj"), arch="MistralForCausalLM"
)
mixtral = family(
    "mistral", "AI-ModelScope", "mistralai", targets=("q_proj", "k_proj", "v_proj"), arch="MixtralForCausalLM"
)
QKV = ("q_proj", "k_proj", "v_proj")
zephyr = family("zephyr", "modelscope", "HuggingFaceH4", targets=QKV, arch="MistralForCausalLM")
wizard = family("wizardlm", "AI-ModelScope", "alpindale", targets=QKV, arch="MixtralForCausalLM")

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
    mistral("mistral-7b-v3", "default-generation", "LLM-Research/Mistral-7B-v0.3"),
    mistral("mathstral-7b", "auto", "Mathstral-7B-v0.1"),
    mistral("mistral-large-instruct-2411", "mistral-v7", "Mistral-Large-Instruct-2411"),
    mistral("mistral-small-24b-base-2501", "default-generation", "mistralai/Mistral-Small-24B-Base-2501"),
    mistral("mistral-small-24b-instruct-2501", "mistral-v7-tekken", "mistralai/Mistral-Small-24B-Instruct-2501"),
    mistral("devstral-small-2505", "auto", "mistralai/Devstral-Small-2505"),
    mixtral("mixtral-moe-8x22b-instruct", "auto", "Mixtral-8x22B-Instruct-v0.1"),
    mixtral(
        "mixtral-moe-7b-aqlm-2bit-1x16",
        "default-generation",
        "Mixtral-8x7b-AQLM-2Bit-1x16-hf",
        "ISTA-DASLab/Mixtral-8x7b-AQLM-2Bit-1x16-hf",
        requires=("aqlm",),
    ),
    zephyr("zephyr-7b-beta-chat", "zephyr", "zephyr-7b-beta"),
    wizard(
        "wizardlm2-7b-awq",
        "wizardlm2-awq",
        "WizardLM-2-7B-AWQ",
        "MaziyarPanahi/WizardLM-2-7B-AWQ",
        arch="MistralForCausalLM",
        dtype="fp16",
    ),
    wizard("wizardlm2-8x22b", "wizardlm2", "WizardLM-2-8x22B"),
)
