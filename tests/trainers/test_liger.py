"""Liger's kernels go into the model and not into the loss; a stand-in for the package sees what it is asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from swift.errors import ConfigError, MissingPackageError
from swift.trainers.liger import KERNELS, use_liger
from tests.tiny import tiny_model
from tests.trainers.rows import VOCAB, lora, trainer_of

WHERE = "liger_kernel.transformers.monkey_patch"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    fake: Any = ModuleType(WHERE)
    fake.MODEL_TYPE_TO_APPLY_LIGER_FN = {"qwen2": None}
    fake._apply_liger_kernel_to_instance = lambda model, **kernels: seen.append({"model": model, **kernels})
    monkeypatch.setitem(sys.modules, WHERE, fake)
    for parent in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    return seen


@pytest.mark.parametrize("words", [{"liger_kernels": KERNELS}, {"use_liger_kernel": True}])
def test_a_run_asks_for_kernels_of_the_layers_alone(
    words: dict[str, Any], asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    trainer = trainer_of(lora(), tmp_path, **words)
    assert asked == [{"model": trainer.model.base_model.model, **KERNELS}]
    assert KERNELS["rms_norm"]
    assert not KERNELS["fused_linear_cross_entropy"]
    assert not KERNELS["cross_entropy"]
    assert not trainer.args.use_liger_kernel, "transformers would put in losses of its own"


def test_a_kernel_can_be_left_out(asked: list[dict[str, Any]], tmp_path: Path) -> None:
    trainer_of(lora(), tmp_path, use_liger_kernel=True, liger_kernel_config={"rope": False})
    assert asked[0]["rope"] is False
    assert asked[0]["swiglu"] is True


def test_a_model_that_it_does_not_know_is_refused(asked: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="no kernels for llama models"):
        use_liger(tiny_model("llama", vocab_size=VOCAB), KERNELS)
    assert not asked


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(MissingPackageError, match=r"swift-finetune\[liger\]"):
        use_liger(tiny_model(vocab_size=VOCAB), KERNELS)
