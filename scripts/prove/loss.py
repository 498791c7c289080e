"""One loss: however an optimiser step is cut into processes and batches, it is the same step."""

from __future__ import annotations

import itertools
import json
import os
import socket
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from scripts.prove.runs import Rows, collate, fork, full, lora, place, trainer_of
from scripts.prove.runs import ended as end_of

TOGETHER = 8
TOLERANCE = 1e-6
LOSSES: dict[str, dict[str, Any]] = {"plain": {}, "loss-scale": {}, "smoothing": {"label_smoothing_factor": 0.1}}


class Weighed(Rows):
    """Rows whose tokens weigh 0, 1, 2 or 3."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = super().__getitem__(index)
        scale = [float((token + index) % 4) if label >= 0 else 0.0 for token, label in zip(*row.values(), strict=True)]
        scale[-1] = 1.0
        return {**row, "loss_scale": scale}


def collate_weighed(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    batch = collate(rows)
    width = batch["labels"].shape[1]
    scale = [row["loss_scale"] + [0.0] * (width - len(row["loss_scale"])) for row in rows]
    return {**batch, "loss_scale": torch.tensor(scale)}


def train(out: Path, engine: str, model: str, loss: str, accumulation: int) -> None:
    """One epoch with plain gradient descent, whose weights show every gradient; a process of the group it is in."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    run = trainer_of(
        engine,
        out / "run",
        model=lora(dropout=0.0) if model == "lora" else full_without_dropout(),
        train=Weighed(21) if loss == "loss-scale" else Rows(21),
        per_device_train_batch_size=TOGETHER // accumulation // world,
        gradient_accumulation_steps=accumulation,
        max_steps=-1,
        num_train_epochs=1,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0,
        save_strategy="no",
        ddp_find_unused_parameters=False,
        **LOSSES[loss],
    )
    if loss == "loss-scale":
        run.data_collator = collate_weighed
    run.train()
    if int(os.environ.get("RANK", "0")) == 0:
        named = {name: p.detach().clone() for name, p in run.model.named_parameters() if p.requires_grad}
        save_file(named, out / "weights.safetensors")
        lines = [line["loss"] for line in run.state.log_history if "loss" in line]
        (out / "losses.json").write_text(json.dumps(lines))
    if world > 1:
        torch.distributed.barrier()


def full_without_dropout() -> Any:
    model = full()
    model.config.attention_dropout = 0.0
    for module in model.modules():
        if "attention_dropout" in vars(module):
            module.attention_dropout = 0.0  # type: ignore[assignment]
    return model


def ended(out: Path, world: int, *said: Any) -> bool:
    """Whether all processes of a run came to their end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out.mkdir()
    group = []
    for rank in range(world):
        names = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank}
        place_of = {**names, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if world > 1 else {}
        os.environ.update({name: str(value) for name, value in place_of.items()})
        group.append(fork(lambda: train(out, *said)))
        for name in place_of:
            del os.environ[name]
    return [end_of(child) for child in group] == [0] * world


def cuts(engine: str, few: bool = False) -> tuple[int, int]:
    """How many ways to cut the steps give the weights and losses of the uncut ones."""
    good = total = 0
    kinds = [("lora", "plain"), ("full", "loss-scale")] if few else list(itertools.product(("lora", "full"), LOSSES))
    ways = [(1, 4), (2, 1), (2, 2)] if few else [(1, 2), (1, 4), (2, 1), (2, 2), (2, 4)]
    if engine == "plain":  # which knows no weights of tokens
        kinds = [(model, loss) for model, loss in kinds if loss != "loss-scale"]
    for model, loss in kinds:
        with place() as here:
            if not ended(here / "one", 1, engine, model, loss, 1):
                good, total = good, total + len(ways)
                continue
            for world, accumulation in ways:
                out = here / f"{world}-{accumulation}"
                good += ended(out, world, engine, model, loss, accumulation) and same(here / "one", out)
                total += 1
    return good, total


def same(first: Path, second: Path) -> bool:
    mine, theirs = (load_file(out / "weights.safetensors") for out in (first, second))
    far = max(float((mine[name] - theirs[name]).abs().max()) for name in mine)
    losses = [json.loads((out / "losses.json").read_text()) for out in (first, second)]
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    return far <= TOLERANCE and apart <= TOLERANCE
