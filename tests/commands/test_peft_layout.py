"""`swift export --to_peft_format`: what plain PEFT reads of checkpoints with a folder per tuner, ours and ms-swift's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from swift import checkpoint, storage
from swift.commands.export import export_main
from swift.errors import DataError, OutputError
from swift.llm import ExportArguments
from swift.tuners import Swift

IDS = torch.arange(20)[None]
TARGETS = ("q_proj", "v_proj")
# What ms-swift 2.x with PEFT 0.12 writes beside the tensors.
CONFIG: dict[str, Any] = {
    "alpha_pattern": {}, "auto_mapping": None, "bias": "none", "enable_lora": None, "fan_in_fan_out": False,
    "group_size": None, "inference_mode": True, "init_lora_weights": True, "layer_replication": None,
    "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 32, "lora_dropout": 0.05,
    "lora_dtype": None, "lorap_emb_lr": 1e-06, "lorap_lr_ratio": None, "megatron_config": None,
    "megatron_core": "megatron.core", "model_key_mapping": None, "modules_to_save": [], "peft_type": "LORA", "r": 4,
    "rank_pattern": {}, "revision": None, "swift_type": "LORA", "target_modules": list(TARGETS), "task_type": None,
    "use_dora": False, "use_merged_linear": False, "use_qa_lora": False, "use_rslora": False,
}  # fmt: skip


def written(directory: Path, base: Path, infix: str, safe: bool) -> dict[str, torch.Tensor]:
    """Write a checkpoint as ms-swift 2.x does; return what it adds to the base's weights."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    added = {}
    for name, weight in AutoModelForCausalLM.from_pretrained(base).named_parameters():
        path = name.removesuffix(".weight")
        if path.endswith(TARGETS) and name.endswith(".weight"):
            out, into = weight.shape
            first, second = (torch.randn(shape, generator=generator) * 0.1 for shape in ((4, into), (out, 4)))
            tensors |= {f"{path}.lora_A{infix}.weight": first, f"{path}.lora_B{infix}.weight": second}
            added[name] = 32 / 4 * second @ first
    folder = directory / "default"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, "base_model_name_or_path": str(base)}))
    if safe:
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(tensors, folder / "adapter_model.bin")
    (directory / "sft_args.json").write_text(json.dumps({"sft_type": "lora", "tuner_backend": "swift"}))
    (directory / "configuration.json").write_text(json.dumps({"adapter_cfg": {"model_id_or_path": str(base)}}))
    return added


@torch.inference_mode()
def says(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits


@pytest.mark.parametrize(("infix", "safe"), [(".default", True), ("", False)])
def test_peft_reads_what_ms_swift_wrote(infix: str, safe: bool, tiny_dir: Path, tmp_path: Path) -> None:
    added = written(tmp_path / "checkpoint-10", tiny_dir, infix, safe)
    (tmp_path / "checkpoint-10" / "notes.txt").write_text("mine")
    for _ in range(2):
        export_main(ExportArguments(to_peft_format=True, ckpt_dir=str(tmp_path / "checkpoint-10")))
    output = tmp_path / "checkpoint-10-peft"
    assert not storage.verify(output)
    assert not (output / "notes.txt").exists()  # what a manifest lists may be published
    wanted = AutoModelForCausalLM.from_pretrained(tiny_dir)
    before = says(wanted)
    for name, parameter in wanted.named_parameters():
        parameter.data += added.get(name, 0)
    read = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_dir), output)
    torch.testing.assert_close(says(read), says(wanted), rtol=1e-4, atol=1e-5)
    assert (says(read) - before).abs().max() > 1e-2
    again = Swift.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_dir), str(output))
    torch.testing.assert_close(says(again), says(read))


def test_a_checkpoint_of_ours_stays_a_whole_one(tiny_dir: Path, tmp_path: Path) -> None:
    ours = tmp_path / "checkpoint-4"
    with storage.staged_directory(ours, {"step": 4}) as stage:
        written(stage, tiny_dir, "", True)
    export_main(ExportArguments(to_peft_format=True, ckpt_dir=str(ours)))
    output = tmp_path / "checkpoint-4-peft"
    checkpoint.check_weights(output)
    assert storage.read_manifest(output)["step"] == 4
    assert not (output / "default").exists()
    (output / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged"):
        checkpoint.check_weights(output)
    Swift.save_to_peft_format(ours, ours)  # in place, by the library
    checkpoint.check_weights(ours)
    (output / "notes.bin").write_bytes(b"mine")
    with pytest.raises(OutputError, match="is not replaced"):
        export_main(ExportArguments(to_peft_format=True, ckpt_dir=str(ours)))
