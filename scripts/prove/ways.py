"""K5 through the command: whatever trains, and however rows come, a run that goes on is the one that never stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from scripts.prove.resume import same_log
from scripts.prove.runs import finished, place
from swift.commands.sft import sft_main
from tests.road.conftest import conversations, write_jsonl
from tests.tiny import save_tiny

COMMON = [
    "--model_id_or_path", "my-model", "--batch_size", "2", "--gradient_accumulation_steps", "2",
    "--max_steps", "6", "--save_steps", "3", "--eval_steps", "3", "--dataset_test_ratio", "0.1",
    "--save_total_limit", "-1", "--add_output_dir_suffix", "false", "--logging_steps", "1", "--lora_dropout_p", "0.2",
    "--learning_rate", "1e-2",
]  # fmt: skip
CHAT = ["--dataset", "chat.jsonl"]
FULL, PACKED = ["--sft_type", "full"], ["--packing", "true", "--max_length", "128"]
LISA = [*FULL, *"--lisa_activated_layers 1 --lisa_step_interval 2".split()]
GALORE = [*FULL, *"--use_galore true --galore_rank 4 --galore_update_proj_gap 2".split()]
ADALORA = "--sft_type adalora --adalora_init_r 6 --adalora_target_r 2 --adalora_tinit 1 --adalora_tfinal 1".split()
MIXED = (
    "--dataset self-cognition#20 --interleave true --interleave_prob 0.5 0.5 --model_name a --model_author b".split()
)
STREAM = "--streaming true --streaming_val_size 5 --dataset_test_ratio 0".split()
WAYS = {
    "LoRA+": ["--lora_lr_ratio", "4"],
    "AdaLoRA": ADALORA,
    "LISA": LISA,
    "GaLore": GALORE,
    "two tuners": "--tuner lora:rank=4 --tuner adapter:length=8".split(),
    "NEFTune": "--neftune_noise_alpha 5".split(),
    "packing": PACKED,
    "no padding": ["--padding_free", "true"],
    "lazy": ["--lazy_tokenize", "true"],
    "random order": ["--group_by_length", "false"],
    "mixing": MIXED,
    "streaming": STREAM,
    "weighed": ["--loss_scale", "last_round"],
    "packed LoRA+": ["--lora_lr_ratio", "4", *PACKED],
    "packed LISA": [*LISA, *PACKED],
    "packed GaLore": [*GALORE, *PACKED],
    "packed AdaLoRA": [*ADALORA, *PACKED],
    "packed stream": [*STREAM, *PACKED],
    "lazy, without padding": ["--lazy_tokenize", "true", "--padding_free", "true"],
    "mixed stream": [*MIXED, *STREAM],
    "mixed stream, AdaLoRA": [*MIXED, *STREAM, *ADALORA],
    "mixed, packed": [*MIXED, *PACKED],
}


def train(way: str) -> None:
    """A run from its beginning, and one that goes on from its middle, in the directory at hand."""
    said = [*COMMON, *CHAT, *WAYS[way]]
    sft_main([*said, "--output_dir", "straight"])
    sft_main([*said, "--output_dir", "on", "--resume_from_checkpoint", "straight/checkpoint-3"])


def unlike(here: Path) -> list[str]:
    """The files of the last checkpoints that are not the same."""
    first, second = (here / name / "checkpoint-6" for name in ("straight", "on"))
    names = [path.relative_to(first) for path in first.rglob("*") if path.suffix in (".safetensors", ".pt", ".pth")]
    if len(names) < 4:
        return ["too few files"]
    return [str(name) for name in names if not same(first / name, second / name)]


def same(first: Path, second: Path) -> bool:
    """Whether two files hold the same; one of a state may have it in another order."""
    if not second.is_file():
        return False
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


def go_on(few: bool = False) -> tuple[int, int]:
    """In how many ways weights, states and losses are equal."""
    chosen = list(WAYS)[:: 4 if few else 1]
    return sum(map(_goes_on, chosen)), len(chosen)


def _goes_on(way: str) -> bool:
    with place() as here:
        save_tiny(here / "my-model")
        write_jsonl(here / "chat.jsonl", conversations(40))

        def work() -> None:
            os.chdir(here)
            train(way)

        ends = [here / name / "checkpoint-6" for name in ("straight", "on")]
        return finished(work) and not unlike(here) and same_log(*ends)
