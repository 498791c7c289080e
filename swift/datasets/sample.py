"""Which rows of one data set are trained on and which validate: a seeded draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swift.datasets.convert import Conversation


@dataclass(frozen=True)
class Split:
    """The rows of one data set: those that train, those that validate, and those that were not drawn."""

    train: list[Conversation]
    val: list[Conversation]
    unused: list[Conversation]


def split_rows(rows: list[Conversation], sample: int | None, ratio: float, seed: int) -> Split:
    """Training and validation rows of one data set, in a seeded order.

    Validation is drawn first, so no row is in both. Training rows are drawn again when `sample` exceeds them; at least
    one is left to train on.

    Args:
        rows: the good rows.
        sample: how many rows in all; None is each once.
        ratio: share for validation, at least one row when above 0; 1 is all.
        seed: of the draw.
    """
    if not rows:
        return Split([], [], [])
    random = np.random.RandomState(seed)
    order = random.permutation(len(rows))
    wanted = sample or len(rows)
    held = 0
    if 0 < ratio < 1:
        share = max(int(min(len(rows), wanted) * ratio), 1)
        held = min(share, wanted - 1, len(rows) - 1)
    val = _draw(order, wanted, random) if ratio == 1 else order[:held]
    train = order[:0] if ratio == 1 else _draw(order[held:], wanted - held, random)
    used = {*train.tolist(), *val.tolist()}
    unused = [row for i, row in enumerate(rows) if i not in used]
    return Split([rows[i] for i in train], [rows[i] for i in val], unused)


def _draw(pool: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
    """The first `count` of the pool; all of it and more, drawn with replacement, when it is too small."""
    more = max(count - len(pool), 0)
    return np.concatenate([pool[:count], random.choice(pool, size=more, replace=True)])
