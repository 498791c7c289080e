"""The loss is a sum that no split, padding or choice of positions changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swift.errors import UnknownNameError
from swift.trainers import loss as losses
from swift.trainers.loss import IGNORED


def batch(rows: int, tokens: int, vocab: int = 11, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits_BTV = torch.randn(rows, tokens, vocab, generator=generator, dtype=torch.float64)
    targets_BT = torch.randint(0, vocab, (rows, tokens), generator=generator)
    off_BT = torch.rand(rows, tokens, generator=generator) < 0.4
    return logits_BTV, targets_BT.masked_fill(off_BT, IGNORED)


@given(rows=st.integers(1, 4), tokens=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_it_is_the_sum_of_cross_entropies(rows: int, tokens: int, seed: int) -> None:
    logits_BTV, targets_BT = batch(rows, tokens, seed=seed)
    sums = losses.sum_losses(logits_BTV, targets_BT)
    expected = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum")
    assert abs(float(sums.loss - expected)) <= 1e-12
    assert sums.tokens == (targets_BT != IGNORED).sum()


@given(cut=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_splits_add_up(cut: int, seed: int) -> None:
    logits_BTV, targets_BT = batch(6, 7, seed=seed)
    whole = losses.sum_losses(logits_BTV, targets_BT)
    parts = [losses.sum_losses(logits_BTV[part], targets_BT[part]) for part in (slice(cut), slice(cut, None))]
    for name in ("loss", "tokens", "correct", "rows", "correct_rows"):
        assert abs(float(sum(vars(part)[name] for part in parts) - vars(whole)[name])) <= 1e-12, name


def test_half_precision_is_summed_in_float32() -> None:
    logits_BTV, targets_BT = batch(2, 5)
    half = logits_BTV.to(torch.bfloat16)
    sums = losses.sum_losses(half, targets_BT)
    assert sums.loss.dtype == torch.float32
    assert torch.equal(sums.loss, losses.sum_losses(half.float(), targets_BT).loss)


def test_what_is_counted_as_correct() -> None:
    targets_BT = torch.tensor([[1, 2, IGNORED], [3, IGNORED, 4], [IGNORED, IGNORED, IGNORED]])
    said_BT = torch.tensor([[1, 2, 0], [3, 0, 0], [0, 0, 0]])
    sums = losses.sum_losses(F.one_hot(said_BT, 5).float(), targets_BT)
    counts = {name: int(vars(sums)[name]) for name in ("tokens", "correct", "rows", "correct_rows")}
    assert counts == {"tokens": 4, "correct": 3, "rows": 2, "correct_rows": 1}


def test_nothing_supervised_is_a_zero_with_a_gradient() -> None:
    logits_BTV = torch.zeros(1, 2, 5, requires_grad=True)
    sums = losses.sum_losses(logits_BTV, torch.full((1, 2), IGNORED))
    sums.loss.backward()
    assert sums.loss.item() == 0
    assert logits_BTV.grad is not None
    assert int(sums.tokens) == int(sums.correct_rows) == 0


@pytest.mark.parametrize(
    ("labels", "positions"),
    [
        ([[1, 2, 3]], [0, 1]),
        ([[IGNORED, IGNORED, 3, 4]], [1, 2]),
        ([[IGNORED, 2, IGNORED, IGNORED], [IGNORED, IGNORED, IGNORED, 4]], [0, 2]),
        ([[7, IGNORED, IGNORED]], [0]),
        ([[7]], [0]),
    ],
)
def test_positions_and_counts(labels: list[list[int]], positions: list[int]) -> None:
    labels_BT = torch.tensor(labels)
    assert losses.supervised_positions(labels_BT).tolist() == positions
    assert int(losses.total_weight(labels_BT)) == sum(label != IGNORED for row in labels for label in row[1:])


def test_smoothing_is_a_mixture_with_the_uniform() -> None:
    logits_BTV, targets_BT = batch(2, 6)
    on_BT = targets_BT != IGNORED
    log_p = F.log_softmax(logits_BTV[on_BT], dim=-1)
    expected = -0.9 * log_p.gather(1, targets_BT[on_BT][:, None]).sum() - 0.1 * log_p.mean(dim=-1).sum()
    assert abs(float(losses.sum_losses(logits_BTV, targets_BT, losses.Smoothed(0.1)).loss - expected)) <= 1e-12


def test_a_loss_can_be_added() -> None:
    @losses.register_loss("half")
    def half(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        return losses.cross_entropy(logits_NV, targets_N) / 2

    try:
        logits_BTV, targets_BT = batch(2, 3)
        found = losses.sum_losses(logits_BTV, targets_BT, losses.find_loss("half")).loss
        assert torch.allclose(2 * found, losses.sum_losses(logits_BTV, targets_BT).loss)
        with pytest.raises(UnknownNameError, match="no loss is called 'hallf'") as caught:
            losses.find_loss("hallf")
        assert "half" in str(caught.value.fix)
    finally:
        del losses.LOSSES["half"]
    assert losses.find_loss(None) is losses.find_loss("cross-entropy")
