"""Options of vLLM, which answers where `--infer_backend vllm` is said and it is installed."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option


@dataclass(kw_only=True)
class VllmOptions:
    """How vLLM is set up; the names are its own, without dashes."""

    gpu_memory_utilization: float = option(
        0.9, group="vLLM", minimum=0.01, maximum=1, help="Share of each GPU's memory that vLLM takes."
    )
    tensor_parallel_size: int = option(
        1, group="vLLM", minimum=1, unit="GPUs", help="How many GPUs hold the model together."
    )
    max_model_len: int | None = option(
        None, group="vLLM", minimum=1, unit="tokens", help="Longest prompt and answer.", none="the model's own limit"
    )
    max_num_seqs: int = option(256, group="vLLM", minimum=1, unit="rows", help="Most rows answered at once.")
    enforce_eager: bool = option(False, group="vLLM", help="Start sooner and answer slower: capture no CUDA graphs.")
    disable_custom_all_reduce: bool = option(
        True, group="vLLM", help="Let NCCL add up what several GPUs computed, instead of vLLM's own kernel."
    )
    max_logprobs: int = option(
        20, group="vLLM", minimum=0, help="Most tokens for which a caller can ask probabilities."
    )
    vllm_enable_lora: bool = option(
        False, group="vLLM", help="Answer with LoRA beside the model, instead of with a merged one."
    )
    vllm_max_lora_rank: int = option(16, group="vLLM", minimum=1, help="Highest rank of a LoRA.")
