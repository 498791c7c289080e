"""Old and foreign spellings of options and names, and what each is called here.

An alias counts only for a command that has the option it stands for. Whoever uses one is told the name in one line.
"""

from __future__ import annotations

import re

ALIASES = {
    # transformers
    "model_name_or_path": "model_id_or_path",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "eval_strategy": "evaluation_strategy",
    "torch_dtype": "dtype",
    "data_seed": "dataset_seed",
    "deterministic": "full_determinism",
    "max_seq_length": "max_length",
    "revision": "model_revision",
    "hub_strategy": "push_hub_strategy",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    # peft
    "lora_r": "lora_rank",
    "lora_dropout": "lora_dropout_p",
    "lora_bias": "lora_bias_trainable",
    "target_modules": "lora_target_modules",
    "target_regex": "lora_target_modules",
    "lora_target_regex": "lora_target_modules",
    "modules_to_save": "lora_modules_to_save",
    # earlier and later releases
    "model": "model_id_or_path",
    "model_cache_dir": "model_id_or_path",
    "train_type": "sft_type",
    "tuner_type": "sft_type",
    "template": "template_type",
    "split_dataset_ratio": "dataset_test_ratio",
    "custom_train_dataset_path": "dataset",
    "custom_val_dataset_path": "val_dataset",
    "freeze_parameters_ratio": "freeze_parameters",
    "only_save_model": "save_only_model",
    "safe_serialization": "save_safetensors",
    "neftune_alpha": "neftune_noise_alpha",
    "deepspeed_config_path": "deepspeed",
    "merge_lora_and_save": "merge_lora",
    "adapters": "ckpt_dir",
    "vllm_lora_modules": "lora_modules",
    "auth": "auth_file",
    "server_name": "host",
    "server_port": "port",
    "custom_plugin_path": "custom_register_path",
    "external_plugins": "custom_register_path",
    "plugin": "custom_register_path",
    "loss_scale_config_path": "loss_scale",
    "agent_template": "tools_prompt",
    # others' words for the same
    "ref_model": "ref_model_id_or_path",
    "pref_loss": "loss_type",
    "pref_beta": "beta",
    "pref_ftx": "rpo_alpha",
    "kto_chosen_weight": "desirable_weight",
    "kto_rejected_weight": "undesirable_weight",
    "train_on_inputs": "train_on_prompt",
    "max_completion_length": "max_new_tokens",
    "num_return_sequences": "num_generations",
    "epsilon_low": "epsilon",
    "reward_functions": "reward_funcs",
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "cutoff_len": "max_length",
    "finetuning_type": "sft_type",
}

# Old sample counts: `--train_dataset_sample 500` is `--dataset name#500`.
SAMPLES = {"train_dataset_sample": "dataset", "val_dataset_sample": "val_dataset"}

# What becomes of broken rows: once a strategy, now how many may be dropped, each of them named.
VALUES = {"check_dataset_strategy": ("max_bad_rows", {"none": 0, "error": 0, "warning": -1, "discard": -1})}

LONG_ROWS = (
    "PyTorch's context parallel has no attention with gradients on a CPU, so it cannot be compared with one process",
    "--tensor_parallel_size 2, --gradient_checkpointing true; see docs/scaling.md",
)
PIPELINE = (
    "a step's batches would wait for each other, and FSDP2 and ZeRO-3 hold models of any size without that",
    "--fsdp full_shard, or --device_map auto in one process",
)
WRITTEN_HERE = (
    "answers to learn are written with the weights of the moment, and vLLM would have to be given them at every step",
    "nothing in its place: the engine of `swift infer` writes them; see docs/rlhf/grpo.md",
)
ABSENT = {
    **dict.fromkeys(("use_vllm", "vllm_mode", "async_generate"), WRITTEN_HERE),
    **dict.fromkeys(("sequence_parallel_size", "context_parallel_size", "context_parallel_degree"), LONG_ROWS),
    **dict.fromkeys(("sequence_parallel", "sp_size", "cp_size", "ulysses_size"), LONG_ROWS),
    **dict.fromkeys(("pipeline_parallel_size", "pipeline_model_parallel_size", "pp_size"), PIPELINE),
}
"""Options of others that there are none for here -> why, and what to say in their place."""

NAMES = {
    "template_type": {"chatglm2-generation": "chatglm-generation"},
    "model_type": {
        "openbmb-minicpm-2b-chat": "minicpm-2b-chat",
        "openbmb-minicpm-2b-sft-chat": "minicpm-2b-sft-chat",
        "cogvlm-17b-instruct": "cogvlm-17b-chat",
        "minicpm-v-v2": "minicpm-v-v2-chat",
    },
    "dataset": {
        "ms-bench-mini": "ms-bench#20000",
        "multi-alpaca-all": "multi-alpaca",
        "instinwild-en": "instinwild:subset",
        "instinwild-zh": "instinwild:default",
        "firefly-all-zh": "firefly-zh",
        "sharegpt-en": "sharegpt:common-en/computer-en",
        "sharegpt-zh": "sharegpt:common-zh/computer-zh/unknow-zh",
        "open-orca-gpt4": "open-orca:default",
        "sharegpt-gpt4-mini": "sharegpt-gpt4:default",
        "deepctrl-sft-zh": "deepctrl-sft:default",
        "deepctrl-sft-en": "deepctrl-sft:en",
        "ms-agent-for-agentfabric-default": "ms-agent-for-agentfabric:default",
        "ms-agent-for-agentfabric-addition": "ms-agent-for-agentfabric:addition",
        "medical-mini-zh": "medical-zh#50000",
        "coco-mini-en": "coco-en-mini",
        "damo-agent-zh-mini": "damo-agent-zh#40000",
    },
}
NAMES["val_dataset"] = NAMES["dataset"]

# Data sets whose subsets were names of their own: `hh-rlhf-cn-helpful-base` is `hh-rlhf-cn:helpful_base`.
SUBSETS = ("hh-rlhf-cn", "hh-rlhf", "coig-cqia", "ruozhiba", "toolbench-for-alpha-umi")


def current_name(option: str, said: str) -> str:
    """What a value of `--model_type`, `--template_type`, `--dataset` or `--val_dataset` is called today."""
    name, sharp, count = said.partition("#")
    renamed = NAMES.get(option, {}).get(name, name)
    may_be_subset = option in ("dataset", "val_dataset") and re.fullmatch(r"[\w-]+", name)  # no path, no hub id
    if may_be_subset and name not in SUBSETS:
        for prefix in SUBSETS:
            if name.startswith(f"{prefix}-"):
                renamed = f"{prefix}:{name.removeprefix(f'{prefix}-').replace('-', '_')}"
                break
    return renamed if "#" in renamed and not count else renamed.partition("#")[0] + sharp + count
