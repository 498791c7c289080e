"""Every tuner on the road: it trains, is saved, answers from its checkpoint, and goes on from it as if never stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from safetensors.torch import load_file

from swift.commands.infer import infer_main
from swift.commands.merge import merge_lora
from swift.commands.sft import sft_main
from swift.errors import DataError
from swift.tuners.methods import available_sft_types
from tests.road.test_road import run_here

COMMON = [
    "--model_id_or_path", "my-model", "--dataset", "chat.jsonl", "--max_steps", "3", "--batch_size", "2", "--eval_steps", "1",
    "--gradient_accumulation_steps", "1", "--dataset_test_ratio", "0.1", "--learning_rate", "1e-2", "--logging_steps", "1",
    "--add_output_dir_suffix", "false", "--save_total_limit", "-1", "--report_to", "none",
]  # fmt: skip
NEEDED = {
    "ia3": ["--ia3_feedforward_modules", "down_proj"],
    "fourierft": ["--fourier_n_frequency", "50"],
    "llamapro": ["--llamapro_num_new_blocks", "1"],
}
VARIANTS = {
    "several": ["--tuner", "lora:rank=4,targets=ALL", "--tuner", "adapter:length=16"],
    "several of PEFT's": ["--tuner", "lora", "--tuner", "ia3:feedforward_modules=down_proj", "--tuner", "lora:rank=2"],
    "fused": ["--tuner", "lora:name=f,targets=[gate_proj],use_merged_linear=true,enable_lora=[true,false]"],
    "neftune": ["--neftune_noise_alpha", "5"],
    "neftune beside LoRA": ["--neftune_noise_alpha", "5", "--neftune_backend", "swift"],
    "adalora in folders": ["--sft_type", "adalora", "--tuner_backend", "swift"],
    "projected prefix": ["--sft_type", "prefix_tuning", "--prefix_projection", "true"],
    "pissa": ["--init_lora_weights", "pissa"],
    "olora": ["--init_lora_weights", "olora"],
    "dora, rslora, LoRA+": ["--use_dora", "--use_rslora", "--lora_lr_ratio", "16"],
    "galore": ["--sft_type", "full", "--use_galore", "--galore_rank", "4"],
    "lisa": ["--sft_type", "full", "--lisa_activated_layers", "1", "--lisa_step_interval", "1"],
}
QUICK = ("adalora", "ia3", "several", "neftune beside LoRA")


def rows() -> list[ParameterSet]:
    types = {name: ["--sft_type", name, *NEEDED.get(name, [])] for name in available_sft_types()}
    return [
        pytest.param(said, id=name, marks=[] if name in QUICK else [pytest.mark.slow])
        for name, said in {**types, **VARIANTS}.items()
    ]


def losses(report: dict[str, Any]) -> list[tuple[int, float]]:
    keys = ("loss", "eval_loss")
    return [(line["step"], line[key]) for line in report["log_history"] for key in keys if key in line]


@pytest.mark.parametrize("said", rows())
def test_a_tuner(said: list[str], here: Path) -> None:
    report = sft_main([*COMMON, *said, "--output_dir", "whole"])
    first, last = losses(report)[1][1], losses(report)[-1][1]
    assert last < first, "nothing was learnt"
    checkpoint = Path(report["last_model_checkpoint"])
    query = ["--query", "hi", "--max_new_tokens", "4", "--save_result", "false"]
    assert infer_main(["--ckpt_dir", str(checkpoint), *query])["result"]
    stopped = str(here / "whole" / "checkpoint-2")
    resumed = sft_main([*COMMON, *said, "--output_dir", "parts", "--resume_from_checkpoint", stopped])
    assert losses(resumed) == losses(report)
    again = Path(resumed["last_model_checkpoint"])
    for file in checkpoint.rglob("*.safetensors"):
        one, other = load_file(file), load_file(again / file.relative_to(checkpoint))
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items()), file


def test_several_are_merged_as_far_as_they_can_be(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = ["--tuner", "lora:rank=4,targets=ALL", "--tuner", "adapter:length=16", "--output_dir", "out"]
    checkpoint = Path(sft_main([*COMMON, *said])["last_model_checkpoint"])
    assert {path.name for path in checkpoint.iterdir() if path.is_dir()} == {"lora", "adapter"}
    ask = [
        "--query",
        "What is the capital?",
        "--max_new_tokens",
        "12",
        "--do_sample",
        "false",
        "--save_result",
        "false",
    ]
    before = infer_main(["--ckpt_dir", str(checkpoint), *ask])["result"][0]["response"]
    assert run_here(["merge-lora", "--ckpt_dir", str(checkpoint)]) == 0
    merged, rest = (checkpoint.with_name(f"checkpoint-3-merged{end}") for end in ("", "-tuners"))
    assert not [key for key in load_file(merged / "model.safetensors") if "lora" in key or "adapter" in key]
    assert [path.name for path in rest.iterdir() if path.is_dir()] == ["adapter"]
    assert json.loads((rest / "sft_args.json").read_text())["model_id_or_path"] == str(merged)
    assert infer_main(["--ckpt_dir", str(rest), *ask])["result"][0]["response"] == before
    assert infer_main(["--ckpt_dir", str(merged), *ask])["result"][0]["query"] == "What is the capital?"
    assert run_here(["export", "--ckpt_dir", str(checkpoint), "--to_peft_format", "true"]) != 0


@pytest.mark.parametrize("sft_type", ["adapter", "prompt_tuning"])
def test_what_no_weights_can_hold_is_not_merged(sft_type: str, here: Path) -> None:
    report = sft_main([*COMMON, "--sft_type", sft_type, "--output_dir", "out"])
    with pytest.raises(DataError, match="cannot be merged"):
        merge_lora(read(report["last_model_checkpoint"]))


def read(checkpoint: str) -> Any:
    from swift.arguments.infer import InferArguments

    return InferArguments(ckpt_dir=checkpoint)


@pytest.mark.slow
def test_noise_leaves_nothing_in_the_file(here: Path) -> None:
    common = [*COMMON, "--lora_target_modules", "ALL", "--max_steps", "1"]
    plain = sft_main([*common, "--output_dir", "plain"])["last_model_checkpoint"]
    keys = load_file(Path(plain) / "adapter_model.safetensors").keys()
    for backend, folder in (("transformers", "."), ("swift", "default")):
        noise = ["--neftune_noise_alpha", "5", "--neftune_backend", backend, "--output_dir", backend]
        saved = Path(sft_main([*common, *noise])["last_model_checkpoint"])
        assert len(load_file(saved / folder / "adapter_model.safetensors")) == len(keys)
        weights = {file.parent for file in saved.rglob("adapter_model.*") if load_file(file)}
        assert weights == {saved / folder}


@pytest.mark.parametrize("said", [["--sft_type", "p_tuning"], ["--sft_type", "prefix_tuning", "--prefix_projection"]])
def test_virtual_tokens_are_trained_further(said: list[str], here: Path) -> None:
    report = sft_main([*COMMON, *said, "--output_dir", "out"])
    checkpoint = Path(report["last_model_checkpoint"])
    more = [
        *COMMON,
        *said,
        "--resume_from_checkpoint",
        str(checkpoint),
        "--resume_only_model",
        "--learning_rate",
        "1e-9",
    ]
    before, after = losses(report)[-1][1], losses(sft_main([*more, "--output_dir", "more"]))[-1][1]
    assert after == pytest.approx(before, abs=1e-4)
    (checkpoint / "prompt_encoder.safetensors").unlink()
    with pytest.raises(DataError):
        sft_main([*more, "--output_dir", "third"])


def test_a_shape_that_does_not_fit_is_told(here: Path) -> None:
    assert run_here(["sft", *COMMON, "--sft_type", "fourierft", "--fourier_n_frequency", "100000"]) == 78
