"""Muon for matrices and AdamW for the rest, as torch has them; and what an optimiser's name needs is told first."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from swift.errors import MissingPackageError, UnknownNameError
from swift.trainers import muon
from swift.trainers.muon import Muon, check_optimiser
from tests.tiny import tiny_model
from tests.trainers.rows import VOCAB, lora, losses, trainer_of, weights

ADAM: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-8}


def learn(model: Any, optimizers: list[Any], steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


def test_it_is_torchs_two_optimisers() -> None:
    ours, theirs = (tiny_model(vocab_size=VOCAB, hidden=32) for _ in range(2))
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    named = dict(theirs.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and name not in tables]
    groups = [
        {"params": [named[name] for name in named if name in tables], "weight_decay": 0.1},
        {"params": [p for p in named.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    apart = [
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=1e-2, **ADAM),
    ]
    learn(ours, [Muon(ours, 1e-2, 0.1, **ADAM)], 3)
    learn(theirs, apart, 3)
    for name, p in ours.named_parameters():
        assert torch.equal(p, named[name]), name


def test_going_on_from_its_state_is_exact_and_the_rate_counts() -> None:
    whole = tiny_model(vocab_size=VOCAB, hidden=32)
    optimizer = Muon(whole, 1e-2, 0.1, **ADAM)
    learn(whole, [optimizer], 2)
    half, state = copy.deepcopy(whole), copy.deepcopy(optimizer.state_dict())
    again = Muon(half, 1e-2, 0.1, **ADAM)
    again.load_state_dict(state)
    for one in (optimizer, again):
        for group in one.param_groups:
            group["lr"] = 3e-3
    learn(whole, [optimizer], 2, seed=1)
    learn(half, [again], 2, seed=1)
    still = copy.deepcopy(half)
    for p, q in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(p, q)
    for group in again.param_groups:
        group["lr"] = 0.0
    learn(half, [again], 1)
    assert all(torch.equal(p, q) for p, q in zip(half.parameters(), still.parameters(), strict=True))


def test_a_run_learns_with_it_and_goes_on(tmp_path: Path) -> None:
    said = {"own_optim": "muon", "max_steps": 6, "learning_rate": 1e-2}
    model = lora()
    whole = trainer_of(model, tmp_path / "a", **said, save_strategy="steps", save_steps=3)
    whole.train()
    assert isinstance(getattr(whole.optimizer, "optimizer", whole.optimizer), Muon)
    resumed = lora()
    again = trainer_of(resumed, tmp_path / "a", **said)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert losses(again)[3:] == losses(whole)[3:]
    for name, weight in weights(model).items():
        assert torch.equal(weight, weights(resumed)[name])


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("apollo_adamw", "apollo-torch"),
        ("schedule_free_adamw", "schedulefree"),
        ("paged_adamw_8bit", "bitsandbytes"),
        ("adamw_bnb_8bit", "bitsandbytes"),
        ("galore_adamw", "--use_galore true"),
    ],
)
def test_a_package_that_is_missing_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "find_spec", lambda module: None)
    with pytest.raises(MissingPackageError, match=f"--optim {name} needs") as caught:
        check_optimiser(name)
    assert package in str(caught.value.fix)


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "muon", "adamw_hf"])
def test_what_is_there_may_be_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "find_spec", lambda module: None)
    check_optimiser(name)


def test_a_name_that_is_none() -> None:
    with pytest.raises(UnknownNameError, match="muonn"):
        check_optimiser("muonn")
