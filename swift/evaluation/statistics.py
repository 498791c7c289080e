"""How sure a score is, and whether two models differ: resampled rows; of right and wrong Wilson, Newcombe and McNemar.

Letters in names: N rows, K sums of a metric, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Combine = Callable[[Floats], Floats]
"""What makes scores of summed rows: sums_RK -> scores_R."""

CELLS = 1 << 22  # counts that are held at once
LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Interval:
    """A score and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """How much higher one model's score is than another's on the same rows.

    `p` is the chance of a difference at least as far from 0 where there is none: from resampled rows, or, where every
    row is right or wrong, from McNemar's exact test; the interval is Newcombe's then. `wins` and `losses` are the rows
    that one does better or worse.
    """

    p: float
    wins: int
    losses: int
    method: str


def interval(sums_NK: Floats, combine: Combine, *, samples: int, seed: int, binary: bool | None = None) -> Interval:
    """The score of all rows with its interval: the bootstrap's percentiles, or Wilson's where a row is right or wrong.

    `binary` says whether it is, None that the rows themselves show it. Resamples of rows that are all right are all
    right, however few there are: they would say that nothing else can be.

    Paper: Efron, Bootstrap Methods: Another Look at the Jackknife, https://doi.org/10.1214/aos/1176344552.
    """
    value = _score(sums_NK, combine)
    if _binary(sums_NK) if binary is None else binary:
        return Interval(value, *wilson(int(sums_NK[:, 0].sum()), len(sums_NK)))
    return Interval(value, *_percentiles(_resampled(sums_NK, combine, samples, seed)))


def difference(
    sums_NK: Floats,
    others_NK: Floats,
    combine: Combine,
    *,
    samples: int,
    seed: int,
    higher_is_better: bool = True,
    binary: bool | None = None,
) -> Difference:
    """How much the score of a model is above that of another; every resample draws the same rows of both.

    `binary` says whether a row is right or wrong, None that the rows themselves show it.

    Paper: Koehn, Statistical Significance Tests for Machine Translation Evaluation, https://aclanthology.org/W04-3250.
    """
    assert len(sums_NK) == len(others_NK), "two models are compared on the same rows"
    value = _score(sums_NK, combine) - _score(others_NK, combine)
    own_N, other_N = combine(sums_NK), combine(others_NK)
    gains_N = own_N - other_N if higher_is_better else other_N - own_N
    wins, losses = int((gains_N > 0).sum()), int((gains_N < 0).sum())
    if (_binary(sums_NK) and _binary(others_NK)) if binary is None else binary:
        both = int(((own_N > 0) & (other_N > 0)).sum())
        ends = newcombe(both, wins, losses, len(sums_NK) - both - wins - losses)
        return Difference(value, *ends, mcnemar(wins, losses), wins, losses, "mcnemar")
    scores_R = _resampled(sums_NK, combine, samples, seed) - _resampled(others_NK, combine, samples, seed)
    return Difference(value, *_percentiles(scores_R), _two_sided(scores_R), wins, losses, "bootstrap")


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Between which shares the true one lies, when so many rows of so many are right.

    Paper: Wilson, Probable Inference, the Law of Succession, and Statistical Inference,
    https://doi.org/10.1080/01621459.1927.10502953.
    """
    share, spread = right / rows, Z * Z / rows
    middle = share + spread / 2
    half = Z * math.sqrt((share * (1 - share) + spread / 4) / rows)
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return (low if right else 0.0), (high if right < rows else 1.0)


def newcombe(both: int, own: int, other: int, neither: int) -> tuple[float, float]:
    """Between which differences of two shares the true one lies: rows that both, one, the other, neither has right.

    Paper: Newcombe, Improved Confidence Intervals for the Difference between Binomial Proportions Based on Paired Data,
    https://doi.org/10.1002/(SICI)1097-0258(19981130)17:22<2635::AID-SIM954>3.0.CO;2-C; its method 10.
    """
    rows = both + own + other + neither
    one, two = (both + own) / rows, (both + other) / rows
    (low_1, high_1), (low_2, high_2) = wilson(both + own, rows), wilson(both + other, rows)
    together = both * neither - own * other
    margins = (both + own) * (other + neither) * (both + other) * (own + neither)
    corrected = max(together - rows / 2, 0.0) if together > 0 else together
    phi = corrected / math.sqrt(margins) if margins else 0.0
    below, above = _joined(one - low_1, high_2 - two, phi), _joined(high_1 - one, two - low_2, phi)
    return one - two - below, one - two + above


def _joined(one: float, two: float, correlation: float) -> float:
    return math.sqrt(max(one * one - 2 * correlation * one * two + two * two, 0.0))


def mcnemar(wins: int, losses: int) -> float:
    """The chance that fair coins, one for each row on which two models differ, fall at least this unevenly.

    Paper: McNemar, Note on the Sampling Error of the Difference between Correlated Proportions or Percentages,
    https://doi.org/10.1007/BF02295996; the exact binomial form.
    """
    count, fewer = wins + losses, min(wins, losses)
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**count)) if count else 1.0


def counts(rows: int, samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each row is drawn in each resample, some resamples at a time: (R, N), the same for the same seed."""
    random = np.random.default_rng(seed)
    at_once = max(1, CELLS // rows)
    for start in range(0, samples, at_once):
        size = min(at_once, samples - start)
        drawn_RN = random.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        yield np.bincount(drawn_RN.ravel(), minlength=size * rows).reshape(size, rows)


def _resampled(sums_NK: Floats, combine: Combine, samples: int, seed: int) -> Floats:
    parts = [combine(counts_RN.astype(np.float64) @ sums_NK) for counts_RN in counts(len(sums_NK), samples, seed)]
    return np.concatenate(parts)


def _score(sums_NK: Floats, combine: Combine) -> float:
    return float(combine(sums_NK.sum(axis=0, keepdims=True))[0])


def _percentiles(scores_R: Floats) -> tuple[float, float]:
    low, high = np.nanpercentile(scores_R, [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2])
    return float(low), float(high)


def _two_sided(scores_R: Floats) -> float:
    """Twice the share of resamples beyond 0, the sample itself counted among them."""
    beyond = min(int((scores_R <= 0).sum()), int((scores_R >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(scores_R) + 1))


def _binary(sums_NK: Floats) -> bool:
    """Whether every row is right or wrong: a mean of zeros and ones."""
    value_N = sums_NK[:, 0]
    return sums_NK.shape[1] == 2 and bool((sums_NK[:, 1] == 1).all() and ((value_N == 0) | (value_N == 1)).all())
