"""The two small models that come with the package; see `swift/demo/README.md`."""

from __future__ import annotations

from pathlib import Path

from swift.models import MODELS, ModelRecord

HERE = Path(__file__).parents[2] / "demo"
SHAPE = {"targets": ("q_proj", "k_proj", "v_proj"), "arch": "Qwen2ForCausalLM", "family": "demo"}

MODELS.add(
    ModelRecord("demo-base", "default-generation", path=str(HERE / "demo-base"), **SHAPE, eos_token="<|endoftext|>"),
    ModelRecord("demo-chat", "chatml", path=str(HERE / "demo-chat"), **SHAPE, eos_token="<|im_end|>"),
)
