"""What stands in a GGUF file, read by the reader of GGUF's own package: every tensor, every token, the shape, the ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from swift.arguments.export import ExportArguments
from swift.commands import to_gguf
from swift.commands.prepare import find_source, load_template
from tests.tiny import save_tiny

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.slow

# Largest error of a value, in units of the largest value: half a step of what the type can tell apart, which blocks
# count in steps of half precision.
STEPS = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.5 / 127 + 2**-11, "q4_0": 1 / 8 + 2**-11}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    for kind in ("llama", "qwen2", "qwen3"):
        save_tiny(place / kind, kind)
    return {kind: place / kind for kind in ("llama", "qwen2", "qwen3")}


def written(model: Path, file: Path, type_: str) -> tuple[Any, Any, dict[str, Any]]:
    args = ExportArguments(model_id_or_path=str(model), to_gguf=type_, template_type="auto")
    source = find_source(args)
    template = load_template(args, source)
    to_gguf.write(source, template, file, type_)
    return gguf.GGUFReader(file), template, source.config


def turned_back(values: np.ndarray, heads: int) -> np.ndarray:
    """Queries or keys of Llama as transformers has them: the halves of a head one after the other."""
    width = values.shape[0] // heads
    return values.reshape(heads, width // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("type_", STEPS)
def test_every_tensor_is_there(models: dict[str, Path], kind: str, type_: str, tmp_path: Path) -> None:
    reader, _, config = written(models[kind], tmp_path / "model.gguf", type_)
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == to_gguf.LAYOUTS[config["model_type"]])
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    weights = load_file(models[kind] / "model.safetensors")
    expected = {names.get_name(name, try_suffixes=(".weight", ".bias")): value for name, value in weights.items()}
    assert {tensor.name for tensor in reader.tensors} == set(expected)
    for tensor in reader.tensors:
        wanted = expected[tensor.name].astype(np.float32)
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape)
        part = tensor.name.split(".")[-2]
        if kind == "llama" and part in ("attn_q", "attn_k"):
            heads = config["num_attention_heads" if part == "attn_q" else "num_key_value_heads"]
            found = turned_back(found, heads)
        step = 0.0 if wanted.ndim == 1 else STEPS[type_]
        assert np.abs(found - wanted).max() <= step * np.abs(wanted).max() * 1.001, tensor.name


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_shape_tokens_and_ends_are_the_model_s(models: dict[str, Path], kind: str, tmp_path: Path) -> None:
    reader, template, config = written(models[kind], tmp_path / "model.gguf", "f16")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    arch = fields["general.architecture"]
    assert arch == to_gguf.LAYOUTS[config["model_type"]]
    shape = {
        "block_count": "num_hidden_layers",
        "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "context_length": "max_position_embeddings",
        "vocab_size": "vocab_size",
    }
    assert {name: fields[f"{arch}.{name}"] for name in shape} == {name: config[key] for name, key in shape.items()}
    tokenizer = template.tokenizer
    spelt = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = fields["tokenizer.ggml.tokens"]
    assert len(tokens) == config["vocab_size"] == len(fields["tokenizer.ggml.token_type"])
    assert all(tokens[index] == word for word, index in tokenizer.get_vocab().items())
    assert [pair.split(" ") for pair in fields["tokenizer.ggml.merges"]] == [
        pair.split(" ") if isinstance(pair, str) else list(pair) for pair in spelt["model"]["merges"]
    ]
    assert fields["tokenizer.ggml.eos_token_id"] == template.stop_ids[0]
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    controls = {
        index for index, type_ in enumerate(fields["tokenizer.ggml.token_type"]) if type_ == gguf.TokenType.CONTROL
    }
    assert controls == {one["id"] for one in spelt["added_tokens"] if one["special"]}
