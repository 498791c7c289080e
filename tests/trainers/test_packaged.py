"""Optimisers of other packages: the loss falls, and going on from a checkpoint is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from swift.errors import ConfigError
from swift.trainers.optim import any_optimizer
from swift.trainers.packaged import SETTINGS, apollo
from swift.trainers.trainer import Seq2SeqTrainer
from tests.tiny import tiny_model
from tests.trainers.rows import VOCAB, losses, trainer_of

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "APOLLO": ("apollo_torch", {"optim": "apollo_adamw", "optim_args": "rank=4,update_proj_gap=2"}),
    "APOLLO-Mini": ("apollo_torch", {"optim": "apollo_adamw", "optim_args": "rank=1,scale_type=tensor,scale=8"}),
    "Adam-mini": ("adam_mini", {"own_optim": "adam_mini"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_learns_with_it_and_goes_on(way: str, tmp_path: Path) -> None:
    package, options = WAYS[way]
    pytest.importorskip(package)
    said = {**options, "max_steps": 6, "learning_rate": 1e-2}
    model = tiny_model(vocab_size=VOCAB, hidden=32)
    whole = trainer_of(model, tmp_path / "a", **said, save_strategy="steps", save_steps=3)
    whole.train()
    assert losses(whole)[-1] < losses(whole)[0]
    resumed = tiny_model(vocab_size=VOCAB, hidden=32)
    again = trainer_of(resumed, tmp_path / "a", **said)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert losses(again)[3:] == losses(whole)[3:]
    for p, q in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(("way", "least", "most"), [("APOLLO-Mini", 0.2, 0.8), ("Adam-mini", 0.45, 0.6)])
def test_states_are_smaller_than_adams(way: str, least: float, most: float, tmp_path: Path) -> None:
    package, options = WAYS[way]
    pytest.importorskip(package)
    model = tiny_model(vocab_size=VOCAB, hidden=32)
    made = any_optimizer(
        trainer_of(model, tmp_path, **options).args, model, Seq2SeqTrainer.get_optimizer_cls_and_kwargs
    )
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    made.step()
    held = [value for state in made.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    adams = 2 * sum(p.numel() for p in model.parameters())
    assert least * adams < sum(value.numel() for value in held) < most * adams


def test_settings_of_others_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("apollo_torch")
    model = tiny_model(vocab_size=VOCAB, hidden=32)
    args = trainer_of(model, tmp_path, optim="apollo_adamw", optim_args="rnk=4").args
    with pytest.raises(ConfigError, match="rnk"):
        apollo(args, model)
    assert SETTINGS["rank"] == 128
