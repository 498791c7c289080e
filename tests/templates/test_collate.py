"""Batches."""

from __future__ import annotations

import pytest
import torch

from swift.errors import ConfigError
from swift.templates.collate import data_collator
from swift.templates.template import get_template
from tests.tiny import tiny_model, tiny_tokenizer

ROWS = [
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "length": 3, "where": "a:1"},
    {"input_ids": [8], "labels": [8], "length": 1, "where": "a:2"},
]


def test_pads_on_the_right():
    batch = data_collator(ROWS, tiny_tokenizer())
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "labels": [[-100, 6, 7], [8, -100, -100]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
    }
    assert {value.dtype for value in batch.values()} == {torch.int64}


@pytest.mark.parametrize(("padding_to", "width"), [(None, 3), (2, 3), (3, 3), (7, 7)])
def test_padding_to_is_the_least_width(padding_to, width):
    template = get_template("qwen", tiny_tokenizer())
    assert {value.shape for value in template.data_collator(ROWS, padding_to).values()} == {(2, width)}


def test_columns_of_the_first_row_decide():
    scaled = [{**ROWS[0], "loss_scale": [0.0, 1.0, 2.0]}, {**ROWS[1], "loss_scale": [1.0]}]
    assert data_collator(scaled, tiny_tokenizer())["loss_scale"].tolist() == [[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]
    assert "labels" not in data_collator([{"input_ids": [1], "labels": None}], tiny_tokenizer())


def test_no_padding_token():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ConfigError, match="no padding token"):
        data_collator(ROWS, tokenizer)


def test_padding_never_changes_the_loss():
    template = get_template("qwen", tiny_tokenizer())
    rows = template.encode_batch(
        [{"query": q, "response": "yes it is"} for q in ("a", "is it so", "tell me more " * 5)]
    )
    model = tiny_model().eval()

    def total(batch: dict) -> float:
        count = int((batch["labels"][:, 1:] != -100).sum())
        with torch.no_grad():
            return float(model(**batch).loss) * count

    alone = sum(total(template.data_collator([row])) for row in rows)
    assert total(template.data_collator(rows)) == pytest.approx(alone, rel=1e-6)
    assert total(template.data_collator(rows, 200)) == pytest.approx(alone, rel=1e-6)
