"""Metrics of evaluation that need the predicted tokens, by name.

Letters in names: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import EvalPrediction

from swift.registry import unknown
from swift.trainers.loss import IGNORED

Metric = Callable[[NDArray[Any], NDArray[Any]], dict[str, float]]
"""A metric: predictions_BT, labels_BT -> values by name. Both are shifted to match; labels are -100 where none is."""

METRICS: dict[str, Metric] = {}


def register_metric(name: str) -> Callable[[Metric], Metric]:
    """Decorator that makes a metric available as `--metrics name`."""

    def add(metric: Metric) -> Metric:
        METRICS[name] = metric
        return metric

    return add


@register_metric("token-accuracy")
def token_accuracy(predictions_BT: NDArray[Any], labels_BT: NDArray[Any]) -> dict[str, float]:
    """The share of supervised tokens that are predicted."""
    on_BT = labels_BT != IGNORED
    return {"token_accuracy": float((predictions_BT == labels_BT)[on_BT].mean()) if on_BT.any() else 0.0}


@register_metric("sentence-accuracy")
def sentence_accuracy(predictions_BT: NDArray[Any], labels_BT: NDArray[Any]) -> dict[str, float]:
    """The share of rows all of whose supervised tokens are predicted."""
    on_BT = labels_BT != IGNORED
    right_B = ((predictions_BT == labels_BT) | ~on_BT).all(axis=1)[on_BT.any(axis=1)]
    return {"sentence_accuracy": float(right_B.mean()) if len(right_B) else 0.0}


def compute_metrics(names: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]] | None:
    """Transformers' `compute_metrics` for these metrics, None for none.

    Raises:
        UnknownNameError: a metric that is not registered.
    """
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)

    def compute(prediction: EvalPrediction) -> dict[str, float]:
        predictions_BT = np.asarray(prediction.predictions)[:, :-1]
        labels_BT = np.asarray(prediction.label_ids)[:, 1:]
        return {key: value for name in names for key, value in METRICS[name](predictions_BT, labels_BT).items()}

    return compute if names else None


def likeliest(logits_BTV: Tensor | tuple[Tensor, ...], labels_BT: Tensor) -> Tensor:
    """The likeliest token at every position: what evaluation keeps of the logits, which would fill the memory.

    Shapes: logits_BTV, or a tuple that begins with it, -> predictions_BT.
    """
    logits = logits_BTV[0] if isinstance(logits_BTV, tuple) else logits_BTV
    return logits.argmax(dim=-1)
