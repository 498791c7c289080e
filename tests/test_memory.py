"""Whether activations are computed twice: what is kept is counted, and the count is near to what torch keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from swift import dist
from swift.arguments.reading import read_arguments
from swift.arguments.sft import SftArguments
from swift.memory import GIB, decide_checkpointing, needs_of
from swift.trainers.fused_lora import fused_lora
from tests.tiny import tiny_model

SEVEN = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "torch_dtype": "bfloat16",
    "max_position_embeddings": 8192,
}
ARGS = SftArguments(dtype="bf16")


def kept_by(model: Any, ids_BT: torch.Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the model's own parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = model(input_ids=ids_BT).last_hidden_state
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(("dtype", "tuned"), [("fp32", True), ("fp32", False), ("bf16", True)])
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_it_is_near_to_what_torch_keeps(kind: str, dtype: str, tuned: bool) -> None:
    shape = {"hidden": 128, "layers": 3, "intermediate_size": 352, "attn_implementation": "sdpa"}
    model = tiny_model(kind, **shape).to(torch.bfloat16 if dtype == "bf16" else torch.float32).model
    args = replace(ARGS, dtype=dtype, batch_size=2, max_length=96)
    needs = needs_of(args, not tuned, model.config.to_dict(), 1)
    if tuned:
        model = get_peft_model(model, LoraConfig(target_modules="all-linear", r=4), autocast_adapter_dtype=False)
    model.train()
    ids_BT = torch.randint(3, 400, (2, 96))
    with fused_lora(model):
        kept = kept_by(model, ids_BT)
    assert needs is not None
    assert 0.75 <= needs.activations / kept <= 1.35


def test_the_states_of_full_training_and_of_a_tuner() -> None:
    full, tuned = (needs_of(ARGS, whole, SEVEN, 16 * GIB) for whole in (True, False))
    assert full is not None
    assert tuned is not None
    assert full.states == 4 * 16 * GIB  # weights, gradients and two moments
    assert 16 * GIB < tuned.states < 20 * GIB
    assert full.activations == tuned.activations


@pytest.mark.parametrize(
    ("change", "kinds", "free", "on", "why"),
    [
        ({}, ["lora"], 80 * GIB, False, "80.0 GiB are free"),
        ({}, ["lora"], 24 * GIB, True, "24.0 GiB are free"),
        ({"batch_size": 16}, ["lora"], 80 * GIB, True, "GiB without"),
        ({"max_tokens_per_batch": 32768}, ["lora"], 80 * GIB, True, "GiB without"),
        ({"max_length": -1}, ["lora"], 40 * GIB, True, "GiB without"),
        ({}, ["full"], 80 * GIB, True, "GiB without"),
        ({}, ["full"], 200 * GIB, False, "200.0 GiB"),
        ({}, ["lora"], None, True, "not known"),
        ({}, ["prefix_tuning"], 24 * GIB, False, "prefix_tuning"),
        ({"tuner_backend": "unsloth"}, ["lora"], 80 * GIB, True, "unsloth"),
    ],
)
def test_it_is_on_where_the_memory_would_not_do(
    change: dict[str, Any], kinds: list[str], free: int | None, on: bool, why: str
) -> None:
    decided, reason = decide_checkpointing(replace(ARGS, **change), kinds, SEVEN, 15 * GIB, free)
    assert decided == on
    assert why in reason


@pytest.mark.parametrize("config", [{}, {**SEVEN, "quantization_config": {"bits": 4}}])
def test_what_a_config_does_not_tell(config: dict[str, Any]) -> None:
    assert needs_of(ARGS, True, config, 15 * GIB) is None
    assert needs_of(ARGS, True, SEVEN, 0) is None


def test_auto_is_what_nobody_said() -> None:
    assert read_arguments(SftArguments, ["--gradient_checkpointing", "auto"]).gradient_checkpointing is None
    assert read_arguments(SftArguments, ["--gradient_checkpointing", "false"]).gradient_checkpointing is False


def test_the_machine_tells_what_is_free() -> None:
    free = dist.free_memory()
    assert free is None or 2**20 < free < 2**50
