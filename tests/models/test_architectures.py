"""Every architecture of the catalog, built tiny from its config class: what its rows say of it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Llama4Config, Llama4ForConditionalGeneration

from swift.models import MODELS
from swift.models.load import load_model
from swift.models.remote_code import native_type
from swift.models.source import find_model
from swift.tuners import LoraConfig, Swift
from swift.tuners.layers import find_layers
from swift.tuners.targets import find_all_linears, find_embeddings, find_targets
from tests.tiny import tiny_tokenizer

VOCAB, TOKENS, LAYERS = 96, 6, 2
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}
HEADS = {"head_dim": 8}
LATENT: dict[str, Any] = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "num_experts": 4,
}
GPT2 = {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
DBRX = {
    "d_model": 32,
    "n_layers": LAYERS,
    "n_heads": 4,
    "max_seq_len": 64,
    "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
    "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 2, "moe_top_k": 1, "hidden_size": 32},
}
PARTS = {"text_config": {**SMALL, **HEADS, "intermediate_size_mlp": 48, "num_local_experts": 2}}
SHAPES: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": LAYERS, "n_head": 4},
    "dbrx": DBRX,
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "gemma": HEADS,
    "gemma2": HEADS,
    "gemma3_text": HEADS,
    "glm": HEADS,
    "glm4": HEADS,
    "glm4_moe": {**HEADS, "n_routed_experts": 4, "first_k_dense_replace": 1},
    "gpt2": GPT2,
    "gpt_oss": {**HEADS, "num_local_experts": 4},
    "llama4": PARTS,
    "mamba": {"state_size": 4, "time_step_rank": 4},
    "minicpm3": LATENT,
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 16},
    "qwen3": HEADS,
    "qwen3_moe": {**HEADS, "num_experts": 4},
    "qwen3_next": {**HEADS, **LINEAR},
}
OWN_CODE = {
    "BaichuanForCausalLM",
    "BlueLMForCausalLM",
    "ChatGLMModel",
    "DeepseekForCausalLM",
    "Grok1ModelForCausalLM",
    "InternLM2ForCausalLM",
    "InternLMForCausalLM",
    "MiniCPMForCausalLM",
    "OrionForCausalLM",
    "Phi3SmallForCausalLM",
    "QWenLMHeadModel",
    "SkyworkForCausalLM",
    "Telechat2ForCausalLM",
    "TelechatForCausalLM",
    "XverseForCausalLM",
    "YuanForCausalLM",
}
"""Not built: transformers has no such class, and the code that comes with these models is on their hubs."""


def shapes() -> list[tuple[str, tuple[str, ...]]]:
    """Every architecture that transformers has, with each choice of modules that rows make for it."""
    return list(dict.fromkeys((row.arch, row.targets) for row in MODELS.values() if native_type(row.arch)))


def tiny(arch: str, targets: tuple[str, ...]) -> Any:
    model_type = str(native_type(arch))
    shape = {**SMALL, **SHAPES.get(model_type, {})}
    if model_type == "deepseek_v2" and "q_proj" in targets:
        shape["q_lora_rank"] = None
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **shape))


@pytest.mark.parametrize(("arch", "targets"), shapes(), ids=lambda value: value if isinstance(value, str) else "-")
def test_what_the_rows_say_of_an_architecture(arch: str, targets: tuple[str, ...]):
    model = tiny(arch, targets)
    paths = [path for path, _ in model.named_modules()]
    assert sum(p.numel() for p in model.parameters()) < 200_000, "not tiny"

    for target in targets:
        assert any(path == target or path.endswith(f".{target}") for path in paths), f"{target} is not there"
    head: Any = model.get_output_embeddings()
    linears = [m for p, m in model.named_modules() if any(p.endswith(end) for end in find_all_linears(model))]
    assert linears
    assert all(module is not head for module in linears), "ALL takes the head"
    embeddings: list[Any] = [model.get_submodule(p) for p in paths for end in find_embeddings(model) if p.endswith(end)]
    assert embeddings == [model.get_input_embeddings()]
    path, layers = find_layers(model)
    assert len(layers) == LAYERS, path

    ids_BT = torch.randint(3, VOCAB, (2, TOKENS))
    loss = model(input_ids=ids_BT, labels=ids_BT).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert embeddings[0].weight.grad.abs().sum() > 0
    model.zero_grad(set_to_none=True)

    chosen = find_targets(model, ["DEFAULT"], targets)
    tuned: Any = Swift.prepare_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=chosen))
    tuned(input_ids=ids_BT, labels=ids_BT).loss.backward()
    trained = {name: p for name, p in tuned.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())


def test_what_is_not_built_and_why():
    lacking = {row.arch: row.name for row in MODELS.values() if not native_type(row.arch)}
    assert set(lacking) == OWN_CODE
    print(*(f"{arch} ({name}): not in transformers, comes with code of its own" for arch, name in lacking.items()))


def test_every_shape_is_that_of_a_row():
    assert set(SHAPES) <= {native_type(row.arch) for row in MODELS.values()}


@pytest.mark.parametrize(
    ("arch", "model_type"),
    [
        ("LlamaForCausalLM", "llama"),
        ("PhiMoEForCausalLM", "phimoe"),
        ("InternLM3ForCausalLM", "internlm3"),
        ("Gemma3ForCausalLM", "gemma3_text"),
        ("Llama4ForConditionalGeneration", "llama4"),
        ("GPT2LMHeadModel", "gpt2"),
        ("QWenLMHeadModel", None),
        ("NoSuchModel", None),
    ],
)
def test_a_class_has_its_type(arch: str, model_type: str | None):
    assert native_type(arch) == model_type


def test_of_llama_4_the_text_part_is_loaded(tmp_path: Path):
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    vision |= {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "image_size": 56}
    text = {**PARTS["text_config"], "vocab_size": 400}
    whole = Llama4ForConditionalGeneration(Llama4Config(text_config=text, vision_config=vision)).eval()
    whole.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    source = find_model(None, str(tmp_path))
    assert source.targets == ("q_proj", "k_proj", "v_proj")
    model = load_model(source, torch.float32)
    ids_BT = torch.randint(3, VOCAB, (1, TOKENS))
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids_BT).logits, whole(input_ids=ids_BT).logits)
    assert not any("vision" in name for name, _ in model.named_parameters())
