"""One process of a group that trains together: `two.py OUT LABEL ROWS BATCH [RESUME [METHOD]]`; writes weights and losses to OUT."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import save_file

from swift import dist
from swift.trainers import GaLoreConfig
from tests.tiny import tiny_model
from tests.trainers.rows import VOCAB, Rows, lora, losses, trainer_of, weights

METHODS: dict[str, dict[str, Any]] = {
    "galore": {"galore_config": GaLoreConfig(rank=4, update_proj_gap=2)},
    "lisa": {"lisa_activated_layers": 1, "lisa_step_interval": 2},
}
ORDERS: dict[str, dict[str, Any]] = {
    "grouped": {"train_sampling_strategy": "group_by_length"},
    "tokens": {"max_tokens_per_batch": 20},
}


def main(out: str, label: str, rows: str, batch: str, resume: str = "", method: str = "") -> None:
    model = tiny_model(vocab_size=VOCAB, hidden=32, layers=3) if method in METHODS else lora()
    trainer = trainer_of(
        model,
        Path(out) / label,
        train=Rows(int(rows)),
        val=Rows(7, seed=5),
        per_device_train_batch_size=int(batch),
        per_device_eval_batch_size=2,
        max_steps=-1,
        num_train_epochs=2,
        learning_rate=1e-3,
        gradient_accumulation_steps=8 // int(batch) // dist.world_size(),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=None,
        **(METHODS | ORDERS).get(method, {}),
    )
    trainer.train(resume_from_checkpoint=resume or None)
    if dist.is_main():
        evaluations = [[e["eval_loss"], e["eval_acc"]] for e in trainer.state.log_history if "eval_loss" in e]
        accuracies = [e["acc"] for e in trainer.state.log_history if "acc" in e]
        report = {"losses": losses(trainer), "evaluations": evaluations, "accuracies": accuracies}
        save_file({k: v.contiguous() for k, v in weights(model).items()}, Path(out) / f"{label}.safetensors")
        (Path(out) / f"{label}.json").write_text(json.dumps(report))
    if dist.world_size() > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # as `swift.cli` ends: in the interpreter's teardown gloo's threads may hang
