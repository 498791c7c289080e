"""AdaLoRA among others: several that are frozen, one that trains, and files from before a count was left out."""

from __future__ import annotations

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from swift.errors import ConfigError
from swift.tuners import Swift
from tests.tuners.cases import HOSTS, run, stir

LM = HOSTS["lm"]


def adalora(**options) -> peft.AdaLoraConfig:
    return peft.AdaLoraConfig(init_r=4, total_step=10, target_modules=["q_proj", "v_proj"], **options)


def saved(folder, seed: int):
    """A checkpoint with one AdaLoRA, and what its model gives."""
    model = Swift.prepare_model(LM.make(), {"one": adalora()})
    stir(model, seed)
    model.save_pretrained(folder, safe_serialization=True)
    return run(model, LM)


def test_two_frozen_ones_run_beside_each_other_and_beside_one_that_trains(tmp_path):
    outputs = {name: saved(tmp_path / name, seed) for seed, name in enumerate("ab")}
    model = LM.make()
    for name in outputs:
        model = Swift.from_pretrained(model, tmp_path / name, {"one": name})
    for name, expected in outputs.items():
        model.set_active_adapters(name)
        assert torch.equal(run(model, LM), expected)
    model.set_active_adapters(["a", "b"])
    both = run(model, LM)
    assert not torch.allclose(both, outputs["a"])
    model.save_pretrained(tmp_path / "both")
    assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path / "both"), LM), both)
    model = Swift.prepare_model(model, {"c": adalora()})
    assert torch.equal(run(model, LM), both)
    assert all(".c" in key for key, parameter in model.named_parameters() if parameter.requires_grad)
    with pytest.raises(ConfigError, match="1 trainable"):
        Swift.prepare_model(model, {"d": adalora()})
    Swift.merge_and_unload(model, ["a", "b", "c"])
    torch.testing.assert_close(run(model, LM), both, atol=1e-5, rtol=0)


@pytest.mark.parametrize("safe", [True, False])
def test_a_file_that_still_has_the_count_of_ranks_loads(safe, tmp_path):
    expected = saved(tmp_path, 1)
    file = tmp_path / "one" / "adapter_model.safetensors"
    tensors = load_file(file)
    counts = {key.replace("lora_A", "ranknum"): torch.tensor(4.0) for key in tensors if "lora_A" in key}
    assert counts
    file.unlink()
    if safe:
        save_file(tensors | counts, file)
    else:
        torch.save(tensors | counts, file.with_name("adapter_model.bin"))
    assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path), LM), expected)
