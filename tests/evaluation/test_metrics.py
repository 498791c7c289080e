"""Metrics of answers against the packages that define them, and by hand."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from swift.errors import DataError
from swift.evaluation.items import Item
from swift.evaluation.likelihood import Likelihood
from swift.evaluation.metrics import METRICS, Told, told, user_metric
from swift.evaluation.texts import extracted, letter_of, normalised

WORDS = "the cat sat on a mat and saw one small dog run far away".split()
SIGNS = "天气很好今我们去公园玩吧的是了在"


def an_item(label: str | None = "", **more) -> Item:
    row = {"messages": [{"role": "user", "content": "?"}]}
    return Item("d", "d:1", row, None if label is None else {"role": "assistant", "content": label}, label, **more)


def score(name: str, answer: str, label: str) -> float:
    sums = METRICS[name].sums(told(an_item(label), answer, None))
    return float(METRICS[name].combine(np.array([sums]))[0])


def pairs(chinese: bool = False, least: int = 1) -> list[tuple[str, str]]:
    draw = random.Random(3)
    bag, joint = (list(SIGNS), "") if chinese else (WORDS, " ")
    return [
        (joint.join(draw.choices(bag, k=draw.randint(least, 12))), joint.join(draw.choices(bag, k=draw.randint(least, 12))))
        for _ in range(60)
    ]  # fmt: skip


class Signs:
    def tokenize(self, text: str) -> list[str]:
        return list(text)


@pytest.mark.parametrize("chinese", [False, True])
def test_rouge_is_that_of_its_package(chinese: bool) -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    names = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}
    scorer = rouge_scorer.RougeScorer(list(names.values()), tokenizer=Signs() if chinese else None)
    for answer, label in pairs(chinese, least=2):
        expected = scorer.score(label, answer)
        for name, theirs in names.items():
            assert score(name, answer, label) == pytest.approx(expected[theirs].fmeasure), (name, answer, label)


@pytest.mark.parametrize("chinese", [False, True])
def test_bleu_is_that_of_its_package(chinese: bool) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    found = pairs(chinese, least=4)
    spaced = [tuple(" ".join(text) if chinese else text for text in pair) for pair in found]
    for (answer, label), (a, b) in zip(found, spaced, strict=True):
        whole = sacrebleu.sentence_bleu(a, [b], tokenize="none", smooth_method="exp", use_effective_order=True)
        assert score("bleu-4", answer, label) == pytest.approx(whole.score / 100), (answer, label)
    sums = np.array([METRICS["corpus-bleu"].sums(told(an_item(label), answer, None)) for answer, label in found])
    corpus = sacrebleu.corpus_bleu([a for a, _ in spaced], [[b for _, b in spaced]], tokenize="none")
    assert METRICS["corpus-bleu"].combine(sums.sum(axis=0, keepdims=True))[0] == pytest.approx(corpus.score / 100)


@pytest.mark.parametrize(
    ("name", "answer", "label", "expected"),
    [
        ("exact", " Paris\n", "Paris", 1),
        ("exact", "paris", "Paris", 0),
        ("exact-normalised", "The  Paris!", "paris", 1),
        ("exact-normalised", "１，０００", "1000", 1),
        ("exact-normalised", "Paris now", "paris", 0),
        ("exact-normalised", "-5", "5", 0),
        ("exact-normalised", "\u22125.", "-5", 1),
        ("exact-normalised", "1.5", "15", 0),
        ("exact-normalised", "是-.5!", "是-.5", 1),
        ("exact-normalised", ".5", "5", 0),
        ("exact-normalised", "covid-19", "Covid19", 1),
        ("contains", "It is Paris, of course.", "paris", 1),
        ("contains", "It is Rome.", "paris", 0),
        ("contains", "no mark", "?", 0),
        ("contains", "why?", "?", 1),
        ("regex", "about 42 of them", r"\b4\d\b", 1),
        ("regex", "about 52 of them", r"\b4\d\b", 0),
        ("rouge-l", "", "", 1),
        ("rouge-1", "", "a", 0),
        ("corpus-bleu", "", "a b c d", 0),
        ("corpus-bleu", "a b c d", "a b c d", 1),
    ],
)
def test_by_hand(name: str, answer: str, label: str, expected: float) -> None:
    assert score(name, answer, label) == pytest.approx(expected)


def test_a_label_that_is_no_pattern_is_named() -> None:
    with pytest.raises(DataError, match="d:1: the label is no regular expression"):
        score("regex", "x", "(")


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (r"#### (\S+)", "so 4 #### 4 and #### 72", "72"),
        (r"\d+", "1 then 22.", "22"),
        (r"#### (\S+)", "nothing", "nothing"),
        (r"x(y)?", "x", ""),
    ],
)
def test_what_is_compared_of_an_answer(pattern: str, text: str, expected: str) -> None:
    assert extracted(text, re.compile(pattern)) == expected
    assert extracted(text, None) == text


def test_normalised_and_letters() -> None:
    assert normalised("“An  Apple”， a pear; THE end.") == "apple pear end"
    assert normalised("theatre") == "theatre"
    answers = ("B", "(C) it is", "答案是D。", "BAD", "", "I think so: A", "E")
    assert [letter_of(text, "ABCD") for text in answers] == ["B", "C", "D", None, None, "A", None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat is an animal, so the answer is C", "C"),
        ("A cat is an animal: C.", "C"),
        ("A dog has four legs\n**D**\nof B", "D"),
        ("A is right, B is not", "A"),
        ("Is the answer A? No: the correct answer is (B).", "B"),
        ("A hint: 选项B是错的，答案是C。", "C"),
        (r"A sum. \boxed{D}", "D"),
        ("A dog", "A"),
        ("Answer: B", "B"),
    ],
)
def test_which_letter_an_answer_names(text: str, expected: str) -> None:
    assert letter_of(text, "ABCD") == expected


def test_a_letter_is_read_behind_the_thought_and_by_the_pattern() -> None:
    item = an_item(label="two", choices=("one", "two", "three"), right=1)
    for text, pattern, right in (
        ("<think>The answer is A.</think>\nB", None, 1),
        ("<think>The answer is B, as", None, 0),
        ("choices A, C; FINAL=B or C", re.compile("FINAL=(.)"), 1),
    ):
        assert METRICS["letter"].sums(told(item, text, pattern)) == (right, 1.0), text


def test_choices_by_likelihood_raw_and_by_length() -> None:
    item = an_item(label="long one", choices=("ab", "long one"), right=1)
    each = Told(item, likelihoods=[Likelihood(-3.0, 1), Likelihood(-8.0, 4)])
    assert METRICS["choice"].sums(each) == (0.0, 1.0)  # -3 > -8
    assert METRICS["choice-normalised"].sums(each) == (1.0, 1.0)  # -8 / 8 > -3 / 2
    letter = told(an_item(label="long one", choices=("ab", "long one"), right=1), "B.", None)
    assert METRICS["letter"].sums(letter) == (1.0, 1.0)


def test_loss_and_perplexity_are_per_token() -> None:
    sums = np.array([METRICS["loss"].sums(Told(an_item(), likelihoods=[Likelihood(-6.0, 2)])), (2.0, 2.0)])
    assert METRICS["loss"].combine(sums.sum(axis=0, keepdims=True)) == 2.0
    assert METRICS["perplexity"].combine(sums.sum(axis=0, keepdims=True)) == pytest.approx(np.exp(2.0))


def test_a_metric_of_the_user_and_its_mistakes() -> None:
    seen = []

    def mine(answer, label, row):
        seen.append((answer, label, row["messages"][0]["content"]))
        return len(answer)

    assert user_metric("mine", mine).sums(told(an_item("l"), "four", None)) == (4.0, 1.0)
    assert seen == [("four", "l", "?")]
    with pytest.raises(DataError, match=r"bad, d:1: KeyError: 'x'"):
        user_metric("bad", lambda answer, label, row: row["x"]).sums(told(an_item(), "", None))
    for value in ("text", None, float("nan")):
        with pytest.raises(DataError, match="is no finite number"):
            user_metric("bad", lambda *said, value=value: value).sums(told(an_item(), "", None))
