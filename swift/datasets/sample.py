"""Which rows of one data set are trained on and which validate: a seeded draw, entered in the ledger."""

from __future__ import annotations

import numpy as np

from swift.datasets.convert import Conversation
from swift.datasets.ledger import NOT_SAMPLED, Ledger


def split_rows(
    rows: list[Conversation], sample: int | None, ratio: float, seed: int, ledger: Ledger
) -> tuple[list[Conversation], list[Conversation]]:
    """Training and validation rows of one data set, in a seeded order.

    Validation is drawn first, so no row is in both. Training rows are drawn again when `sample` exceeds them; at least
    one is left to train on.

    Args:
        rows: the good rows.
        sample: how many rows in all; None is each once.
        ratio: share for validation, at least one row when above 0; 1 is all.
        seed: of the draw.
        ledger: is told what became of every row.
    """
    if not rows:
        return [], []
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
    for i, row in enumerate(rows):
        if i not in used:
            ledger.drop(NOT_SAMPLED, row["where"])
    trained, validated = [rows[i] for i in train], [rows[i] for i in val]
    ledger.use("train", trained)
    ledger.use("validation", validated)
    return trained, validated


def _draw(pool: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
    """The first `count` of the pool; all of it and more, drawn with replacement, when it is too small."""
    more = max(count - len(pool), 0)
    return np.concatenate([pool[:count], random.choice(pool, size=more, replace=True)])
