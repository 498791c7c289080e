"""OpenBuddy: models of several makers, taught more languages. See https://github.com/OpenBuddy/OpenBuddy."""

from __future__ import annotations

from swift.models import MODELS, family

buddy = family("openbuddy", "OpenBuddy", "OpenBuddy", targets=("q_proj", "k_proj", "v_proj"), arch="LlamaForCausalLM")
MISTRAL, MIXTRAL = {"arch": "MistralForCausalLM"}, {"arch": "MixtralForCausalLM"}

MODELS.add(
    buddy("openbuddy-llama-65b-chat", "openbuddy", "openbuddy-llama-65b-v8-bf16"),
    buddy("openbuddy-llama2-13b-chat", "openbuddy", "openbuddy-llama2-13b-v8.1-fp16"),
    buddy("openbuddy-llama2-70b-chat", "openbuddy", "openbuddy-llama2-70b-v10.1-bf16"),
    buddy("openbuddy-llama3-8b-chat", "openbuddy2", "openbuddy-llama3-8b-v21.1-8k"),
    buddy("openbuddy-llama3-70b-chat", "openbuddy2", "openbuddy-llama3-70b-v21.1-8k"),
    buddy("openbuddy-llama3_1-8b-chat", "openbuddy2", "openbuddy-llama3.1-8b-v22.1-131k"),
    buddy("openbuddy-deepseek-67b-chat", "openbuddy", "openbuddy-deepseek-67b-v15.2"),
    buddy("openbuddy-mistral-7b-chat", "openbuddy", "openbuddy-mistral-7b-v17.1-32k", **MISTRAL),
    buddy("openbuddy-zephyr-7b-chat", "openbuddy", "openbuddy-zephyr-7b-v14.1", **MISTRAL),
    buddy("openbuddy-mixtral-moe-7b-chat", "openbuddy", "openbuddy-mixtral-7bx8-v18.1-32k", **MIXTRAL),
)
