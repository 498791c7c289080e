"""The configs: PaddleNLP's fields and defaults, dtypes of every spelling, their files; and AutoModelForCausalLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.errors import ConfigError, DataError, NotFoundError, OutputError
from swift.peft import AutoModelForCausalLM, LoRAConfig, PrefixConfig
from swift.peft.config import as_dtype
from tests.peft.lines import said_lines
from tests.tiny import save_tiny

said = said_lines


def test_lora_fields_and_defaults() -> None:
    assert vars(LoRAConfig()) == {
        "r": 8, "target_modules": None, "trainable_modules": None, "lora_alpha": 8, "lora_dropout": 0.0,
        "merge_weights": False, "trainable_bias": None, "enable_lora_list": None, "tensor_parallel_degree": -1,
        "dtype": None, "head_dim": None, "do_qat": False, "rslora": False, "lora_plus_scale": 1.0,
        "base_model_name_or_path": None, "use_quick_lora": False,
    }  # fmt: skip


def test_prefix_fields_and_defaults() -> None:
    assert vars(PrefixConfig()) == {
        "prefix_dropout": 0.0, "num_prefix_tokens": None, "num_attention_heads": None, "num_hidden_layers": None,
        "hidden_size": None, "multi_query_group_num": None, "prefix_projection": False,
        "prefix_projection_hidden_size": None, "tensor_parallel_degree": -1, "dtype": None,
    }  # fmt: skip


class Printed:
    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


@pytest.mark.parametrize(
    ("said_dtype", "expected"),
    [
        (torch.bfloat16, torch.bfloat16),
        ("float16", torch.float16),
        ("torch.float64", torch.float64),
        ("bf16", torch.bfloat16),
        (Printed("paddle.float32"), torch.float32),
        (Printed("VarType.BF16"), torch.bfloat16),
        (None, torch.float32),
    ],
)
def test_dtypes(said_dtype: Any, expected: torch.dtype) -> None:
    assert as_dtype(said_dtype) == expected
    written = LoRAConfig(dtype=said_dtype).to_dict()["dtype"]
    assert written is None if said_dtype is None else as_dtype(written) == expected


@pytest.mark.parametrize("dtype", ["int8", torch.int64, "", 3])
def test_what_is_no_dtype(dtype: Any) -> None:
    with pytest.raises(ConfigError, match="is no floating dtype"):
        as_dtype(dtype)


def test_there_and_back(tmp_path: Path) -> None:
    config = LoRAConfig(r=4, target_modules=[".*a"], lora_alpha=16, dtype=torch.bfloat16, rslora=True)
    config.save_pretrained(tmp_path / "new" / "dir")
    values = json.loads((tmp_path / "new" / "dir" / "lora_config.json").read_text())
    assert values == config.to_dict()
    assert values["scaling"] == 8.0
    loaded = LoRAConfig.from_pretrained(tmp_path / "new" / "dir")
    assert loaded.to_dict() == config.to_dict()
    assert LoRAConfig.from_json_file(tmp_path / "new" / "dir" / "lora_config.json")["r"] == 4


def test_scaling_in_a_file_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "lora_config.json").write_text('{"r": 4, "lora_alpha": 4, "scaling": 99}')
    assert LoRAConfig.from_pretrained(tmp_path).scaling == 1


def test_fields_of_later_versions(tmp_path: Path, said: list[str]) -> None:
    file = tmp_path / "lora_config.json"
    file.write_text('{"r": 4, "pissa": false, "lora_use_mixer": false}')
    assert LoRAConfig.from_pretrained(tmp_path).r == 4
    assert said[-1].endswith("ignored lora_use_mixer, pissa")
    file.write_text('{"r": 4, "pissa": true}')
    with pytest.raises(DataError, match="pissa is not offered here"):
        LoRAConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "", "[" * 100_000])
def test_damaged_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "prefix_config.json").write_text(text)
    with pytest.raises(DataError, match="JSON"):
        PrefixConfig.from_pretrained(tmp_path)


def test_missing_files_and_files_for_directories(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no lora_config.json"):
        LoRAConfig.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        LoRAConfig().save_pretrained(tmp_path / "file")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_heads_and_layers_under_paddlenlps_names(tmp_path: Path, kind: str) -> None:
    save_tiny(tmp_path / "m", kind)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="bfloat16")
    assert (model.config.n_head, model.config.n_layer) == (4, 2)
    assert (model.config.num_attention_heads, model.config.num_hidden_layers) == (4, 2)
    assert model.dtype == torch.bfloat16
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    assert again.config.n_head == 4
    assert again.dtype == torch.float32
    before = json.loads((tmp_path / "m" / "config.json").read_text())
    again.save_pretrained(tmp_path / "n")
    assert json.loads((tmp_path / "n" / "config.json").read_text()).keys() == before.keys()


@pytest.mark.parametrize("degree", [-1, 0, 1])
def test_one_device_is_enough(tmp_path: Path, degree: int) -> None:
    save_tiny(tmp_path / "m", "llama")
    options = {"tensor_parallel_output": False, "tensor_parallel_degree": degree, "tensor_parallel_rank": 0}
    assert AutoModelForCausalLM.from_pretrained(str(tmp_path / "m"), **options)


def test_more_devices_are_several_processes() -> None:
    with pytest.raises(ConfigError, match="tensor_parallel_rank=1 with tensor_parallel_degree=-1"):
        AutoModelForCausalLM.from_pretrained("anywhere", tensor_parallel_rank=1)
    with pytest.raises(ConfigError, match="runs alone") as caught:
        AutoModelForCausalLM.from_pretrained("anywhere", tensor_parallel_degree=4, tensor_parallel_rank=1)
    assert "torchrun" in str(caught.value)


def test_an_id_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(tmp_path / "m", "llama")
    asked: list[str] = []

    def fetch(hub_id: str) -> Path:
        asked.append(hub_id)
        return tmp_path / "m"

    monkeypatch.setattr("swift.hub.fetch_model", fetch)
    assert AutoModelForCausalLM.from_pretrained("someone/model").config.n_layer == 2
    assert asked == ["someone/model"]


@pytest.mark.parametrize("name", ["./m", "../a/m", "a/b/m", "/nowhere/m", "~/nowhere"])
def test_a_path_is_never_asked_of_a_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("swift.hub.fetch_model")
    with pytest.raises(NotFoundError, match="is no directory"):
        AutoModelForCausalLM.from_pretrained(name)
