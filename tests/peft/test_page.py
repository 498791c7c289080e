"""Every block of docs/peft.md runs, in order, and shows what the text says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from swift import peft
from tests.documents import ROOT, blocks
from tests.tiny import save_tiny, tiny_model

PAGE = (ROOT / "docs" / "peft.md").read_text(encoding="utf-8")


def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny("my-model", "llama")
    scope: dict[str, Any] = {}
    for block in blocks(PAGE):
        exec(compile(block.text, f"docs/peft.md:{block.line}", "exec"), scope)
    assert {path.name for path in Path("lora_path").iterdir()} == {"lora_model_state.pdparams", "lora_config.json"}
    assert {path.name for path in Path("prefix_path").iterdir()} == {
        "prefix_model_state.pdparams", "prefix_config.json", "pre_caches.npy"
    }  # fmt: skip
    torch.testing.assert_close(scope["logits"], scope["model"](input_ids=scope["ids"]).logits)
    assert len(peft.LoRAModel(tiny_model("gpt2"), scope["fused"]).layers()) == 2


def test_every_public_name_is_in_the_page() -> None:
    short = {name.replace("_postprocess_past_key_value", "_…") for name in peft.__all__}
    assert {name for name in short if name not in PAGE} <= {"llama_…", "chatglm_pad_attention_mask"}
