"""UnSloth: what it is asked, and what is said where it cannot be had. A stand-in records the calls."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from swift.arguments.sft import SftArguments
from swift.commands.ready import add_tuner, load_base
from swift.decide import decide_sft
from swift.dist import Hardware
from swift.errors import ConfigError, MissingPackageError, SwiftError, UsageError
from swift.models import unsloth
from swift.models.source import ModelSource, find_model
from tests.tiny import tiny_model

GPU = Hardware("cuda", True, 1)


@pytest.fixture
def source(tiny_dir: Path) -> ModelSource:
    return find_model(None, str(tiny_dir))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """UnSloth as if it were installed; what its two functions are given."""
    given: dict[str, dict[str, Any]] = {}

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(**said: Any) -> tuple[Any, Any]:
            given["load"] = said
            if given.get("refuse"):
                raise NotImplementedError("this model is not known\nat all")
            return tiny_model(), object()

        @staticmethod
        def get_peft_model(model: Any, **said: Any) -> Any:
            given["lora"] = said
            return model

    package = ModuleType("unsloth")
    package.FastLanguageModel = FastLanguageModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unsloth", package)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "unsloth" else found(name))
    return given


def said(source: ModelSource, **options: Any) -> SftArguments:
    return SftArguments(model_id_or_path=str(source.path), dataset=["x.jsonl"], tuner_backend="unsloth", **options)


def test_it_is_given_the_model_and_plain_lora(source: ModelSource, calls: dict[str, dict[str, Any]]) -> None:
    args = decide_sft(
        said(
            source,
            lora_rank=4,
            lora_alpha=9,
            lora_lr_ratio=16.0,
            max_length=77,
            seed=5,
            lora_dropout_p=0.0,
            lora_target_modules=["q_proj", "k_proj", "v_proj"],
        ),
        GPU,
        source,
    )
    model = load_base(args, source)
    assert model.model_dir == str(source.path)
    tuned = add_tuner(args, model, source)
    assert tuned is model
    assert calls["load"] == {
        "model_name": str(source.path),
        "max_seq_length": 77,
        "dtype": torch.bfloat16,
        "load_in_4bit": False,
        "device_map": {"": 0},
        "trust_remote_code": False,
    }
    lora = calls["lora"]
    assert lora.pop("target_modules") == ["k_proj", "q_proj", "v_proj"]
    assert lora == {
        "r": 4,
        "lora_alpha": 9,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "init_lora_weights": True,
        "random_state": 5,
        "max_seq_length": 77,
        "use_gradient_checkpointing": "unsloth",
    }


def test_without_a_limit_and_without_checkpointing(source: ModelSource, calls: dict[str, dict[str, Any]]) -> None:
    args = decide_sft(said(source, max_length=-1, gradient_checkpointing=False), GPU, source)
    add_tuner(args, load_base(args, source), source)
    assert calls["load"]["max_seq_length"] is None
    assert "max_seq_length" not in calls["lora"]
    assert calls["lora"]["use_gradient_checkpointing"] is False


def test_a_model_that_it_does_not_know(source: ModelSource, calls: dict[str, Any]) -> None:
    calls["refuse"] = True
    with pytest.raises(ConfigError, match="this model is not known") as caught:
        unsloth.load_unsloth(source, torch.bfloat16, None)
    assert "--tuner_backend peft" in str(caught.value.fix)


def test_what_is_missing_is_said_with_the_command(source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        decide_sft(said(source), Hardware(), source)
    assert caught.value.what == "--tuner_backend unsloth needs a CUDA GPU and the package unsloth"
    assert "pip install unsloth" in str(caught.value.fix)
    with pytest.raises(MissingPackageError) as missing:
        decide_sft(said(source), GPU, source)
    assert missing.value.what == "--tuner_backend unsloth needs the package unsloth"
    assert missing.value.exit_code == 69


def test_a_package_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unsloth", None)
    with pytest.raises(MissingPackageError, match="unsloth cannot be imported"):
        unsloth.add_unsloth_lora(tiny_model(), {}, seed=0, max_length=None, checkpointing=True)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sft_type": "longlora"}, "--sft_type longlora"),
        ({"sft_type": "full"}, "--sft_type full"),
        ({"tuner": ["lora:rank=4", "adapter:length=8"]}, "several tuners"),
        ({"neftune_noise_alpha": 5.0, "neftune_backend": "swift"}, "several tuners"),
        ({"use_dora": True}, "--use_dora"),
    ],
)
def test_it_knows_plain_lora_only(
    source: ModelSource, calls: dict[str, Any], options: dict[str, Any], word: str
) -> None:
    with pytest.raises(SwiftError) as caught:
        decide_sft(replace(said(source), **options), GPU, source)
    assert f"{word} does not work with --tuner_backend unsloth" in str(caught.value)
    assert isinstance(caught.value, UsageError)
