"""Whatever LoRA is: saved and loaded it gives the same numbers, and merged it gives what it gave."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.tuners import LoraConfig, Swift
from tests.tuners.cases import HOSTS, run, stir

LM = HOSTS["lm"]
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONFIGS = st.fixed_dictionaries(
    {
        "r": st.integers(1, 12),
        "lora_alpha": st.integers(1, 64),
        "target_modules": st.lists(st.sampled_from(LAYERS), min_size=1, unique=True),
        "use_rslora": st.booleans(),
        "use_dora": st.booleans(),
        "bias": st.sampled_from(["none", "all", "lora_only"]),
    }
)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(CONFIGS, DTYPES, st.booleans(), st.booleans())
def test_it_comes_back_and_can_be_merged(config: dict, dtype: torch.dtype, named: bool, safe: bool) -> None:
    lora = LoraConfig(**config)
    model = Swift.prepare_model(LM.make().to(dtype), {"one": lora} if named else lora)
    stir(model)
    before = run(model, LM)
    assert not torch.equal(before, run(LM.make().to(dtype), LM))
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place, safe_serialization=safe)
        loaded = Swift.from_pretrained(LM.make().to(dtype), Path(place)).eval()
        assert torch.equal(run(loaded, LM), before)
        whole = Swift.from_pretrained(LM.make().float(), Path(place), allow_other_base=dtype != torch.float32).eval()
    tuned = run(whole, LM)
    Swift.merge_and_unload(whole)
    assert (run(whole, LM) - tuned).abs().max() <= 1e-4 * max(1, tuned.abs().max())
