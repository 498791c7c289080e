"""Metrics by name: what each row adds, and the score that sums of rows have.

Every metric is a few sums over rows and a function of these, so that any resample of the rows has its score at once.
Letters in names: K sums of a metric, R resamples.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from swift.errors import DataError
from swift.evaluation.items import LETTERS, Item
from swift.evaluation.likelihood import Likelihood
from swift.evaluation.statistics import Combine, Floats
from swift.evaluation.texts import extracted, letter_of, normalised, without_thought
from swift.inference.metrics import bleu, rouge_l, rouge_n, tokens_of
from swift.registry import unknown

ORDER = 4  # of BLEU


@dataclass(frozen=True)
class Told:
    """What is known of an item: an answer as text, or likelihoods of given answers.

    `answer` and `label` are what is left of them by `--answer_regex`; `text` is all that was answered.
    """

    item: Item
    answer: str = ""
    label: str = ""
    text: str = ""
    likelihoods: Sequence[Likelihood] = ()


@dataclass(frozen=True)
class Metric:
    """A row of the table of metrics.

    Attributes:
        name: what `--eval_metrics` takes.
        needs: an "answer" to the question, an answer that is a "letter", the likelihood of the "label", or that of all
            "choices".
        sums: what one row adds.
        combine: the score of such sums.
        percent: whether scores are shares, told in percent.
        higher_is_better: which of two scores is the better one.
        binary: whether a row is right or wrong; None is for the rows to show.
        about: one line.
    """

    name: str
    needs: str
    sums: Callable[[Told], tuple[float, ...]]
    about: str
    combine: Combine = field(default=lambda sums_RK: sums_RK[:, 0] / sums_RK[:, 1])
    percent: bool = True
    higher_is_better: bool = True
    binary: bool | None = False


def mean(
    name: str,
    needs: str,
    score: Callable[[Told], float],
    about: str,
    *,
    percent: bool = True,
    binary: bool | None = False,
) -> Metric:
    """A metric that is the mean of the rows' own scores."""
    return Metric(name, needs, lambda told: (float(score(told)), 1.0), about, percent=percent, binary=binary)


def share(name: str, needs: str, is_right: Callable[[Told], bool], about: str) -> Metric:
    """A metric that is the share of rows that are right."""
    return mean(name, needs, is_right, about, binary=True)


def _found(told: Told) -> bool:
    try:
        return re.search(told.label, told.answer) is not None
    except re.error as error:
        what = f"{told.item.where}: the label is no regular expression: {error}"
        raise DataError("DATA-03", what, fix="another --eval_metrics, or mend the row") from None


def _contains(answer: str, label: str) -> bool:
    wanted = normalised(label)
    return wanted in normalised(answer) if wanted else label.strip() in answer


def _chosen(told: Told, score: Callable[[Likelihood, str], float]) -> bool:
    values = [score(each, choice) for each, choice in zip(told.likelihoods, told.item.choices, strict=True)]
    return bool(np.isfinite(values).all()) and int(np.argmax(values)) == told.item.right


def _lettered(told: Told) -> bool:
    right, letters = told.item.right, LETTERS[: len(told.item.choices)]
    return right is not None and letter_of(without_thought(told.answer), letters) == letters[right]


def _tokens(told: Told) -> tuple[list[str], list[str]]:
    return tokens_of(told.answer), tokens_of(told.label)


def bleu_counts(told: Told) -> tuple[float, ...]:
    """Matches of 1 to 4 tokens, how many there are in the answer, its length and the label's."""
    answer, label = _tokens(told)
    matches, totals = [], []
    for n in range(1, ORDER + 1):
        mine, theirs = (Counter(zip(*(text[k:] for k in range(n)), strict=False)) for text in (answer, label))
        matches.append(float((mine & theirs).total()))
        totals.append(float(mine.total()))
    return (*matches, *totals, float(len(answer)), float(len(label)))


def corpus_bleu(sums_RK: Floats) -> Floats:
    """BLEU of all rows together, 0 to 1; an order without a match counts half, the next a quarter of one.

    Paper: BLEU, https://aclanthology.org/P02-1040.
    """
    matches_R4, totals_R4 = sums_RK[:, :ORDER], sums_RK[:, ORDER : 2 * ORDER]
    misses_R4 = np.cumsum(matches_R4 == 0, axis=1)
    smoothed_R4 = np.where(matches_R4 == 0, 0.5**misses_R4, matches_R4)
    log_R = (np.log(smoothed_R4) - np.log(np.maximum(totals_R4, 1.0))).mean(axis=1)
    answers_R, labels_R = sums_RK[:, -2], sums_RK[:, -1]
    brevity_R = np.minimum(0.0, 1 - labels_R / np.maximum(answers_R, 1.0))
    return np.where((totals_R4 > 0).all(axis=1) & (matches_R4[:, 0] > 0), np.exp(log_R + brevity_R), 0.0)


def _nll(told: Told) -> tuple[float, float]:
    (found,) = told.likelihoods
    return -found.sum, float(found.tokens)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        share("exact", "answer", lambda told: told.answer.strip() == told.label.strip(), "the answer is the label"),
        share(
            "exact-normalised",
            "answer",
            lambda told: normalised(told.answer) == normalised(told.label),
            "it is but for case, marks, articles and spaces",
        ),
        share(
            "contains",
            "answer",
            lambda told: _contains(told.answer, told.label),
            "the label stands in the answer, both without case, marks, articles and repeated spaces",
        ),
        share("regex", "answer", _found, "the label is a regular expression that is found in the answer"),
        mean("rouge-1", "answer", lambda told: rouge_n(*_tokens(told), 1), "F1 of shared words"),
        mean("rouge-2", "answer", lambda told: rouge_n(*_tokens(told), 2), "F1 of shared pairs of words"),
        mean("rouge-l", "answer", lambda told: rouge_l(*_tokens(told)), "F1 of the longest common subsequence"),
        mean("bleu-4", "answer", lambda told: bleu(*_tokens(told)), "mean of the rows' BLEU, smoothed"),
        Metric("corpus-bleu", "answer", bleu_counts, "BLEU of all rows together", corpus_bleu),
        share("letter", "letter", _lettered, "the letter that is answered is that of the right choice"),
        share(
            "choice", "choices", lambda told: _chosen(told, lambda each, _: each.sum), "the likeliest choice is right"
        ),
        share(
            "choice-normalised",
            "choices",
            lambda told: _chosen(told, lambda each, text: each.sum / len(text)),
            "the likeliest for its number of characters is right",
        ),
        Metric(
            "loss",
            "label",
            _nll,
            "negative log-likelihood of the labels, per token",
            percent=False,
            higher_is_better=False,
        ),
        Metric(
            "perplexity",
            "label",
            _nll,
            "its exponential",
            lambda sums_RK: np.exp(sums_RK[:, 0] / sums_RK[:, 1]),
            percent=False,
            higher_is_better=False,
        ),
    )
}
OF_ANSWERS = ("exact", "exact-normalised", "rouge-1", "rouge-2", "rouge-l", "bleu-4")
OF_LABELS, OF_CHOICES = ("loss", "perplexity"), ("choice", "choice-normalised")
LIKELIHOODS = ("label", "choices")


def choose_metrics(said: Sequence[str], item: Item, custom: Mapping[str, Metric], likelihoods: bool) -> list[Metric]:
    """The metrics of a data set, one of whose items is given; those of users come last.

    Args:
        said: names; none is all that fit.
        item: of the data set.
        custom: metrics of users by name, which are always taken.
        likelihoods: whether the model tells any.

    Raises:
        UnknownNameError: a metric that there is not.
    """
    for name in said:
        if name not in METRICS:
            raise unknown("metric of answers", name, METRICS)
    if said:
        own = [METRICS[name] for name in said if fits(METRICS[name], item)]
    elif item.choices:
        own = [METRICS[name] for name in (OF_CHOICES if likelihoods else ("letter",))]
    elif item.label is None or (custom and not said):
        own = []
    else:
        own = [METRICS[name] for name in (*OF_ANSWERS, *(OF_LABELS if likelihoods else ()))]
    return [*own, *custom.values()]


def fits(metric: Metric, item: Item) -> bool:
    """Whether a metric says something of items like this one."""
    return bool(item.choices) if metric.needs in ("letter", "choices") else item.label is not None


def user_metric(name: str, function: Callable[[str, str | None, dict[str, Any]], Any]) -> Metric:
    """A user's function of answer, label and row as a metric: a number, or true and false.

    Its result is told as it is; one that only ever says true and false is a share, as 0 to 1.
    """

    def score(told: Told) -> float:
        try:
            value = function(told.answer, told.item.label, told.item.row)
        except (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError) as error:
            what = f"--custom_metric {name}, {told.item.where}: {type(error).__name__}: {error}"
            raise DataError("DATA-03", what, fix="mend the function, or run with --debug") from error
        if not isinstance(value, (bool, int, float, np.bool_, np.number)) or not np.isfinite(value):
            what = f"--custom_metric {name}, {told.item.where}: {value!r} is no finite number"
            raise DataError("DATA-03", what, fix="return a number, or true and false")
        return float(value)

    return mean(name, "answer", score, "of the user", percent=False, binary=None)


def told(item: Item, text: str, pattern: re.Pattern[str] | None) -> Told:
    """An item with its answer; `pattern` says what of answer and label is compared."""
    return Told(item, extracted(text, pattern), extracted(item.label or "", pattern), text)
