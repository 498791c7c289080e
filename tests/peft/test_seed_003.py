"""The guide to PaddleNLP's PEFT API, block for block; only the package's name and the model's id are ours.

`paddle` is torch here. Lines that the guide marks with + as added are in.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.peft.lines import said_lines
from tests.tiny import save_tiny

said = said_lines

LORA_CONFIG = """
from paddlenlp.peft import LoRAConfig, LoRAModel

target_modules = [
    ".*q_proj.*",
    ".*v_proj.*",
    ".*k_proj.*",
    ".*gate_proj.*",
    ".*up_proj.*",
    ".*o_proj.*",
    ".*down_proj.*",
]
lora_rank = 8
lora_config = LoRAConfig(
    target_modules=target_modules,
    r=lora_rank,
    lora_alpha=2 * lora_rank,
    merge_weights=True,
    dtype=paddle.float32,
)
"""
LORA_MODEL = """
from paddlenlp.transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(
    'facebook/llama-7b'
)
model = LoRAModel(model, lora_config)
"""
LORA_TRAINABLE = """
model.mark_only_lora_as_trainable()
# 这一步会将当前整个模型所有的参数和进行训练的参数量打印出来，可以进行校对设置是否正确
model.print_trainable_parameters()
"""
LORA_SAVE = """
# 保存
model.save_pretrained('lora_path')
"""
LORA_LOAD = """
from paddlenlp.transformers import AutoModelForCausalLM
from paddlenlp.peft import LoRAModel, LoRAConfig

# 载入
config = LoRAConfig.from_pretrained('lora_path')
model = AutoModelForCausalLM.from_pretrained('facebook/llama-7b')
model = LoRAModel.from_pretrained(model, 'lora_path')
model.eval()
"""
MODEL_PARALLEL = """
model = AutoModelForCausalLM.from_pretrained(
    model_args.model_name_or_path,
    tensor_parallel_output=False,
    tensor_parallel_degree=training_args.tensor_parallel_degree,
    tensor_parallel_rank=training_args.tensor_parallel_rank,
)
"""
LORA_PARALLEL = """
lora_config = LoRAConfig(
    target_modules=target_modules,
    r=lora_rank,
    lora_alpha=2 * lora_rank,
    merge_weights=True,
    tensor_parallel_degree=training_args.tensor_parallel_degree,
    dtype=paddle.float32,
)
"""
PREFIX_CONFIG = """
from paddlenlp.transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(
    'facebook/llama-7b'
)
prefix_config = PrefixConfig(
    num_prefix_tokens=64,
    num_attention_heads=model.config.n_head,
    num_hidden_layers=model.config.n_layer,
    hidden_size=model.config.hidden_size,
    prefix_projection=False,
    prefix_projection_hidden_size=model.config.hidden_size,
)
"""
PREFIX_MODEL = """
model = PrefixModelForCausalLM(
    model=model,
    prefix_config=prefix_config,
)
"""
PREFIX_TRAINABLE = """
model.mark_only_prefix_as_trainable()
# 这一步会将当前整个模型所有的参数和进行训练的参数量打印出来，可以进行校对设置是否正确
model.print_trainable_parameters()
"""
PREFIX_SAVE = """
# 保存
model.save_pretrained('prefix_path')
"""
PREFIX_LOAD = """
from paddlenlp.transformers import AutoModelForCausalLM
from paddlenlp.peft import PrefixModel, PrefixConfig

# 载入
config = PrefixConfig.from_pretrained('prefix_path')
model = AutoModelForCausalLM.from_pretrained('facebook/llama-7b')
model = PrefixModel.from_pretrained(model, 'prefix_path')
model.eval()
"""
PREFIX_PARALLEL = """
prefix_config = PrefixConfig(
    num_prefix_tokens=64,
    num_attention_heads=model.config.n_head,
    num_hidden_layers=model.config.n_layer,
    hidden_size=model.config.hidden_size,
    prefix_projection=False,
    prefix_projection_hidden_size=model.config.hidden_size,
    tensor_parallel_degree=training_args.tensor_parallel_degree,
)
"""
IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs blocks one after the other, in one scope, where `facebook/llama-7b` is a tiny model."""
    monkeypatch.chdir(tmp_path)
    save_tiny("facebook/llama-7b", "llama")
    scope: dict[str, Any] = {
        "paddle": torch,
        "model_args": SimpleNamespace(model_name_or_path="facebook/llama-7b"),
        "training_args": SimpleNamespace(tensor_parallel_degree=1, tensor_parallel_rank=0),
    }

    def run_blocks(*blocks: str) -> dict[str, Any]:
        for block in blocks:
            ours = block.replace("paddlenlp.peft", "swift.peft").replace("paddlenlp.transformers", "swift.peft")
            exec(compile(ours, "the guide", "exec"), scope)
        return scope

    return run_blocks


def moved(model: torch.nn.Module) -> None:
    """What training does: every trainable parameter is another one afterwards."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)


def test_lora(run, said: list[str]) -> None:
    model = run(LORA_CONFIG, LORA_MODEL, LORA_TRAINABLE)["model"]
    trained = {name for name, p in model.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.endswith(("lora_A", "lora_B")) for name in trained)
    assert any("|| Trainable:" in line and line.endswith("%") for line in said)
    moved(model)
    run(LORA_SAVE)
    model.eval()
    tuned = model(input_ids=IDS).logits
    loaded = run(LORA_LOAD)["model"]
    assert {path.name for path in Path("lora_path").iterdir()} == {"lora_model_state.pdparams", "lora_config.json"}
    assert torch.equal(loaded(input_ids=IDS).logits, tuned)
    assert all(layer.merged for layer in loaded.layers().values())


def test_lora_with_the_settings_of_several_devices(run) -> None:
    scope = run(LORA_CONFIG, MODEL_PARALLEL.replace("model =", "from swift.peft import AutoModelForCausalLM\nmodel ="))
    model = run(LORA_PARALLEL, "model = LoRAModel(model, lora_config)", LORA_TRAINABLE)["model"]
    assert model.lora_config.tensor_parallel_degree == 1
    assert scope["model"](input_ids=IDS).logits.shape == (1, 5, model.config.vocab_size)


def test_prefix(run, said: list[str]) -> None:
    run("from swift.peft import PrefixConfig, PrefixModelForCausalLM")
    model = run(PREFIX_CONFIG, PREFIX_MODEL, PREFIX_TRAINABLE)["model"]
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"prefix_encoder.0.weight"}
    assert any("|| Trainable:" in line for line in said)
    moved(model)
    run(PREFIX_SAVE)
    model.eval()
    tuned = model(input_ids=IDS).logits
    loaded = run(PREFIX_LOAD)["model"]
    files = {path.name for path in Path("prefix_path").iterdir()}
    assert files == {"prefix_model_state.pdparams", "prefix_config.json", "pre_caches.npy"}
    assert torch.equal(loaded(input_ids=IDS).logits, tuned)


def test_prefix_with_the_settings_of_several_devices(run) -> None:
    run("from swift.peft import AutoModelForCausalLM, PrefixConfig, PrefixModelForCausalLM", MODEL_PARALLEL)
    model = run(PREFIX_PARALLEL, PREFIX_MODEL)["model"]
    assert model(input_ids=IDS).logits.shape == (1, 5, model.config.vocab_size)
