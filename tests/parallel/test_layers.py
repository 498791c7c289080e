"""A model that two processes hold together is the one that a process alone has: outputs, gradients, LoRA, words."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch

from swift.parallel.collectives import spread
from swift.parallel.groups import imagine_group
from tests.parallel import layers
from tests.parallel.group import found

QUICK = ("llama", "qwen3+tied")
OTHERS = (
    *("qwen2", "mistral", "gemma2", "gemma2+tied", "gemma3_text", "phi3", "phi3+tied", "glm", "glm4", "olmo2"),
    *("starcoder2", "cohere", "phi", "granite", "llama+tied"),
)


def check(tmp_path: Path, *kinds: str) -> None:
    report = found(Path(layers.__file__), 2, tmp_path / "out.json", *kinds)
    assert list(report) == list(kinds)
    for kind, values in report.items():
        assert values.pop("cut") > 0.15, kind
        assert values.pop("split width") == 200
        assert values.pop("weights") == values.pop("other words") == 0, kind
        assert max(values.values()) < 1e-5, (kind, values)


def test_two_processes_hold_one_model(tmp_path: Path) -> None:
    check(tmp_path, *QUICK)


@pytest.mark.slow
def test_two_processes_hold_models_of_other_families(tmp_path: Path) -> None:
    check(tmp_path, *OTHERS)


def test_what_is_spread_is_let_go() -> None:
    tensor = torch.ones(4, requires_grad=True) * 2
    group = imagine_group(2)
    one, two = spread(tensor, group), spread(tensor, group)
    assert one is two
    (one + two).sum().backward()
    seen = weakref.ref(one)
    del tensor, one, two
    gc.collect()
    assert seen() is None
