"""What a degree of tensor parallelism needs of a model and of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from swift.arguments.sft import SftArguments
from swift.dist import Hardware
from swift.errors import ConfigError
from swift.parallel.cuts import Cut
from swift.parallel.degrees import check_degree, contradictions
from swift.parallel.groups import Group
from swift.parallel.layers import ColumnLinear, RowLinear
from swift.parallel.plan import cut_model
from tests.tiny import tiny_model

CONFIG: dict[str, Any] = {"num_attention_heads": 8, "num_key_value_heads": 4}
ARGS = SftArguments(tensor_parallel_size=2)


def group(degree: int, rank: int = 0) -> Group:
    """A group that nobody talks in."""
    return Group(degree, rank, 0, 1, handle=None, alike=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("degree", [3, 8])
def test_a_degree_divides_the_heads(degree: int) -> None:
    with pytest.raises(ConfigError) as caught:
        check_degree(degree, {"attention heads": 8, "heads of keys and values": 4})
    assert "4 heads of keys and values" in str(caught.value)
    assert "one of 1, 2, 4" in str(caught.value)
    assert ("8 attention heads" in str(caught.value)) == (degree == 3)


def test_nothing_is_wrong_with_one_process() -> None:
    assert contradictions(SftArguments(deepspeed="zero2"), Hardware(world_size=3), CONFIG) == []


@pytest.mark.parametrize("world", [2, 4, 6])
def test_a_plain_run_is_cut(world: int) -> None:
    assert contradictions(ARGS, Hardware(world_size=world), CONFIG) == []


def test_processes_come_in_groups() -> None:
    (error,) = contradictions(ARGS, Hardware(world_size=3), CONFIG)
    assert "--tensor_parallel_size 2 with 3 processes" in str(error)
    assert "NPROC_PER_NODE=2" in str(error)


CLASHES: list[tuple[dict[str, Any], str]] = [
    ({"deepspeed": "zero2"}, "--deepspeed"),
    ({"fsdp": "full_shard"}, "--fsdp"),
    ({"device_map": "auto"}, "--device_map"),
    ({"quantization_bit": 4}, "a quantised base"),
    ({"sft_type": "adalora"}, "--sft_type adalora"),
    ({"tuner": ["lora", "adapter"]}, "--tuner"),
    ({"tuner_backend": "unsloth"}, "--tuner_backend unsloth"),
    ({"sft_type": "full", "use_galore": True}, "--use_galore"),
    ({"sft_type": "full", "lisa_activated_layers": 2}, "--lisa_activated_layers"),
    ({"optim": "adafactor"}, "--optim adafactor"),
    ({"use_dora": True}, "--use_dora"),
    ({"init_lora_weights": "pissa"}, "--init_lora_weights pissa"),
    ({"lora_modules_to_save": ["EMBEDDING"]}, "--lora_modules_to_save"),
    ({"lora_target_modules": ["EMBEDDING"]}, "--lora_target_modules EMBEDDING"),
    ({"new_special_tokens": ["<x>"]}, "--new_special_tokens"),
    ({"dtype": "fp16"}, "--dtype fp16"),
    ({"streaming": True}, "--streaming"),
]


@pytest.mark.parametrize(("said", "named"), CLASHES)
def test_what_does_not_go_with_it_is_named_in_a_line(said: dict[str, Any], named: str) -> None:
    (error,) = contradictions(replace(ARGS, **said), Hardware(world_size=2), CONFIG)
    assert named in str(error).splitlines()[0]
    assert len(str(error).splitlines()) == 2


def test_a_quantised_base_is_seen_in_its_config() -> None:
    (error,) = contradictions(ARGS, Hardware(world_size=2), {**CONFIG, "quantization_config": {"bits": 4}})
    assert "a quantised base" in str(error)


@pytest.mark.parametrize(("axis", "blocks"), [(0, 1), (1, 1), (-1, 3), (0, 2)])
def test_parts_are_all_of_a_tensor(axis: int, blocks: int) -> None:
    whole = torch.arange(72.0).reshape(12, 6)
    parts = [Cut(axis, group(2 if axis == 0 else 1, rank), blocks).part(whole) for rank in range(2 if axis == 0 else 1)]
    assert sorted(torch.cat(parts).flatten().tolist()) == whole.flatten().tolist()
    if axis == 0 and blocks == 2:
        assert parts[1].tolist() == whole[[3, 4, 5, 9, 10, 11]].tolist()
    assert Cut(axis, group(len(parts)), blocks).whole_shape(parts[0]) == whole.shape


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_model_that_cannot_be_cut_so_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"one of 1, 2$"):
        cut_model(tiny_model(kind), group(4))


@pytest.mark.parametrize(
    ("kind", "said"), [("gpt2", "no tensor-parallel plan for GPT2LMHeadModel"), ("mixtral", "exper")]
)
def test_a_model_without_a_plan_is_refused(kind: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        cut_model(tiny_model(kind), group(2))


def test_a_vocabulary_that_cannot_be_divided_stays_whole() -> None:
    model: Any = cut_model(tiny_model("llama", vocab_size=401), group(2))
    assert model.get_output_embeddings().weight.shape[0] == model.get_input_embeddings().weight.shape[0] == 401
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Linear)}
    assert kinds == {ColumnLinear, RowLinear, nn.Linear}
    assert model.model.layers[0].self_attn.q_proj.weight.shape == (32, 64)


def test_tied_words_stay_tied() -> None:
    model: Any = cut_model(tiny_model("llama", tie_word_embeddings=True), group(2, 1))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.get_input_embeddings().weight.shape == (200, 64)
