"""The bench for GPUs: where there is none it says so, and what it would run are options that there are."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from scripts.bench import gpu
from swift.arguments.reading import read_arguments
from swift.arguments.sft import SftArguments
from swift.decide import decide_sft
from swift.dist import Hardware
from swift.models import kernels
from swift.models.source import find_model


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="there is no CUDA GPU here") as caught:
        gpu.main()
    assert "\n" not in str(caught.value)


def test_a_row_is_made_of_options_that_go_together(tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: True)  # Triton is there, as beside a GPU
    source, on_gpu = find_model(None, str(tiny_dir)), Hardware("cuda", bf16=True)
    for row in gpu.SWITCHES:
        said = {"dataset": "x.jsonl", "dtype": "bf16", **gpu.options_of(row)}
        read = read_arguments(SftArguments, [word for name, value in said.items() for word in (f"--{name}", value)])
        decided = vars(decide_sft(read, on_gpu, source))
        shown = {name: decided[name][0] if isinstance(decided[name], list) else decided[name] for name in said}
        assert {name: str(value).lower() for name, value in shown.items()} == {k: v.lower() for k, v in said.items()}


def test_each_row_changes_something() -> None:
    rows = [gpu.options_of(row) for row in gpu.SWITCHES]
    assert all(before != after for before, after in pairwise(rows))
    assert rows[-1]["sft_type"] == "lora"


def test_a_row_without_figures_says_why() -> None:
    found = {"baseline": {"speed": 1000.0, "gib": 20.04, "flops": 2e14}, "+ packing": "out of memory",
             "LoRA": {"speed": 3000.0, "gib": 8.0, "flops": 4e14}}  # fmt: skip
    assert gpu.table(found, 1e15)[2:] == [
        "| baseline | 1,000 | 1.00 | 20.0 | 20 % |",
        "| + packing | out of memory | | | |",
        "| LoRA | 3,000 | 3.00 | 8.0 | 40 % |",
    ]


def test_the_weights_of_a_token_are_counted() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    small = {**gpu.SHAPE, "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 128}
    config = Qwen2Config(**small)
    matrices = sum(p.numel() for p in Qwen2ForCausalLM(config).parameters() if p.ndim == 2)
    assert gpu.weights_of(config) == matrices  # the head is the embedding, and counted once
