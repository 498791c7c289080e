"""Likelihoods against one row at a time by hand, and against the loss that training reports."""

from __future__ import annotations

import pytest
import torch

from swift.evaluation.answers import Kept
from swift.evaluation.asking import Local
from swift.evaluation.items import Item
from swift.evaluation.likelihood import Given, given, given_answer, likelihoods
from swift.templates.template import get_template
from swift.trainers import Seq2SeqTrainer, Seq2SeqTrainingArguments
from tests.tiny import tiny_model, tiny_tokenizer

TALKS = [
    [("What is the capital of France?", "Paris.")],
    [("你是谁？", "我是一个小模型。")],
    [("one two", "three"), ("four five", "six seven eight nine ten")],
]


def messages(talk):
    return [
        {"role": role, "content": text} for pair in talk for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


@pytest.fixture(scope="module")
def template():
    return get_template("auto", tiny_tokenizer())


def by_hand(model, ids, labels):
    """The sum over all labels of one row alone, in float64."""
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[k - 1, label]) for k, label in enumerate(labels) if label != -100 and k)


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_a_batch_is_its_rows_one_at_a_time(template, kind) -> None:
    model = tiny_model(kind).double().eval()
    rows = [given(template, {"messages": messages(talk)}) for talk in TALKS]
    found = likelihoods(model, rows)
    for row, each in zip(rows, found, strict=True):
        assert each.sum == pytest.approx(by_hand(model, row.ids, row.labels), abs=1e-9)
        assert each.tokens == sum(label != -100 for label in row.labels[1:])


def test_a_given_answer_is_its_tokens_and_nothing_else(template) -> None:
    asked = {"messages": messages(TALKS[2])[:-1]}
    found = given_answer(template, asked, "six seven")
    prompt = template.encode(asked)[0]["input_ids"]
    assert found.ids[: len(prompt)] == prompt
    assert template.tokenizer.decode(found.ids[len(prompt) :]) == "six seven"
    assert found.labels == [-100] * len(prompt) + found.ids[len(prompt) :]


def test_what_is_written_before_an_answer_does_not_count() -> None:
    tokenizer = tiny_tokenizer()
    for kind in ("qwen3", "qwen3-thinking", "qwen2_5"):
        template = get_template(kind, tokenizer)
        for answer in ("six seven", "你好"):
            found = given_answer(template, {"messages": messages(TALKS[2])[:-1]}, answer)
            counted = [label for label in found.labels if label != -100]
            assert tokenizer.decode(counted) == answer, kind


def test_of_a_row_that_lost_its_beginning_all_of_the_answer_counts() -> None:
    asked = {"messages": [{"role": "user", "content": "one two three " * 9}]}
    cut = get_template("auto", tiny_tokenizer(), max_length=20, truncation_strategy="truncation_left")
    found = given_answer(cut, asked, "six seven")
    assert cut.tokenizer.decode([label for label in found.labels if label != -100]) == "six seven"
    assert given_answer(cut, asked, "six seven eight " * 20) is None, "it does not fit itself"


def test_the_loss_is_that_of_the_trainer(template, tmp_path) -> None:
    rows = [template.encode({"messages": messages(talk)})[0] for talk in TALKS]
    model = tiny_model()
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(tmp_path), per_device_eval_batch_size=2, use_cpu=True, report_to=[]
    )
    trainer = Seq2SeqTrainer(model, arguments, template.data_collator, rows, rows, template=template)
    expected = trainer.evaluate()["eval_loss"]
    found = likelihoods(model.eval(), [Given(row["input_ids"], row["labels"]) for row in rows])
    assert -sum(each.sum for each in found) / sum(each.tokens for each in found) == pytest.approx(expected, rel=1e-6)


def test_what_does_not_fit_is_impossible_and_has_no_tokens() -> None:
    template = get_template("auto", tiny_tokenizer(), max_length=12)
    asked = Local(tiny_model(), template, tiny_model().generation_config, Kept())
    row = {"messages": [{"role": "user", "content": "one two three " * 9}]}
    item = Item("d", "d:1", row, {"role": "assistant", "content": "a"}, "a", ("a", "b"), 0)
    assert [each.tokens for each in asked.labels([item])[0]] == [0]
    assert [each.sum for each in asked.choices([item])[0]] == [float("-inf")] * 2
