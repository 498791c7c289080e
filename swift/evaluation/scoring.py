"""From items to scores: what is asked of a model, what each row adds to each metric, and what that makes."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from swift.errors import ConfigError, DataError
from swift.evaluation.asking import Answer, Asked, Local
from swift.evaluation.items import Item, with_letters
from swift.evaluation.metrics import LIKELIHOODS, Metric, Told, told
from swift.evaluation.statistics import Difference, Floats, Interval, difference, interval
from swift.log import get_logger

logger = get_logger()
SECONDS_BETWEEN_NOTES = 10.0


@dataclass(frozen=True)
class Plan:
    """The items of one data set, and by what they are measured."""

    dataset: str
    items: list[Item]
    metrics: list[Metric]


@dataclass
class Scored:
    """What one model did with one data set: a record of each row, and the sums of each metric, (N, K)."""

    plan: Plan
    records: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, Floats] = field(default_factory=dict)

    def intervals(self, samples: int, seed: int) -> dict[str, Interval]:
        """The score of each metric with its interval."""
        return {
            metric.name: interval(
                self.sums[metric.name], metric.combine, samples=samples, seed=seed, binary=metric.binary
            )
            for metric in self.plan.metrics
        }

    def above(self, other: Scored, samples: int, seed: int) -> dict[str, Difference]:
        """How much each metric is above that of another model on the same items."""
        return {
            metric.name: difference(
                self.sums[metric.name],
                other.sums[metric.name],
                metric.combine,
                samples=samples,
                seed=seed,
                higher_is_better=metric.higher_is_better,
                binary=metric.binary,
            )
            for metric in self.plan.metrics
        }


def score(asked: Asked, plan: Plan, pattern: re.Pattern[str] | None = None) -> Scored:
    """Ask a model all items of a plan and measure what it says.

    Raises:
        ConfigError: a metric needs likelihoods, which the model does not tell.
    """
    scored = Scored(plan, [_record(item) for item in plan.items])
    for need in dict.fromkeys(metric.needs for metric in plan.metrics):
        all_told = _ask(asked, need, plan.items, pattern)
        for record, each in zip(scored.records, all_told, strict=True):
            record |= _said(need, each)
        for metric in plan.metrics:
            if metric.needs == need:
                scored.sums[metric.name] = np.array([metric.sums(each) for each in all_told], dtype=np.float64)
    for metric in plan.metrics:
        _enter(metric, scored)
    return scored


def _enter(metric: Metric, scored: Scored) -> None:
    """Each row's own score into its record; None where it has none."""
    sums_NK = scored.sums[metric.name]
    with np.errstate(all="ignore"):
        values = metric.combine(sums_NK).tolist()
    for record, value in zip(scored.records, values, strict=True):
        record["scores"][metric.name] = value if np.isfinite(value) else None


def _ask(asked: Asked, need: str, items: Sequence[Item], pattern: re.Pattern[str] | None) -> list[Told]:
    if need in LIKELIHOODS:
        if not isinstance(asked, Local):
            what = "a server does not tell how likely it finds an answer, which loss, perplexity and choice are made of"
            raise ConfigError("CONFIG-02", what, fix="--eval_metrics letter or exact, or --model_id_or_path")
        found = asked.labels(items) if need == "label" else asked.choices(items)
        if not any(likelihood.tokens for each in found for likelihood in each):
            what = f"{items[0].where} and all other rows of {items[0].dataset} do not fit the model"
            raise DataError("DATA-06", what, fix="a larger --max_length, or other --eval_metrics")
        for item, each in zip(items, found, strict=True):
            if any(not likelihood.tokens for likelihood in each):
                logger.warning(f"{item.where}: not scored, it does not fit")
        return [Told(item, likelihoods=each) for item, each in zip(items, found, strict=True)]
    rows = [with_letters(item) if need == "letter" else item.row for item in items]
    return [told(item, answer["text"], pattern) for item, answer in zip(items, _noted(asked, items, rows), strict=True)]


def _noted(asked: Asked, items: Sequence[Item], rows: Sequence[dict[str, Any]]) -> list[Answer]:
    """The answers, with a line now and then on how many there are."""
    answers: list[Answer] = []
    noted = time.perf_counter()
    for answer in asked.answers(rows):
        if answer["finish_reason"] == "too_long":
            logger.warning(f"{items[len(answers)].where}: not answered, it does not fit")
        answers.append(answer)
        if time.perf_counter() - noted > SECONDS_BETWEEN_NOTES:
            noted = time.perf_counter()
            logger.info(f"answered {len(answers):,} of {len(rows):,} rows")
    return answers


def _record(item: Item) -> dict[str, Any]:
    record: dict[str, Any] = {"dataset": item.dataset, "where": item.where, "messages": item.messages}
    record |= {"label": item.label} if item.label is not None else {}
    record |= {"choices": list(item.choices), "right": item.right} if item.choices else {}
    return {**record, "scores": {}}


def _said(need: str, each: Told) -> dict[str, Any]:
    if need == "answer":
        return {"answer": each.text, **({"compared": each.answer} if each.answer != each.text else {})}
    if need == "letter":
        return {"letter_answer": each.text}
    values = [found.sum if np.isfinite(found.sum) else None for found in each.likelihoods]
    if need == "choices":
        return {"choice_logprobs": values}
    return {"label_logprob": values[0], "label_tokens": each.likelihoods[0].tokens}
