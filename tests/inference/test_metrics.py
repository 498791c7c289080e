import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.inference.metrics import bleu, rouge_l, rouge_n, text_metrics, tokens_of

words = st.lists(st.sampled_from("abcd"), max_size=7)


def test_tokens_are_words_marks_and_single_cjk_characters():
    assert tokens_of("Hello, W2 world! 你好abc_1。") == ["hello", ",", "w2", "world", "!", "你", "好", "abc_1", "。"]


def test_rouge_n_is_the_f1_of_shared_ngrams():
    answer, label = ["the", "cat", "sat"], ["the", "cat", "sat", "on", "the", "mat"]
    assert rouge_n(answer, label, 1) == pytest.approx(2 * 3 / (3 + 6))
    assert rouge_n(answer, label, 2) == pytest.approx(2 * 2 / (2 + 5))


def test_rouge_n_counts_a_repeated_word_as_often_as_the_label_has_it():
    assert rouge_n(["the", "the", "the"], ["the", "cat"], 1) == pytest.approx(2 * 1 / 5)


def test_rouge_l_skips_over_what_is_between():
    assert rouge_l(["police", "the", "gunman"], ["police", "killed", "the", "gunman"]) == pytest.approx(2 * 3 / 7)
    assert rouge_l(list("gtkp"), list("pktg")) == pytest.approx(2 * 1 / 8)


def test_bleu_by_hand():
    label = ["the", "cat", "is", "on", "the", "mat"]
    assert bleu(label, label) == pytest.approx(1)
    # precisions 3/3, 2/2, 1/1 of an answer of 3 tokens; brevity exp(1 - 6/3)
    assert bleu(["the", "cat", "is"], label) == pytest.approx(2.718281828 ** (1 - 6 / 3))
    # unigrams 5/6, bigrams 3/5, trigrams 1/4, no fourgram: half a match of 3
    answer = ["the", "cat", "the", "cat", "is", "mat"]
    assert bleu(answer, label) == pytest.approx((5 / 6 * 2 / 5 * 1 / 4 * 0.5 / 3) ** 0.25)


def test_nothing_in_common_is_zero():
    assert bleu(["a"], ["b"]) == rouge_l(["a"], ["b"]) == rouge_n(["a"], ["b"], 1) == 0


@pytest.mark.parametrize("score", [rouge_l, bleu, lambda a, b: rouge_n(a, b, 1), lambda a, b: rouge_n(a, b, 2)])
@given(a=words, b=words)
@settings(max_examples=60, deadline=None)
def test_scores_lie_between_0_and_1_and_equal_texts_have_1(score, a, b):
    assert 0 <= score(a, b) <= 1
    assert score(a, a) == pytest.approx(1)


@given(a=words, b=words)
@settings(max_examples=60, deadline=None)
def test_the_longest_common_subsequence_is_the_one_of_brute_force(a, b):
    def brute(i, j):
        if i == len(a) or j == len(b):
            return 0
        return 1 + brute(i + 1, j + 1) if a[i] == b[j] else max(brute(i + 1, j), brute(i, j + 1))

    expected = 2 * brute(0, 0) / (len(a) + len(b)) if a and b else float(a == b)
    assert rouge_l(a, b) == pytest.approx(expected)


def test_text_metrics_are_means_in_percent():
    assert text_metrics(["Paris", "Rome "], ["Paris", "Rome"]) == dict.fromkeys(
        ["rouge-1", "rouge-2", "rouge-l", "bleu-4", "exact"], 100.0
    )
    half = text_metrics(["Paris", "x"], ["Paris", "y"])
    assert set(half.values()) == {50.0}


def test_every_label_needs_an_answer():
    with pytest.raises(ValueError, match="zip"):
        text_metrics(["a"], ["a", "b"])
