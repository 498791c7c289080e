"""What a model with a head says of texts, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from swift.heads.batch import pad
from swift.heads.files import Head
from swift.heads.kinds import Classifier, Embedding, Kind
from swift.inference.embedding import shortened

Answer = dict[str, Any]
DIGITS = 7


@torch.inference_mode()
def scores_of(model: Any, kind: Kind, texts: Sequence[np.ndarray], batch_size: int, pad_id: int) -> np.ndarray:
    """Numbers or vectors of texts, in their order; texts of like length go through the model together."""
    order = np.argsort([-len(ids) for ids in texts], kind="stable")
    found: list[np.ndarray] = []
    for start in range(0, len(texts), batch_size):
        batch = pad([texts[k] for k in order[start : start + batch_size].tolist()], pad_id)
        batch = {name: values.to(model.device) for name, values in batch.items()}
        made = kind.scores(model(**batch), batch)
        made = shortened(made) if isinstance(kind, Embedding) else made
        found.append(made.float().cpu().numpy())
    return np.concatenate(found)[np.argsort(order)]


def answers(head: Head, kind: Kind, counts: Sequence[int], scores: np.ndarray) -> Iterator[Answer]:
    """What is written of every row, which has so many texts."""
    ends = np.cumsum(counts)[:-1]
    for own in np.split(scores, ends):
        yield _answer(head, kind, own)


def _answer(head: Head, kind: Kind, scores: np.ndarray) -> Answer:
    if head.task_type == "embedding":
        vectors = [_rounded(vector) for vector in scores]
        cosines = _rounded(scores[1:] @ scores[0])
        return {"vector": vectors[0], **({"documents": vectors[1:], "cosines": cosines} if len(scores) > 1 else {})}
    if head.task_type == "reranker":
        order = np.argsort(-scores[:, 0], kind="stable")
        return {"scores": _rounded(scores[:, 0]), "order": order.tolist()}
    if head.task_type == "reward":
        more = {"rejected_score": _rounded(scores[1])[0]} if len(scores) > 1 else {}
        return {"score": _rounded(scores[0])[0], **more}
    assert isinstance(kind, Classifier)
    return _labelled(head, kind, scores[0])


def _labelled(head: Head, kind: Classifier, logits: np.ndarray) -> Answer:
    names: list[Any] = head.labels or list(range(head.num_labels))
    if kind.problem == "regression":
        return {"prediction": _rounded(logits) if len(logits) > 1 else _rounded(logits)[0]}
    if kind.problem == "multi_label_classification":
        shares = 1 / (1 + np.exp(-logits.astype(np.float64)))
        there = [name for name, share in zip(names, shares, strict=True) if share > 0.5]
        return {"prediction": there, "probabilities": dict(zip(map(str, names), _rounded(shares), strict=True))}
    powers = np.exp(logits.astype(np.float64) - logits.max())
    shares = powers / powers.sum()
    told = dict(zip(map(str, names), _rounded(shares), strict=True))
    return {"prediction": names[int(shares.argmax())], "probabilities": told}


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
