"""Rows for heads: what is cut or empty is in the account, labels have names and are told right from wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import TrainingArguments

from swift.arguments.sft import SftArguments
from swift.commands import heads
from swift.commands.score import _measured
from swift.commands.task import task_of
from swift.datasets.convert import Conversation
from swift.datasets.groups import Group, Groups
from swift.datasets.ledger import Ledger
from swift.errors import DataError
from swift.heads.answer import answers
from swift.heads.files import Head
from swift.heads.kinds import Classifier, Embedding, Reranker
from swift.heads.rows import encode_groups, encode_texts
from swift.heads.trainer import HeadTrainer
from swift.templates.template import get_template
from tests.tiny import tiny_model, tiny_tokenizer

MULTI, SINGLE = "multi_label_classification", "single_label_classification"


def said(text: str, number: int, **more: Any) -> Any:
    return Conversation(messages=[{"role": "user", "content": text}], where=f"rows.jsonl:{number}", **more)


def encoded(rows: list[Any], kind: Any, bad: int = 0, **how: Any) -> tuple[Groups, Ledger]:
    ledger = Ledger(bad)
    ledger.read("", len(rows))
    ledger.use("train", rows)
    return encode_groups(rows, get_template("auto", tiny_tokenizer(), **how), kind, ledger, "train"), ledger


@pytest.mark.parametrize("kind", [Embedding(), Reranker()])
def test_what_is_cut_off_is_in_the_account(kind: Any) -> None:
    rows = [said("one two three four five six", 1, positive="seven eight nine ten " * 9), said("a", 2, positive="b")]
    whole, _ = encoded(rows, kind)
    found, ledger = encoded(rows, kind, max_length=16, truncation_strategy="truncation_left")
    more = sum(len(ids) for row in whole.rows for ids in row.texts) - sum(len(t) for r in found.rows for t in r.texts)
    assert ledger.parts["train"].truncated == more > 0
    assert list(ledger.cut) == ["rows.jsonl:1"]
    assert ledger.balanced


def test_an_empty_text_is_a_bad_row() -> None:
    good = said("a", 1, positive="b")
    for row, key in ((said("a", 2, positive=" "), "positive"), (said("", 2, positive="b"), "query")):
        with pytest.raises(DataError, match=rf'rows\.jsonl:2: "{key}" is empty'):
            encoded([good, row], Embedding(query="query: "))
    _, ledger = encoded([good, row], Embedding(), bad=1)
    assert list(ledger.dropped) == ["bad row"]
    (found,) = encode_texts([""], get_template("auto", tiny_tokenizer()))
    assert isinstance(found, DataError)


def test_labels_that_no_row_has_get_names(tiny_dir: Path) -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(pad_token_id=0)))
    args = SftArguments(task_type="seq_cls", num_labels=4, model_id_or_path=str(tiny_dir))
    data: Any = SimpleNamespace(train=Groups([], [], ["cold", "kind"]))
    more = heads.further(args, SimpleNamespace(), model, data)  # type: ignore[arg-type]
    names = ["cold", "kind", "LABEL_2", "LABEL_3"]
    assert list(model.config.id2label.values()) == more["head"].labels == names
    (line,) = answers(more["head"], more["head"].kind(), [1], np.array([[0.0, 0.0, 0.0, 1.0]]))
    assert line["prediction"] == "LABEL_3"


@pytest.mark.parametrize(
    ("head", "label", "prediction", "accuracy"),
    [
        (Head("seq_cls", 2, SINGLE), "1", 1, 1.0),
        (Head("seq_cls", 2, SINGLE), "0", 1, 0.0),
        (Head("seq_cls", 2, SINGLE), "kind", 0, 0.0),
        (Head("seq_cls", 2, SINGLE, ["cold", "kind"]), 1, "kind", 1.0),
        (Head("seq_cls", 3, MULTI), [2, 0], [0, 2], 1.0),
        (Head("seq_cls", 3, MULTI), [2], [0, 2], 0.0),
        (Head("seq_cls", 3, MULTI), [], [], 1.0),
        (Head("seq_cls", 2, "regression"), [0.5, 1.0], [0.51, 1.0], None),
    ],
)
def test_a_right_label_is_right_however_it_is_written(
    head: Head, label: Any, prediction: Any, accuracy: float | None
) -> None:
    assert _measured(head, [said("a", 1, label=label)], [{"prediction": prediction}]).get("accuracy") == accuracy


def test_a_run_tells_its_head_and_objective(tmp_path: Path) -> None:
    rows = Groups([Group((np.array([3, 4]),), np.array([1.0], np.float32))], [0])
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    model = tiny_model("qwen2")

    def facts(kind: Any, head: Head) -> dict[str, Any]:
        return HeadTrainer(model, copy.copy(args), train_dataset=rows, kind=kind, head=head)._run

    one = facts(Embedding("infonce", temperature=0.05), Head("embedding", 0))
    assert facts(Embedding("infonce", temperature=0.05), Head("embedding", 0)) == one
    assert facts(Embedding("contrastive"), Head("embedding", 0)) != one
    assert facts(Embedding("infonce", temperature=0.1), Head("embedding", 0)) != one
    assert facts(Embedding(), Head("embedding", 0, pooling="mean")) != one
    assert facts(Classifier(2, SINGLE), Head("seq_cls", 2, SINGLE)) != facts(
        Classifier(2, MULTI), Head("seq_cls", 2, MULTI)
    )
    assert task_of(SftArguments(task_type="embedding")).verb == "sft"
