"""The divergence is its formula in float64 and TRL's on the same batch, in chunks and whole, with its gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from swift.distillation.divergence import (
    ChunkedDivergence,
    SaidByHead,
    SaidWhole,
    Settings,
    TeacherLoss,
    divergences,
)
from swift.trainers.head import Rule

BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)


def formula(student: np.ndarray, teacher: np.ndarray, beta: float, temperature: float) -> np.ndarray:
    """The paper's equation 1, number by number."""

    def softmax(x: np.ndarray) -> list[float]:
        e = [math.exp(v / temperature - max(x) / temperature) for v in x]
        return [v / sum(e) for v in e]

    def kl(p: list[float], q: list[float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    found = []
    for s, t in zip(student, teacher, strict=True):
        p, q = softmax(t), softmax(s)
        if beta in (0, 1):
            found.append(kl(p, q) if beta == 0 else kl(q, p))
            continue
        m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
        found.append(beta * kl(p, m) + (1 - beta) * kl(q, m))
    return np.array(found)


def logits(*shape: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [3 * torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("beta", BETAS)
def test_it_is_the_formula(beta: float) -> None:
    student, teacher = logits(6, 9)
    for temperature in (1.0, 0.7, 2.0):
        found = divergences(student, teacher, Settings(beta, temperature))
        np.testing.assert_allclose(
            found.numpy(), formula(student.numpy(), teacher.numpy(), beta, temperature), rtol=1e-12
        )


@pytest.mark.parametrize("beta", BETAS)
def test_it_is_what_trl_computes(beta: float) -> None:
    gkd = pytest.importorskip("trl.experimental.gkd")
    student, teacher = (x[None] for x in logits(6, 9))
    labels = torch.tensor([[-100, 3, 4, -100, 5, 6]])
    on = labels != -100
    for temperature in (1.0, 0.7):
        theirs = gkd.GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta, temperature)
        ours = divergences(student[on], teacher[on], Settings(beta, temperature)).sum() / on.sum()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("rule", [Rule(), Rule(0.5, 3.0)])
def test_chunks_give_value_and_gradient_of_the_whole(beta: float, rule: Rule) -> None:
    draw = torch.Generator().manual_seed(1)
    wide = {"generator": draw, "dtype": torch.float64}
    hidden, head, bias = (torch.randn(*s, **wide, requires_grad=True) for s in ((7, 5), (11, 5), (11,)))
    teacher = nn.Linear(4, 13, bias=False, dtype=torch.float64).requires_grad_(False)
    with torch.no_grad():
        teacher.weight.copy_(torch.randn(13, 4, **wide))
    taught, weights = torch.randn(7, 4, **wide), torch.rand(7, **wide)
    targets = torch.randint(11, (7,), generator=draw)
    settings = Settings(beta, 0.8, vocabulary=11)
    for said in (
        SaidByHead(taught, teacher, rule, 11),
        SaidWhole(rule.logits((taught @ teacher.weight.t())[:, :11])),
    ):
        whole = rule.scale * (hidden @ head.t() + bias)
        whole = whole if rule.cap is None else rule.cap * torch.tanh(whole / rule.cap)
        expected = (TeacherLoss(settings, said)(whole, targets) * weights).sum()
        wanted = torch.autograd.grad(expected, (hidden, head, bias))
        for chunk in (2, 100):
            found, right = ChunkedDivergence.apply(hidden, head, bias, targets, weights, rule, said, settings, chunk)
            torch.testing.assert_close(found, expected)
            assert (right == (whole.argmax(1) == targets)).all()
            for one, other in zip(torch.autograd.grad(found, (hidden, head, bias)), wanted, strict=True):
                torch.testing.assert_close(one, other)


def test_a_model_is_not_apart_from_itself() -> None:
    student, _ = logits(4, 9)
    for beta in BETAS:
        assert divergences(student, student.clone(), Settings(beta)).abs().max() < 1e-12
