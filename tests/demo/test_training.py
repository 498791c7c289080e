"""Tokens, masks and the training loop of the demo models."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from demo import grammar, training
from demo.tokens import END, IGNORED, Coder
from demo.training import Stage, new_model, train

from swift.models.load import get_model_tokenizer
from swift.templates.template import get_template
from tests.demo.conftest import ROOT

CHAT = ROOT / "swift" / "demo" / "demo-chat"
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def coder() -> Coder:
    return Coder(CHAT)


@pytest.mark.parametrize("name", ["chatml", "auto"])
def test_what_is_trained_on_is_what_the_template_writes(coder: Coder, name: str) -> None:
    _, tokenizer = get_model_tokenizer("demo-chat", load_model=False)
    template = get_template(name, tokenizer)
    rng = random.Random(4)
    for _ in range(40):
        item = grammar.dialogue(rng)
        ids, labels = coder.chat(item)
        encoded, _ = template.encode({"messages": item.messages()})
        assert encoded["input_ids"][: len(ids)] == ids
        assert encoded["labels"][: len(ids)] == labels
        assert set(encoded["labels"][len(ids) :]) <= {IGNORED}


def test_digits_and_chinese_signs_stand_alone(coder: Coder) -> None:
    ids = coder.ids("47 + 385=法国的首都")
    pieces = [coder.tokenizer.decode([number]) for number in ids]
    assert pieces[:6] == ["4", "7", " + ", "3", "8", "5"]
    assert coder.tokenizer.decode(ids) == "47 + 385=法国的首都"
    assert pieces[-5:] == list("法国的首都")


def test_plain_text_is_learnt_with_its_end(coder: Coder) -> None:
    ids, labels = coder.plain("1 + 1 = 2")
    assert ids == labels
    assert ids[-1] == coder.ids(END)[0]


def test_of_sums_only_the_results_are_learnt(coder: Coder) -> None:
    ids, labels = coder.practice("47 + 38 = 85\n7 - 7 = 0")
    learnt = [number for number, label in zip(ids, labels, strict=True) if label != IGNORED]
    assert coder.tokenizer.decode(ids) == "47 + 38 = 85\n7 - 7 = 0\n"
    assert coder.tokenizer.decode(learnt) == "85\n0\n"
    assert {label for label in labels if label != IGNORED} == set(learnt)
    assert ids == coder.ids("47 + 38 = 85\n7 - 7 = 0\n")


def test_the_rate_warms_up_stays_and_falls() -> None:
    stage = Stage("s", 400, 100, 1e-3, 12, lambda rng: ([], []))
    rates = [stage.rate_at(step) for step in range(400)]
    assert rates[0] < rates[30] < rates[200] == 1e-3
    assert rates[299] == 1e-3
    assert 0 < rates[-1] < rates[350] < 1e-3


def test_training_is_repeatable_and_goes_on_where_it_stopped(
    coder: Coder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "ROWS_OF_A_PART", 4)
    stage = Stage("test", 6, 2, 1e-3, 12, lambda rng: coder.chat(grammar.dialogue(rng)))

    def run(name: str) -> dict[str, torch.Tensor]:
        model = new_model(coder, **TINY, num_key_value_heads=1)
        train(model, stage, tmp_path / name, every=100)
        return model.state_dict()

    first, second = run("a"), run("b")
    again = run("a")
    for name, weight in first.items():
        assert torch.equal(weight, second[name])
        assert torch.equal(weight, again[name])
    start = new_model(coder, **TINY, num_key_value_heads=1).state_dict()
    assert not torch.equal(first["model.embed_tokens.weight"], start["model.embed_tokens.weight"])


def test_the_parts_add_up_to_the_gradient_of_the_whole(coder: Coder, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    rng = random.Random(6)
    rows = sorted((coder.chat(grammar.dialogue(rng)) for _ in range(12)), key=lambda row: len(row[0]))
    model = new_model(coder, **TINY, num_key_value_heads=1)
    weights = list(model.parameters())
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(training, "ROWS_OF_A_PART", 12)
        whole = training._step(model, weights, rows, pool)
        expected = [weight.grad.clone() for weight in weights if weight.grad is not None]
        monkeypatch.setattr(training, "ROWS_OF_A_PART", 3)
        parts = training._step(model, weights, rows, pool)
    assert parts == pytest.approx(whole, rel=1e-2)
    assert len(expected) == len(weights)
    for weight, gradient in zip(weights, expected, strict=True):
        assert weight.grad is not None
        assert torch.linalg.norm(weight.grad - gradient) <= 0.05 * torch.linalg.norm(gradient) + 1e-6
