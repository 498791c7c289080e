"""Rows for every kind of head, and runs on them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swift.commands.rlhf import rlhf_main
from swift.commands.sft import sft_main
from tests.road.conftest import write_jsonl

WORDS = "one two three four five six seven eight nine ten what is the capital of France".split()
GOOD, BAD = ("fine", "thank you", "friend"), ("assistant", "instruction", "output")


def phrase(draw: random.Random, *own: str) -> str:
    words = draw.choices(WORDS, k=draw.randint(1, 9))
    for word in own:
        words.insert(draw.randint(0, len(words)), word)
    return " ".join(words)


def rows_of(kind: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    draw, found = random.Random(seed), []
    for k in range(count):
        good = draw.random() < 0.5
        if kind == "names":
            found.append(
                {"text": phrase(draw, draw.choice(GOOD if good else BAD)), "label": "kind" if good else "cold"}
            )
        elif kind == "numbers":
            found.append({"query": phrase(draw), "label": [k % 5 / 4, -1.0]})
        elif kind == "sets":
            found.append({"query": phrase(draw), "response": phrase(draw), "label": [0, 2][: k % 3]})
        elif kind == "pairs":
            words = phrase(draw)
            worse = phrase(draw, draw.choice(BAD))
            found.append(
                {"query": words, "response": phrase(draw, GOOD[k % 3]), "rejected_response": worse, "margin": 0.1}
            )
        elif kind == "search":
            asks = phrase(draw)
            negatives = [phrase(draw) for _ in range(k % 3 + 1)]
            found.append({"query": asks, "pos": [f"{asks} {GOOD[k % 3]}", asks][: k % 2 + 1], "neg": negatives})
        else:
            found.append({"sentence1": phrase(draw), "sentence2": phrase(draw), "label": k % 3 / 2})
    return found


KINDS: dict[str, dict[str, Any]] = {
    "names": {"task_type": "seq_cls", "num_labels": 2},
    "numbers": {"task_type": "seq_cls", "num_labels": 2, "problem_type": "regression"},
    "sets": {"task_type": "seq_cls", "num_labels": 3, "problem_type": "multi_label_classification"},
    "search": {"task_type": "embedding"},
    "alike": {"task_type": "embedding", "loss_name": "cosine_similarity", "pooling": "mean"},
    "rerank": {"task_type": "reranker"},
    "listwise": {"task_type": "reranker", "loss_name": "listwise"},
    "pairs": {"rlhf_type": "rm"},
}
DATA = {"rerank": "search", "listwise": "search"}
Train = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def train(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """`train(kind, **said)`: a run in a directory of its own."""
    place, numbers = tmp_path_factory.mktemp("heads"), itertools.count()

    def run(kind: str, rows: int = 24, **said: Any) -> dict[str, Any]:
        data = place / f"{kind}-{rows}.jsonl"
        if not data.exists():
            write_jsonl(data, rows_of(DATA.get(kind, kind), rows))
        options = {
            "model_id_or_path": str(tiny_dir), "dataset": [str(data)], "output_dir": str(place / f"run-{next(numbers)}"),
            "add_output_dir_suffix": False, "max_steps": 4, "batch_size": 4, "gradient_accumulation_steps": 1,
            "eval_steps": 2, "save_total_limit": -1, "logging_steps": 1, "report_to": ["none"], "learning_rate": 1e-3,
            "lora_dropout_p": 0.0, **KINDS[kind], **said,
        }  # fmt: skip
        main = rlhf_main if kind == "pairs" else sft_main
        return {**main([], **options), "output_dir": options["output_dir"], "data": str(data)}

    return run


def weights(report: dict[str, Any], step: int) -> dict[str, torch.Tensor]:
    """The tensors that a checkpoint of a run has."""
    (file,) = (Path(report["output_dir"]) / f"checkpoint-{step}").glob("*model.safetensors")
    return load_file(file)


def logged(report: dict[str, Any], name: str = "loss") -> list[float]:
    return [line[name] for line in report["log_history"] if name in line]
