"""Rows that are asked, and runs on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator

from swift import watch
from swift.commands.rlhf import rlhf_main
from tests.preference.conftest import WORDS, weights_of

REWARDS = '''
"""Rewards that an untrained model has some of."""


def vowels(completions):
    return [sum(letter in "aeiou" for letter in text) / (len(text) + 1) for text in completions]


def odd(completion_ids, level):
    return [None if each is None else float(len(ids) % 2 == each) for ids, each in zip(completion_ids, level)]
'''


def row(k: int) -> dict[str, Any]:
    """A row of which questions have many lengths."""
    return {"query": f"how are you {' '.join(WORDS[: k % 4])} {k}?", "solution": WORDS[k % 7], "level": k % 2}


Run = Callable[..., dict[str, Any]]


@contextmanager
def heard() -> Iterator[list[str]]:
    """What a run says to the process that started it, `on` or `paused`, and when its processes wait for each other."""
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "beat", lambda env, step, limit: found.append("paused" if limit is None else "on"))
        patch.setattr(watch, "patience", lambda said, median: 60.0)
        patch.setattr(Accelerator, "wait_for_everyone", lambda self: found.append("wait"))
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("rows")
    (place / "rows.jsonl").write_text("".join(json.dumps(row(k)) + "\n" for k in range(14)), encoding="utf-8")
    (place / "tiny_rewards.py").write_text(REWARDS, encoding="utf-8")
    return {"rows": str(place / "rows.jsonl"), "rewards": str(place / "tiny_rewards.py")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path, files: dict[str, str]) -> Run:
    """Trains on rewards, and gives the report with weights and place."""
    place = tmp_path_factory.mktemp("runs")
    count = iter(range(1000))

    def train(rlhf_type: str = "grpo", **said: Any) -> dict[str, Any]:
        options = {
            "model_id_or_path": str(tiny_dir), "dataset": [files["rows"]], "template_type": "auto",
            "output_dir": str(place / str(next(count))), "add_output_dir_suffix": False, "max_steps": 2,
            "batch_size": 4, "gradient_accumulation_steps": 1, "logging_steps": 1, "evaluation_strategy": "no",
            "save_steps": 100, "optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant",
            "warmup_ratio": 0.0, "disable_tqdm": True, "report_to": "none", "lora_rank": 4, "lora_dropout_p": 0.0,
            "max_grad_norm": 0.0, "weight_decay": 0.0, "max_new_tokens": 8, "num_generations": 4,
            "reward_funcs": [f"{files['rewards']}:vowels", f"{files['rewards']}:odd"], "reward_weights": [3.0, 0.5],
        }  # fmt: skip
        report = rlhf_main([], **{**options, "rlhf_type": rlhf_type, **said})
        report["place"] = Path(said.get("output_dir", options["output_dir"]))
        report["weights"] = weights_of(report["last_model_checkpoint"])
        report["lines"] = [line for line in report["log_history"] if "loss" in line]
        report["losses"] = [line["loss"] for line in report["lines"]]
        return report

    return train
