"""How near an answer is to its label: ROUGE-1, ROUGE-2, ROUGE-L, BLEU-4 and exact match, in percent."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+|[^\w\s]")


def tokens_of(text: str) -> list[str]:
    """What is compared: single CJK characters, runs of other letters and digits, and marks, in lower case."""
    return WORD.findall(text.lower())


def rouge_n(answer: Sequence[str], label: Sequence[str], n: int) -> float:
    """F1 of the n-grams that two token lists share, 0 to 1; both without any is 1 when they are equal.

    Paper: ROUGE: A Package for Automatic Evaluation of Summaries, https://aclanthology.org/W04-1013, section 2.
    """
    mine, theirs = _ngrams(answer, n), _ngrams(label, n)
    if not mine or not theirs:
        return float(list(answer) == list(label))
    return _f1((mine & theirs).total(), mine.total(), theirs.total())


def rouge_l(answer: Sequence[str], label: Sequence[str]) -> float:
    """F1 of the longest common subsequence of two token lists, 0 to 1.

    Paper: ROUGE: A Package for Automatic Evaluation of Summaries, https://aclanthology.org/W04-1013, section 3.1.
    """
    if not answer or not label:
        return float(list(answer) == list(label))
    return _f1(_common_subsequence(answer, label), len(answer), len(label))


def bleu(answer: Sequence[str], label: Sequence[str], order: int = 4) -> float:
    """Sentence BLEU of two token lists, 0 to 1, with the n-gram orders that both are long enough for.

    The first order without a match counts as half a match, the second as a quarter, and so on, so that short answers
    are not all 0; without a common unigram it is 0.

    Paper: BLEU, https://aclanthology.org/P02-1040; smoothing 3 of https://aclanthology.org/W14-3346.
    """
    order = min(order, len(answer), len(label))
    if order == 0:
        return float(list(answer) == list(label))
    log_precision, misses = 0.0, 0
    for n in range(1, order + 1):
        mine = _ngrams(answer, n)
        matches = (mine & _ngrams(label, n)).total()
        if matches == 0 and n == 1:
            return 0.0
        misses += matches == 0
        log_precision += math.log((matches or 0.5**misses) / mine.total())
    brevity = min(0.0, 1 - len(label) / len(answer))
    return math.exp(brevity + log_precision / order)


def text_metrics(answers: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Means over all pairs, in percent: rouge-1, rouge-2, rouge-l, bleu-4 and exact (equal but for outer spaces)."""
    assert answers, "metrics of no answers"
    scores = [score(answer, label) for answer, label in zip(answers, labels, strict=True)]
    return {name: round(100 * sum(each[name] for each in scores) / len(scores), 4) for name in scores[0]}


def score(answer: str, label: str) -> dict[str, float]:
    """How near one answer is to its label: rouge-1, rouge-2, rouge-l, bleu-4 and exact, 0 to 1."""
    mine, theirs = tokens_of(answer), tokens_of(label)
    return {
        "rouge-1": rouge_n(mine, theirs, 1),
        "rouge-2": rouge_n(mine, theirs, 2),
        "rouge-l": rouge_l(mine, theirs),
        "bleu-4": bleu(mine, theirs),
        "exact": float(answer.strip() == label.strip()),
    }


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1))


def _f1(shared: int, mine: int, theirs: int) -> float:
    return 2 * shared / (mine + theirs)


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table at a time."""
    row = [0] * (len(right) + 1)
    for item in left:
        diagonal = 0
        for k, other in enumerate(right, 1):
            diagonal, row[k] = row[k], diagonal + 1 if item == other else max(row[k], row[k - 1])
    return row[-1]
