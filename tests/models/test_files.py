from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from swift.errors import DataError, NotFoundError, RefusedError, UsageError
from swift.models.files import check_tokenizer, check_weights, file_settings, read_config

DECODER = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}


def write(directory: Path, config: object) -> Path:
    (directory / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return directory


@pytest.fixture
def copy(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "model"))


def test_a_plain_config_is_read(tmp_path: Path):
    assert read_config(write(tmp_path, DECODER)) == DECODER


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '"x"', '{"model_type": 3}', "{}", "\udcff", "[" * 100_000, '{"a":' * 100_000]
)
def test_a_damaged_config_is_named(tmp_path: Path, text: str):
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"config\.json") as caught:
        read_config(tmp_path)
    assert caught.value.code == "MODEL-01"


def test_a_directory_without_config_is_no_model(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize("where", ["adapter_config.json", "default/adapter_config.json"])
def test_a_checkpoint_says_ckpt_dir(tmp_path: Path, where: str):
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    with pytest.raises(UsageError) as caught:
        read_config(tmp_path)
    assert caught.value.fix == f"--ckpt_dir {tmp_path}"


def test_an_adapter_beside_a_model_is_a_checkpoint(tmp_path: Path):
    """transformers would load the adapter's base model, maybe from the network."""
    (write(tmp_path, DECODER) / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="adapter"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "extra",
    [
        {"_attn_implementation_internal": "someone/kernels"},
        {"attn_implementation": "someone/kernels"},
        {"_attn_implementation": {"": "someone/kernels"}},
        {"text_config": {"_attn_implementation": "someone/kernels"}},
        {"_experts_implementation": "someone/kernels"},
        {"_anything": ["x"]},
        {"_data": {"x": 1}},
        {"quantization_config": {"_anything": {"x": 1}}},
    ],
)
def test_a_config_that_could_load_code_is_refused(tmp_path: Path, extra: dict):
    with pytest.raises(RefusedError, match=r"implementation|anything|_data") as caught:
        read_config(write(tmp_path, DECODER | extra))
    assert caught.value.exit_code == 77


@pytest.mark.parametrize(
    "extra",
    [
        {"_name_or_path": "someone/model"},
        {"_attn_implementation_autoset": True},
        {"_attn_implementation": "sdpa"},
        {"attn_implementation": None},
        {"_sliding_window_pattern": 6},
        {"quantization_config": {"quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {"x": None}}}}},
    ],
)
def test_what_plain_models_carry_is_accepted(tmp_path: Path, extra: dict):
    assert read_config(write(tmp_path, DECODER | extra)) == DECODER | extra


@pytest.mark.parametrize("extra", [{"vision_config": {"a": 1}}, {"audio_config": {"a": 1}}, {"visual": {"a": 1}}])
def test_multimodal_models_are_refused_in_a_sentence(tmp_path: Path, extra: dict):
    with pytest.raises(DataError, match="multimodal model") as caught:
        read_config(write(tmp_path, DECODER | extra))
    assert caught.value.code == "MODEL-02"


def test_encoder_decoders_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="encoder-decoder"):
        read_config(write(tmp_path, {"model_type": "t5", "is_encoder_decoder": True}))


def test_a_whole_model_passes(tiny_dir: Path):
    check_tokenizer(tiny_dir)
    check_weights(tiny_dir)


def test_a_model_without_tokenizer_is_named(copy: Path):
    for path in copy.glob("token*"):
        path.unlink()
    with pytest.raises(DataError, match="no tokenizer"):
        check_tokenizer(copy)


@pytest.mark.parametrize("name", ["../../.env", ".env", "sub/vocab.json", "../tokenizer.json"])
def test_a_tokenizer_file_elsewhere_is_named(copy: Path, name: str):
    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_file": name}))
    with pytest.raises(DataError, match="vocab_file"):
        check_tokenizer(copy)


def test_an_author_s_own_paths_are_known_as_such(copy: Path):
    path = copy / "tokenizer_config.json"
    extra = {"special_tokens_map_file": "/home/author/special.json", "tokenizer_file": "tokenizer.json", "x_file": None}
    path.write_text(json.dumps(json.loads(path.read_text()) | extra))
    check_tokenizer(copy)
    assert set(file_settings(copy)) == {"special_tokens_map_file", "tokenizer_file"}


def test_no_weights_are_named(copy: Path):
    (copy / "model.safetensors").unlink()
    with pytest.raises(DataError, match="no weights"):
        check_weights(copy)


@pytest.mark.parametrize("name", ["missing.safetensors", "../model.safetensors", "/etc/passwd"])
def test_an_index_must_name_files_of_the_directory(copy: Path, name: str):
    (copy / "model.safetensors").rename(copy / "part.safetensors")
    index = {"weight_map": {"a": "part.safetensors", "b": name}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"missing|outside"):
        check_weights(copy)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "["])
def test_an_empty_index_is_damaged(copy: Path, index: str):
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DataError, match=r"index\.json"):
        check_weights(copy)


def test_shards_and_old_weights_pass(copy: Path):
    (copy / "model.safetensors").rename(copy / "part.safetensors")
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part.safetensors"}}')
    check_weights(copy)
    (copy / "model.safetensors.index.json").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"x")
    check_weights(copy)


def header(content: object) -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        struct.pack("<Q", 1 << 63) + b"{}",
        struct.pack("<Q", 2) + b"{",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2) + b"\xff\xff",
        header({"a": {}}),
        header({"a": {"data_offsets": [0, 4]}}),
        header({"a": {"data_offsets": [0, 4]}}) + b"12345",
        header({"a": {"data_offsets": [0, 4]}, "b": {"data_offsets": [2, 6]}}) + b"123456",
        header({"a": {"data_offsets": [4, 0]}}),
        header({"a": {"data_offsets": ["x", "y"]}}),
    ],
)
def test_cut_or_forged_safetensors_are_damaged(tmp_path: Path, content: bytes):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors") as caught:
        check_weights(tmp_path)
    assert caught.value.exit_code == 65


def test_every_cut_of_a_real_file_is_found(copy: Path):
    whole = (copy / "model.safetensors").read_bytes()
    for size in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        (copy / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(DataError):
            check_weights(copy)
