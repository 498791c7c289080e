"""Intervals and tests against closed forms, scipy, and a bootstrap that is written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from swift.evaluation import statistics
from swift.evaluation.statistics import difference, interval, mcnemar, newcombe, wilson


def mean(sums):
    return sums[:, 0] / sums[:, 1]


def perplexity(sums):
    return np.exp(sums[:, 0] / sums[:, 1])


def rows(values) -> np.ndarray:
    return np.array([[float(value), 1.0] for value in values])


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (1, 9, 22 / 1024), (9, 1, 22 / 1024), (0, 10, 2 / 1024)],
)
def test_mcnemar_in_numbers_that_can_be_counted(wins: int, losses: int, p: float) -> None:
    assert mcnemar(wins, losses) == pytest.approx(p, abs=1e-15)


def test_mcnemar_is_the_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for wins, losses in [(3, 8), (40, 60), (500, 420), (1, 3000)]:
        expected = stats.binomtest(wins, wins + losses, 0.5).pvalue
        assert mcnemar(wins, losses) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("right", "count"), [(0, 23), (7, 23), (23, 23), (59, 60), (1, 1), (300, 1319)])
def test_an_interval_of_right_and_wrong_is_wilson_s(right: int, count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right, count) == pytest.approx((expected.low, expected.high), abs=1e-12)
    found = interval(rows([1] * right + [0] * (count - right)), mean, samples=2, seed=0)
    assert (found.low, found.high) == wilson(right, count)
    assert found.low <= found.value <= found.high
    assert found.high - found.low > 0.01  # also where no row is wrong


def test_an_interval_of_pairs_is_newcombe_s_as_published() -> None:
    """Fagerland, Lydersen and Laake 2014, Table 8: airway hyper-responsiveness of 21 children, before and after."""
    assert newcombe(1, 1, 7, 12) == pytest.approx((-0.507, -0.026), abs=5e-4)
    assert newcombe(1, 7, 1, 12) == pytest.approx((0.026, 0.507), abs=5e-4)
    low, high = newcombe(20, 0, 0, 0)
    assert low == -high < 0  # twenty rows do not prove that two models are the same


def test_an_interval_of_pairs_holds_the_truth_as_often_as_it_says() -> None:
    random, truth, held = np.random.default_rng(3), 0.1, 0
    for both, own, other, neither in random.multinomial(60, [0.6, 0.15, 0.05, 0.2], size=2000):
        low, high = newcombe(int(both), int(own), int(other), int(neither))
        held += low <= truth <= high
    assert 0.93 <= held / 2000 <= 0.98


def test_intervals_are_those_of_scipy_and_of_the_normal_distribution() -> None:
    """Other resamples, so the same but for their noise, which falls with their number."""
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(4)
    one, two = random.exponential(size=400), random.exponential(size=400)
    two = 0.8 * one + 0.3 * two
    found = interval(rows(one), mean, samples=4000, seed=0)
    error = one.std() / math.sqrt(400)
    assert (found.low, found.high) == pytest.approx(
        (one.mean() - 1.96 * error, one.mean() + 1.96 * error), abs=error / 5
    )

    def gap(x, y, axis):
        return x.mean(axis=axis) - y.mean(axis=axis)

    said = {"paired": True, "vectorized": True, "n_resamples": 4000, "method": "percentile", "random_state": 1}
    expected = stats.bootstrap((one, two), gap, **said).confidence_interval
    ours = difference(rows(one), rows(two), mean, samples=4000, seed=0)
    assert ours.method == "bootstrap"
    assert (ours.low, ours.high) == pytest.approx(
        (expected.low, expected.high), abs=0.1 * (expected.high - expected.low)
    )


def test_an_interval_is_the_bootstrap_written_out() -> None:
    random = np.random.default_rng(0)
    sums = np.column_stack([random.exponential(size=40), random.integers(1, 9, size=40)]).astype(float)
    found = interval(sums, perplexity, samples=300, seed=7)
    assert found.value == math.exp(sums[:, 0].sum() / sums[:, 1].sum())
    drawn = np.random.default_rng(7).integers(40, size=(300, 40))
    scores = [math.exp(sums[each, 0].sum() / sums[each, 1].sum()) for each in drawn]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(scores, [2.5, 97.5])))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    held = 0
    for seed in range(300):
        found = interval(rows(random.exponential(size=80)), mean, samples=400, seed=seed)
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_parts_of_resamples_are_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = rows(np.random.default_rng(2).random(30))
    whole = interval(sums, mean, samples=200, seed=3)
    monkeypatch.setattr(statistics, "CELLS", 30 * 7)
    parts = interval(sums, mean, samples=200, seed=3)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=1e-12)
    assert interval(sums, mean, samples=200, seed=4).low != pytest.approx(whole.low, abs=1e-6)


def test_the_same_rows_do_not_differ() -> None:
    sums = rows([1, 0, 1, 1, 0.5])
    found = difference(sums, sums, mean, samples=100, seed=0)
    assert (found.value, found.low, found.high, found.p, found.wins, found.losses) == (0, 0, 0, 1, 0, 0)


def test_right_and_wrong_is_told_by_mcnemar_and_the_rest_by_resampling() -> None:
    before, after = rows([0] * 9 + [1]), rows([1] * 9 + [0])
    found = difference(after, before, mean, samples=500, seed=0)
    assert found.value == pytest.approx(0.8)
    assert (found.wins, found.losses, found.method, found.p) == (9, 1, "mcnemar", pytest.approx(22 / 1024))
    back = difference(before, after, mean, samples=500, seed=0)
    assert (found.low, found.high) == newcombe(0, 9, 1, 0)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert (back.wins, back.losses, back.p) == (1, 9, found.p)
    half = difference(after / [2, 1], before / [2, 1], mean, samples=500, seed=0)
    assert half.method == "bootstrap"
    assert half.value == pytest.approx(0.4)


def test_pairs_are_told_apart_where_their_own_intervals_overlap() -> None:
    """What pairing is for: every row is a little better, and rows differ much."""
    random = np.random.default_rng(5)
    before = random.normal(size=60)
    one, two = rows(before), rows(before + 0.1 + 0.05 * random.normal(size=60))
    alone = [interval(each, mean, samples=1000, seed=0) for each in (one, two)]
    assert alone[0].high > alone[1].low
    found = difference(two, one, mean, samples=1000, seed=0)
    assert found.low > 0
    assert found.p == pytest.approx(2 / 1001)


def test_a_lower_loss_wins() -> None:
    found = difference(rows([1, 2]), rows([2, 3]), mean, samples=100, seed=0, higher_is_better=False)
    assert (found.value, found.wins, found.losses) == (-1, 2, 0)
