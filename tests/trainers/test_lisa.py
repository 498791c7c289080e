"""Laws of LISA: which layers train and how often, what the optimiser keeps, exact resume."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from swift.errors import ConfigError, InternalError
from swift.trainers import Lisa, register_loss
from swift.trainers.lisa import draw, find_layers
from swift.trainers.loss import LOSSES
from tests.tiny import tiny_model
from tests.trainers.rows import VOCAB, losses, trainer_of, weights

LAYERS = 4


def model(kind: str = "qwen2", **config: Any) -> Any:
    return tiny_model(kind, vocab_size=VOCAB, hidden=32, layers=LAYERS, **config)


class Watch(TrainerCallback):
    """What trains and what has moments at every step, and what has moved since the step before."""

    def __init__(self, model: Any) -> None:
        self.model, self.training, self.kept, self.moved = model, [], [], []
        self.last = {name: p.detach().clone() for name, p in model.named_parameters()}

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        named = dict(self.model.named_parameters())
        self.training.append({name for name, p in named.items() if p.requires_grad})
        self.kept.append({name for name, p in named.items() if p in optimizer.state})
        self.moved.append({name for name, p in named.items() if not torch.equal(p, self.last[name])})
        self.last = {name: p.detach().clone() for name, p in named.items()}


def layers_of(names: set[str]) -> set[int]:
    return {int(name.split(".")[2]) for name in names if ".layers." in name}


def test_the_draw_is_even_and_of_the_seed_alone() -> None:
    draws = [draw(8, 3, interval, seed=42) for interval in range(4000)]
    assert all(len(set(drawn)) == 3 and drawn == sorted(drawn) and set(drawn) <= set(range(8)) for drawn in draws)
    counts = Counter(layer for drawn in draws for layer in drawn)
    expected = 4000 * 3 / 8
    deviation = (4000 * 3 / 8 * (1 - 3 / 8)) ** 0.5
    assert all(abs(counts[layer] - expected) < 4 * deviation for layer in range(8))
    pairs = Counter(tuple(sorted((a, b))) for drawn in draws for a in drawn for b in drawn if a < b)
    assert len(pairs) == 28
    assert all(abs(count - 4000 * 3 / 28) < 5 * (4000 * 3 / 28) ** 0.5 for count in pairs.values())
    assert draws[:50] == [draw(8, 3, interval, seed=42) for interval in range(50)]
    assert draws[:50] != [draw(8, 3, interval, seed=43) for interval in range(50)]
    assert sum(a != b for a, b in pairwise(draws)) > 3800


def test_only_the_drawn_layers_move_and_have_moments(tmp_path: Path) -> None:
    tuned = model()
    watch = Watch(tuned)
    said = {"lisa_activated_layers": 2, "lisa_step_interval": 3, "max_steps": 9, "seed": 7, "weight_decay": 0.1}
    trainer = trainer_of(tuned, tmp_path, callbacks=[watch], **said)
    trainer.train()
    outside = {name for name, _ in tuned.named_parameters() if ".layers." not in name}
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} == outside
    for step, (training, kept, moved) in enumerate(zip(watch.training, watch.kept, watch.moved, strict=True)):
        drawn = set(draw(LAYERS, 2, step // 3, seed=7))
        assert layers_of(training) == layers_of(kept) == layers_of(moved) == drawn
        assert outside <= training & kept & moved
    assert len({frozenset(layers_of(training)) for training in watch.training}) > 1
    assert all(p.requires_grad for p in tuned.parameters())


def test_what_was_frozen_stays_so(tmp_path: Path) -> None:
    tuned = model()
    for name, parameter in tuned.named_parameters():
        parameter.requires_grad_("mlp" not in name and "embed" not in name)
    before = {name for name, p in tuned.named_parameters() if p.requires_grad}
    watch = Watch(tuned)
    said = {"lisa_activated_layers": 1, "lisa_step_interval": 1}
    trainer_of(tuned, tmp_path, callbacks=[watch], **said).train()
    assert all(training <= before for training in watch.training)
    assert {name for name, p in tuned.named_parameters() if p.requires_grad} == before


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_it_learns(tmp_path: Path, kind: str, checkpointing: bool) -> None:
    said = {
        "lisa_activated_layers": 1,
        "lisa_step_interval": 4,
        "max_steps": 20,
        "gradient_checkpointing": checkpointing,
    }
    said["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    trainer = trainer_of(model(kind), tmp_path, **said)
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]


@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_going_on_is_never_having_stopped(tmp_path: Path, accumulation: int) -> None:
    said = {"lisa_activated_layers": 2, "lisa_step_interval": 3, "max_steps": 8, "save_strategy": "steps"}
    said |= {"save_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": accumulation}
    straight = trainer_of(model(attention_dropout=0.2), tmp_path / "straight", **said)
    straight.train()
    for step in (2, 3, 4):  # within an interval, at its end, after it
        resumed = trainer_of(model(attention_dropout=0.2), tmp_path / f"resumed{step}", **said)
        resumed.train(resume_from_checkpoint=tmp_path / "straight" / f"checkpoint-{step}")
        assert losses(resumed) == losses(straight)
        same, other = weights(straight.model), weights(resumed.model)
        assert all(torch.equal(same[name], other[name]) for name in same)
        files = [tmp_path / run / "checkpoint-8" / "optimizer.pt" for run in ("straight", f"resumed{step}")]
        first, second = (torch.load(file, weights_only=True) for file in files)
        assert first["param_groups"] == second["param_groups"]
        assert first["state"].keys() == second["state"].keys()
        for number, state in first["state"].items():
            assert all(torch.equal(state[name], second["state"][number][name]) for name in state)


def test_a_run_that_breaks_leaves_the_model_as_trainable_as_it_was(tmp_path: Path) -> None:
    @register_loss("nan")
    def nan(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        return logits_NV.sum(-1) * float("nan")

    try:
        tuned = model()
        with pytest.raises(InternalError, match="not finite"):
            trainer_of(tuned, tmp_path, lisa_activated_layers=1, loss_name="nan").train()
        assert all(p.requires_grad for p in tuned.parameters())
    finally:
        del LOSSES["nan"]


def test_layers_are_found_by_structure() -> None:
    for kind in ("qwen2", "gpt2"):
        found = find_layers(model(kind))
        assert len(found) == LAYERS
    experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
    layer = nn.Module()
    layer.experts = experts
    outer = nn.Module()
    outer.heads = nn.ModuleList([nn.Linear(2, 2)] * 9)
    outer.blocks = nn.ModuleList([layer])
    assert find_layers(outer) is outer.blocks
    with pytest.raises(ConfigError, match="no list of layers"):
        find_layers(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("activated", "interval", "word"),
    [(LAYERS + 1, 20, f"has {LAYERS} layers"), (-1, 20, "--lisa_activated_layers 2"), (1, 0, "--lisa_step_interval 0")],
)
def test_what_cannot_be_drawn_is_refused(activated: int, interval: int, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Lisa(model(), activated, interval, 0)
    assert word in str(caught.value)


def test_layers_that_are_all_frozen_are_refused() -> None:
    with pytest.raises(ConfigError, match="all layers are frozen"):
        Lisa(model().requires_grad_(False), 1, 1, 0)


def test_it_needs_no_trainer_of_ours() -> None:
    tuned = model()
    lisa = Lisa(tuned, 1, 2, seed=0)
    optimizer = torch.optim.SGD(tuned.parameters(), lr=0.1, momentum=0.9)
    for step in range(6):
        state: Any = SimpleNamespace(global_step=step)
        lisa.on_step_begin(None, state, None, optimizer=optimizer)  # type: ignore[arg-type]
        assert lisa.active == draw(LAYERS, 1, step // 2, 0)
        frozen = {
            i for i, layer in enumerate(tuned.model.layers) if not any(p.requires_grad for p in layer.parameters())
        }
        assert frozen == set(range(LAYERS)) - set(lisa.active)
