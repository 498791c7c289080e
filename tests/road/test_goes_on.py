"""Whatever trains, and however rows come: a run that goes on is the one that never stopped, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from swift.commands.sft import sft_main
from swift.errors import ConfigError

COMMON = [
    "--model_id_or_path", "my-model", "--batch_size", "2", "--gradient_accumulation_steps", "2",
    "--max_steps", "6", "--save_steps", "3", "--eval_steps", "3", "--dataset_test_ratio", "0.1", "--save_total_limit", "-1",
    "--add_output_dir_suffix", "false", "--logging_steps", "1", "--lora_dropout_p", "0.2", "--learning_rate", "1e-2",
]  # fmt: skip
CHAT = ["--dataset", "chat.jsonl"]
QUICK = ("AdaLoRA", "packing")
WAYS = {
    "LoRA+": ["--lora_lr_ratio", "4"],
    "AdaLoRA": "--sft_type adalora --adalora_init_r 6 --adalora_target_r 2 --adalora_tinit 1 --adalora_tfinal 1".split(),
    "LISA": "--sft_type full --lisa_activated_layers 1 --lisa_step_interval 2".split(),
    "GaLore": "--sft_type full --use_galore true --galore_rank 4 --galore_update_proj_gap 2".split(),
    "two tuners": "--tuner lora:rank=4 --tuner adapter:length=8".split(),
    "NEFTune": "--neftune_noise_alpha 5".split(),
    "packing": ["--packing", "true", "--max_length", "128"],
    "lazy": ["--lazy_tokenize", "true"],
    "like lengths": ["--training_options", '{"train_sampling_strategy": "group_by_length"}'],
    "mixing": "--dataset self-cognition#20 --interleave true --interleave_prob 0.5 0.5 --model_name a --model_author b".split(),
    "streaming": "--streaming true --streaming_val_size 5 --dataset_test_ratio 0".split(),
    "weighed": ["--loss_scale", "last_round"],
}


def same(first: Path, second: Path) -> bool:
    """Whether two files hold the same; one of a state may have it in another order."""
    if first.read_bytes() == second.read_bytes():
        return True
    return first.suffix != ".safetensors" and equal(*(torch.load(path, weights_only=True) for path in (first, second)))


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


@pytest.mark.parametrize("way", [pytest.param(way, marks=() if way in QUICK else pytest.mark.slow) for way in WAYS])
def test_going_on_is_never_having_stopped(way: str, here: Path) -> None:
    straight = sft_main([*COMMON, *CHAT, *WAYS[way], "--output_dir", "straight"])
    again = sft_main(
        [*COMMON, *CHAT, *WAYS[way], "--output_dir", "on", "--resume_from_checkpoint", "straight/checkpoint-3"]
    )  # fmt: skip
    first, second = (here / name / "checkpoint-6" for name in ("straight", "on"))
    names = [path.relative_to(first) for path in first.rglob("*") if path.suffix in (".safetensors", ".pt", ".pth")]
    assert len(names) >= 4
    assert [str(name) for name in names if not same(first / name, second / name)] == []
    losses = [[line["loss"] for line in report["log_history"] if "loss" in line] for report in (straight, again)]
    assert losses[0] == losses[1]


def test_other_rows_of_the_same_number_are_refused(here: Path) -> None:
    sft_main([*COMMON, *CHAT, "--output_dir", "straight"])
    (here / "other.jsonl").write_text((here / "chat.jsonl").read_text().replace("Paris", "Lyon!"))
    on = ["--output_dir", "on", "--resume_from_checkpoint", "straight/checkpoint-3"]
    with pytest.raises(ConfigError, match=r"data was [0-9a-f]{12}…, is [0-9a-f]{12}…") as caught:
        sft_main([*COMMON, *on, "--dataset", "other.jsonl", "--lora_alpha", "64", "--learning_rate", "1e-3"])
    assert "rows was" not in str(caught.value)
    assert "learning_rate was 0.01, is 0.001" in str(caught.value)
    assert "lora_alpha was 32, is 64" in str(caught.value)
    assert caught.value.exit_code == 78
