"""One loss: however an optimiser step is cut into processes and batches, and its rows laid out, it is the same step."""

from __future__ import annotations

import itertools
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import DataCollatorWithFlattening

from scripts.prove.runs import Packs, Rows, finished, full, lora, place, trainer_of

ROWS, TOGETHER, PACKED = 37, 16, 2  # rows of an epoch, of a step and of a pack: the last step is smaller
TOLERANCE = 1e-6
WAYS = ((1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4))  # processes and accumulated batches
LAYOUTS = ("padded", "padding-free", "packed")
LOSSES: dict[str, dict[str, Any]] = {"plain": {}, "loss-scale": {}, "smoothing": {"label_smoothing_factor": 0.1}}


class Weighed(Rows):
    """Rows whose tokens weigh 0, 1, 2 or 3."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = super().__getitem__(index)
        scale = [float((token + index) % 4) if label >= 0 else 0.0 for token, label in zip(*row.values(), strict=True)]
        scale[-1] = 1.0
        return {**row, "loss_scale": scale}


def train(out: Path, engine: str, model: str, loss: str, layout: str, accumulation: int) -> None:
    """One epoch with plain gradient descent, whose weights show every gradient; a process of the group it is in."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rows = Weighed(ROWS) if loss == "loss-scale" else Rows(ROWS)
    each = PACKED if layout == "packed" else 1
    own = {"padding_free": layout == "padding-free"} if engine == "swift" else {}
    run = trainer_of(
        engine,
        out / "run",
        model=lora(dropout=0.0) if model == "lora" else full_without_dropout(),
        train=Packs(rows, PACKED) if layout == "packed" else rows,
        per_device_train_batch_size=TOGETHER // each // accumulation // world,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",  # so that packs are of the rows of a step
        max_steps=-1,
        num_train_epochs=1,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0,
        save_strategy="no",
        ddp_find_unused_parameters=False,
        **own,
        **LOSSES[loss],
    )
    if engine == "plain" and layout == "padding-free":
        run.data_collator = DataCollatorWithFlattening()
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


def cells(few: bool = False) -> dict[tuple[str, str], list[tuple[str, int, int]]]:
    """Of each model and loss the layouts, processes and accumulations that are compared with whole, padded steps."""
    kinds = list(itertools.product(("lora", "full"), LOSSES))
    every = [(layout, *way) for layout in LAYOUTS for way in WAYS if (layout, *way) != ("padded", 1, 1)]
    if not few:
        return dict.fromkeys(kinds, every)
    return {kind: [every[(3 * number + 7 * k) % len(every)] for k in range(2)] for number, kind in enumerate(kinds)}


def cuts(engine: str, few: bool = False) -> tuple[int, int]:
    """How many ways to lay the rows out and cut the steps give the weights and losses of whole, padded steps."""
    good = total = 0
    for (model, loss), ways in cells(few).items():
        if engine == "plain" and loss == "loss-scale":  # it knows no weights of tokens
            continue
        total += len(ways)
        with place() as here:
            whole = here / "whole"
            whole.mkdir()
            if finished(partial(train, whole, engine, model, loss, "padded", 1)):
                for layout, world, accumulation in ways:
                    out = here / f"{layout}-{world}-{accumulation}"
                    out.mkdir()
                    done = finished(partial(train, out, engine, model, loss, layout, accumulation), world)
                    good += done and same(whole, out)
    return good, total


def same(first: Path, second: Path) -> bool:
    mine, theirs = (load_file(out / "weights.safetensors") for out in (first, second))
    far = max(float((mine[name] - theirs[name]).abs().max()) for name in mine)
    losses = [json.loads((out / "losses.json").read_text()) for out in (first, second)]
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    return far <= TOLERANCE and apart <= TOLERANCE
