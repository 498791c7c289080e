from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from swift.dist import Hardware
from swift.errors import DataError, MissingPackageError, UnknownNameError
from swift.models import MODELS, ModelRecord
from swift.models.load import (
    default_dtype,
    detect_hardware,
    get_max_model_len,
    get_model_tokenizer,
    load_model,
    load_tokenizer,
    saved_dtype,
)
from swift.models.source import ModelSource, find_model

MODELING = """
from transformers import Qwen2Config, Qwen2ForCausalLM
open({canary!r}, "w").close()
class StrangeConfig(Qwen2Config):
    model_type = "strange"
class StrangeForCausalLM(Qwen2ForCausalLM):
    config_class = StrangeConfig
"""


@pytest.fixture
def copy(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "model"))


@pytest.fixture
def llama_copy(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama_dir, tmp_path / "llama"))


def change(directory: Path, file: str = "config.json", **extra: object) -> Path:
    path = directory / file
    content = json.loads(path.read_text()) | extra
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return directory


def found(directory: Path, model_type: str | None = None) -> ModelSource:
    return find_model(model_type, str(directory))


def no_network(*_: object) -> None:
    raise AssertionError("a local path touched the network")


def test_a_directory_loads_to_what_transformers_loads(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    model, tokenizer = get_model_tokenizer(model_id_or_path=str(tiny_dir))
    assert model is not None
    ids = torch.tensor([tokenizer("hello there").input_ids])
    plain = AutoModelForCausalLM.from_pretrained(tiny_dir)
    assert torch.equal(model(input_ids=ids).logits, plain(input_ids=ids).logits)
    assert (model.model_type, model.model_dir, model.max_model_len) == ("tiny-qwen2", str(tiny_dir.resolve()), 512)
    assert (tokenizer.model_type, tokenizer.model_dir) == ("tiny-qwen2", str(tiny_dir.resolve()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_weight_has_the_asked_precision(tiny_dir: Path, dtype: torch.dtype):
    model = load_model(found(tiny_dir), dtype, device_map="cpu", attn_implementation="eager")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.config._attn_implementation == "eager"


def test_the_tokenizer_alone(tiny_dir: Path):
    model, tokenizer = get_model_tokenizer(model_id_or_path=str(tiny_dir), load_model=False)
    assert model is None
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_given_tokenizer_is_used(tiny_dir: Path, tokenizer):
    _, used = get_model_tokenizer(model_id_or_path=str(tiny_dir), load_model=False, tokenizer=tokenizer)
    assert used is tokenizer


def test_old_arguments_that_the_config_answers_are_tolerated(tiny_dir: Path):
    said = {"model_id_or_path": str(tiny_dir), "is_training": True, "gptq_bits": 4}
    model, tokenizer = get_model_tokenizer(None, None, {}, False, **said)
    assert model is None
    assert tokenizer.decode(tokenizer("hello")["input_ids"]) == "hello"


def test_a_misspelt_argument_hears_the_nearest(tiny_dir: Path):
    with pytest.raises(UnknownNameError, match="use_flash_attn"):
        get_model_tokenizer(model_id_or_path=str(tiny_dir), use_flash_atn=True)


def test_model_kwargs_reach_transformers(tiny_dir: Path):
    kwargs = {"attn_implementation": "eager", "device_map": None}
    model, _ = get_model_tokenizer("qwen2-7b-instruct", torch.bfloat16, kwargs, model_id_or_path=str(tiny_dir))
    assert model is not None
    assert model.config._attn_implementation == "eager"
    assert model.dtype == torch.bfloat16
    assert model.model_type == "qwen2-7b-instruct"


def test_flash_attention_without_its_package_is_said(tiny_dir: Path):
    with pytest.raises(MissingPackageError):
        get_model_tokenizer(model_id_or_path=str(tiny_dir), use_flash_attn=True)


def test_a_missing_weight_is_never_random(copy: Path):
    weights = load_file(copy / "model.safetensors")
    gone = next(name for name in weights if "o_proj" in name)
    save_file({name: w for name, w in weights.items() if name != gone}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=gone):
        load_model(found(copy), torch.float32)


def test_a_weight_of_another_shape_is_an_error(copy: Path):
    with pytest.raises(DataError) as caught:
        load_model(found(change(copy, intermediate_size=96)), torch.float32)
    assert caught.value.code == "MODEL-01"


def test_unused_weights_are_told(copy: Path, monkeypatch: pytest.MonkeyPatch):
    lines: list[str] = []
    monkeypatch.setattr("swift.models.load.logger.warning", lines.append)
    weights = load_file(copy / "model.safetensors") | {"extra.weight": torch.zeros(2)}
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    load_model(found(copy), torch.float32)
    assert len(lines) == 1
    assert "extra.weight" in lines[0]


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickled_weight_file_cannot_run_code(copy: Path):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(copy / "canary"), 2))
    torch.save({"a": Canary(copy / "canary")}, copy / "zip.bin")
    for content in ((copy / "pytorch_model.bin").read_bytes(), (copy / "zip.bin").read_bytes()):
        (copy / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(DataError, match="more than tensors"):
            load_model(found(copy), torch.float32)
    assert not (copy / "canary").exists()


def test_own_code_runs_only_when_allowed(copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    canary = tmp_path / "canary"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    (copy / "modeling_strange.py").write_text(MODELING.format(canary=str(canary)))
    auto_map = {"AutoConfig": "modeling_strange.StrangeConfig"}
    auto_map["AutoModelForCausalLM"] = "modeling_strange.StrangeForCausalLM"
    get_model_tokenizer(model_id_or_path=str(change(copy, auto_map=auto_map)), trust_remote_code=True)
    assert not canary.exists(), "the native class was there"
    source = find_model(None, str(change(copy, model_type="strange")), trust_remote_code=True)
    with pytest.raises(DataError):
        load_model(replace(source, code={}), torch.float32)
    assert not canary.exists()
    model = load_model(source, torch.float32)
    assert type(model).__name__ == "StrangeForCausalLM"
    assert canary.exists()


def test_a_tokenizer_opens_no_file_of_its_author_s_machine(copy: Path, tmp_path: Path):
    secret = tmp_path / "secret.json"
    secret.write_text("{")
    change(copy, "tokenizer_config.json", vocab_file=str(secret), special_tokens_map_file=str(secret))
    tokenizer = load_tokenizer(found(copy))
    assert str(secret) not in json.dumps(tokenizer.init_kwargs, default=str)


def test_a_damaged_tokenizer_is_named(copy: Path):
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="tokenizer cannot be loaded"):
        load_tokenizer(found(copy))


def test_a_tokenizer_needs_an_end(llama_copy: Path):
    copy = change(llama_copy, "tokenizer_config.json", eos_token=...)
    with pytest.raises(DataError, match="no end token"):
        load_tokenizer(found(copy))


def test_padding_falls_back_to_the_end(llama_copy: Path):
    copy = change(llama_copy, "tokenizer_config.json", pad_token=...)
    tokenizer = load_tokenizer(found(copy))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_a_row_names_what_fills_up_where_the_tokenizer_does_not(llama_copy: Path):
    copy = change(llama_copy, "tokenizer_config.json", pad_token=...)
    for wanted, found in (("<|endoftext|>", "<|endoftext|>"), ("<|nowhere|>", "<|im_end|>")):
        record = ModelRecord("n", "t", pad_token=wanted)
        source = replace(find_model(None, str(copy)), record=record)
        assert load_tokenizer(source).pad_token == found


def test_a_row_names_the_end_token_where_the_vocabulary_has_it(copy: Path):
    assert load_tokenizer(found(copy, "qwen2-7b")).eos_token == "<|endoftext|>"
    assert load_tokenizer(found(copy, "deepseek-coder-33b-instruct")).eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    ("saved", "samples"),
    [({"temperature": 0.7}, True), ({"top_p": 0.5}, True), ({"top_k": 5}, True), ({}, False), ({"top_k": 50}, False)],
)
def test_a_generation_config_can_be_saved_again(copy: Path, saved: dict, samples: bool, tmp_path: Path):
    change(copy, "generation_config.json", do_sample=False, **saved)
    model = load_model(found(copy), torch.float32)
    assert model.generation_config is not None
    assert bool(model.generation_config.do_sample) is samples
    model.save_pretrained(tmp_path / "again")


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"max_position_embeddings": 512, "seq_length": 128, "n_positions": 0}, 128),
        ({"model_max_length": None, "max_seq_len": 1.5}, None),
        ({}, None),
    ],
)
def test_the_longest_sequence_is_the_smallest_that_the_config_says(config: dict, length: int | None):
    assert get_max_model_len(config) == length


GPU, OLD_GPU = Hardware("cuda", bf16=True), Hardware("cuda", bf16=False)


@pytest.mark.parametrize(
    ("saved", "model_type", "hardware", "dtype"),
    [
        ("bfloat16", None, Hardware(), torch.float32),
        ("bfloat16", None, GPU, torch.bfloat16),
        ("bfloat16", None, OLD_GPU, torch.float16),
        ("float16", None, GPU, torch.float16),
        ("torch.float16", None, GPU, torch.float16),
        ("float32", None, GPU, torch.bfloat16),
        (None, None, OLD_GPU, torch.float16),
        ("bfloat16", "qwen-7b-chat-int4", GPU, torch.float16),
    ],
)
def test_the_precision_when_nobody_says(saved, model_type, hardware, dtype):
    source = ModelSource("m", MODELS[model_type] if model_type else None, Path(), {"dtype": saved})
    assert default_dtype(source, hardware) == dtype


def test_the_saved_precision(tiny_dir: Path):
    assert saved_dtype(found(tiny_dir)) == torch.float32
    assert saved_dtype(ModelSource("m", None, Path(), {"torch_dtype": "bfloat16"})) == torch.bfloat16


def test_hardware_says_the_processes_and_agrees_with_torch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    hardware = detect_hardware()
    assert hardware.world_size == 3
    assert (hardware.accelerator is None) is not torch.accelerator.is_available()
