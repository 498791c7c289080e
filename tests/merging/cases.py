"""Adapters of every method on several kinds of models, saved by PEFT, and what PEFT's own merge makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    BOFTConfig,
    FourierFTConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from torch import Tensor
from transformers import AutoModelForCausalLM

from swift.merging import adapters, plan, stream
from swift.merging.combine import Combination
from swift.merging.plan import Plan
from swift.merging.tensors import read
from swift.merging.weights import Base
from swift.tuners.layout import read_json
from tests.tiny import save_tiny

TWO = ["q_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
PATTERNS: dict[str, Any] = {
    "rank_pattern": {"layers.0.self_attn.q_proj": 8},
    "alpha_pattern": {"down_proj": 32, "q_proj": 3},
}


def lora(**fields: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": TWO, **fields})


# name: the kind of model, and the config
CASES: dict[str, tuple[str, Callable[[], PeftConfig]]] = {
    "lora": ("qwen2", lora),
    "lora with patterns": ("llama", lambda: lora(use_rslora=True, **PATTERNS)),
    "dora": ("qwen2", lambda: lora(use_dora=True)),
    "biases of B": ("qwen2", lambda: lora(target_modules=["q_proj"], lora_bias=True)),
    "all biases": ("qwen2", lambda: lora(target_modules=["q_proj"], bias="all")),
    "biases of targets": ("qwen2", lambda: lora(target_modules=["q_proj"], bias="lora_only")),
    "embedding and head": ("qwen2", lambda: lora(target_modules=["q_proj", "embed_tokens", "lm_head"])),
    "dora on an embedding": ("qwen2", lambda: lora(target_modules=["embed_tokens"], use_dora=True)),
    "whole modules": ("qwen2", lambda: lora(modules_to_save=["lm_head", "embed_tokens", "norm"])),
    "rows of tokens": ("qwen2", lambda: lora(trainable_token_indices={"embed_tokens": [3, 7], "lm_head": [3]})),
    "rows of tokens alone": (
        "qwen2",
        lambda: TrainableTokensConfig(token_indices=[3, 7], target_modules=["embed_tokens"]),
    ),
    "conv1d": ("gpt2", lambda: lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    "dora on conv1d": ("gpt2", lambda: lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, use_dora=True)),
    "ia3 on conv1d": (
        "gpt2",
        lambda: IA3Config(
            target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True
        ),
    ),
    "conv1d and a head": ("gpt2", lambda: lora(target_modules=["c_attn", "c_proj", "lm_head"])),
    "vera on conv1d": ("gpt2", lambda: VeraConfig(r=8, target_modules=["c_attn"], fan_in_fan_out=True)),
    "vera on square conv1d": ("gpt2", lambda: VeraConfig(r=8, target_modules=["attn.c_proj"], fan_in_fan_out=True)),
    "adalora": (
        "qwen2",
        lambda: AdaLoraConfig(init_r=6, target_r=4, total_step=10, tinit=0, tfinal=2, target_modules=TWO),
    ),
    "loha": ("qwen2", lambda: LoHaConfig(r=4, alpha=7, target_modules=TWO, **PATTERNS)),
    "lokr": ("qwen2", lambda: LoKrConfig(r=4, alpha=7, target_modules=TWO, **PATTERNS)),
    "lokr of four": (
        "qwen2",
        lambda: LoKrConfig(r=2, alpha=7, target_modules=TWO, decompose_both=True, decompose_factor=4),
    ),
    "ia3": ("qwen2", lambda: IA3Config(target_modules=TWO, feedforward_modules=["down_proj"])),
    "vera": ("qwen2", lambda: VeraConfig(r=8, target_modules=TWO)),
    "fourierft": ("qwen2", lambda: FourierFTConfig(n_frequency=50, target_modules=TWO)),
    "oft": ("qwen2", lambda: OFTConfig(oft_block_size=8, target_modules=TWO)),
    "oft of three terms": (
        "qwen2",
        lambda: OFTConfig(oft_block_size=8, target_modules=TWO, num_cayley_neumann_terms=3),
    ),
    "oft of six terms": ("qwen2", lambda: OFTConfig(oft_block_size=8, target_modules=TWO, num_cayley_neumann_terms=6)),
    "oft within bounds": ("qwen2", lambda: OFTConfig(oft_block_size=8, target_modules=TWO, coft=True, eps=0.5)),
    "exact oft of one block": (
        "qwen2",
        lambda: OFTConfig(oft_block_size=8, target_modules=TWO, use_cayley_neumann=False, block_share=True),
    ),
    "boft": ("qwen2", lambda: BOFTConfig(boft_block_size=4, target_modules=TWO)),
    "pissa": ("qwen2", lambda: lora(init_lora_weights="pissa")),
    "olora": ("qwen2", lambda: lora(init_lora_weights="olora")),
    "experts in one, files of each": ("mixtral", lambda: lora(target_modules=["q_proj"], target_parameters=EXPERTS)),
    "one part of the experts": (
        "qwen3_moe",
        lambda: lora(target_modules=["q_proj", "mlp.gate"], target_parameters=EXPERTS[1:]),
    ),
    "experts in one": ("gpt_oss", lambda: lora(target_modules=["q_proj"], target_parameters=EXPERTS)),
}
SHAPES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "head_dim": 16,
        "mlp_only_layers": [],
        "decoder_sparse_step": 1,
    },
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 16,
        "layer_types": ["full_attention"] * 2,
    },
}


def base_of(place: Path, kind: str, **config: Any) -> Path:
    """A tiny model on disk."""
    directory = place / "-".join([kind, *map(str, config.values())])
    return directory if directory.is_dir() else save_tiny(directory, kind, **SHAPES.get(kind, {}), **config)


def adapted(base: Path, config: PeftConfig, seed: int = 1, rows: int | None = None, **options: Any) -> Any:
    """PEFT's model of an adapter that has been trained: every parameter of it is somewhere else."""
    plain = AutoModelForCausalLM.from_pretrained(base, **options)
    if rows is not None:
        plain.resize_token_embeddings(rows, mean_resizing=False)
    model = get_peft_model(plain, config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model.eval()


def planned(base: Path, *several: Path, **options: Any) -> Plan:
    weights = options.pop("weights", [1.0] * len(several))
    found = [adapters.read(one, "default", weight) for one, weight in zip(several, weights, strict=True)]
    return plan.make(Base(base, read_json(base / "config.json")), found, **options)


def merged(
    base: Path, output: Path, *several: Path, how: Combination | None = None, **options: Any
) -> dict[str, Tensor]:
    """The tensors that a merge by rows writes."""
    output.mkdir()
    stream.write(planned(base, *several, **options), output, how or Combination())
    return tensors_of(output)


def tensors_of(directory: Path) -> dict[str, Tensor]:
    """All tensors of a model's directory."""
    found: Mapping[str, Any] = {
        name: one for file in sorted(directory.glob("*.safetensors")) for name, one in read(file).items()
    }
    return {name: one.rows(0, one.shape[0]) for name, one in found.items()}
