"""What an evaluation of a head says besides its loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

AT = (1, 5, 10)
Row = tuple[np.ndarray, np.ndarray]
"""Scores or vectors of the texts of a row, and its numbers."""


def rows_of(scores: np.ndarray, numbers: np.ndarray, counts: np.ndarray) -> Iterator[Row]:
    """A batch row by row; numbers are one for each row, or one for each text."""
    each = np.ones_like(counts) if len(numbers) == len(counts) else counts
    ends = np.cumsum(counts)[:-1]
    yield from zip(np.split(scores, ends), np.split(numbers, np.cumsum(each)[:-1]), strict=True)


def of_labels(said: np.ndarray, right: np.ndarray, size: int) -> dict[str, float]:
    """Accuracy, and F1: of label 1 where there are two, else the mean over the labels that come up."""
    found = {"accuracy": float((said == right).mean())}
    scores = [_f1(said == k, right == k) for k in range(size) if (said == k).any() or (right == k).any()]
    return {**found, "f1": _f1(said == 1, right == 1) if size == 2 else float(np.mean(scores))}


def of_sets(said_RL: np.ndarray, right_RL: np.ndarray) -> dict[str, float]:
    """The share of rows with all labels right; F1 over all labels together."""
    return {"accuracy": float((said_RL == right_RL).all(axis=1).mean()), "f1": _f1(said_RL, right_RL)}


def _f1(said: np.ndarray, right: np.ndarray) -> float:
    both, either = int((said & right).sum()), int(said.sum()) + int(right.sum())
    return 2 * both / either if either else 1.0


def of_numbers(said_RL: np.ndarray, right_RL: np.ndarray) -> dict[str, float]:
    """Mean squared and absolute error, and Pearson's r over all numbers."""
    apart = said_RL - right_RL
    found = {"mse": float(np.square(apart).mean()), "mae": float(np.abs(apart).mean())}
    return {**found, "pearson": _pearson(said_RL.ravel(), right_RL.ravel())}


def _pearson(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) < 2 or not one.std() or not other.std():
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def of_pairs(scores_R2: np.ndarray) -> dict[str, float]:
    """The share of pairs whose better answer scores higher, how far apart they are, and what scores are."""
    apart = scores_R2[:, 0] - scores_R2[:, 1]
    found = {"accuracy": float((apart > 0).mean()), "margin": float(apart.mean())}
    return {**found, "mean_reward": float(scores_R2.mean())}


def of_cosines(rows: Sequence[Row]) -> dict[str, float]:
    """Pearson's r of cosines and labels."""
    cosines = np.array([_unit(vectors[0]) @ _unit(vectors[1]) for vectors, _ in rows])
    return {"pearson": _pearson(cosines, np.concatenate([numbers for _, numbers in rows]))}


def of_search(rows: Sequence[Row]) -> dict[str, float]:
    """Recall at 1, 5 and 10 and the mean reciprocal rank of each query's first document, among all documents."""
    queries = _unit(np.stack([vectors[0] for vectors, _ in rows]))
    every = _unit(np.concatenate([vectors[1:] for vectors, _ in rows]))
    counts = np.array([len(vectors) - 1 for vectors, _ in rows])
    first = np.cumsum(counts) - counts
    similar = queries @ every.T
    own = similar[np.arange(len(rows)), first]
    for k, (_, numbers) in enumerate(rows):  # other documents that answer it are none to be found behind
        similar[k, first[k] + 1 : first[k] + int(numbers[0])] = -np.inf
    ranks = 1 + (similar > own[:, None]).sum(axis=1)
    return _ranked(ranks)


def of_ranking(rows: Sequence[Row]) -> dict[str, float]:
    """How often the sign of a score is right; of queries with several documents the rank of the best relevant one."""
    scores = np.concatenate([scores.ravel() for scores, _ in rows])
    right = np.concatenate([numbers for _, numbers in rows]) > 0.5
    found = {"accuracy": float(((scores > 0) == right).mean())}
    ranks = []
    for one, numbers in rows:
        good = one.ravel()[numbers > 0.5]
        bad = one.ravel()[numbers <= 0.5]
        if len(good) and len(bad):
            ranks.append(1 + int((bad > good.max()).sum()))
    return {**found, **(_ranked(np.array(ranks)) if ranks else {})}


def _ranked(ranks: np.ndarray) -> dict[str, float]:
    return {**{f"recall@{k}": float((ranks <= k).mean()) for k in AT}, "mrr": float((1 / ranks).mean())}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
