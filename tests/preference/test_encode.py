"""Rows with preferences: read in every format, counted, refused with the format they should have, cut in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from swift.datasets.convert import convert_row, detect
from swift.datasets.encode import EncodedDataset, encode
from swift.datasets.load import load_datasets
from swift.errors import DataError
from swift.preference.batches import INPUTS, Collator
from swift.preference.encode import PreferenceEncoder, answers_of
from swift.preference.logps import of_logits
from swift.preference.rows import PreferenceRows
from swift.preference.scores import Scores
from swift.templates.template import Template, get_template
from tests.preference.conftest import pair, single, write
from tests.tiny import tiny_model

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "fine"}]
WORSE = [TALK[0], {"role": "assistant", "content": "no"}]
PAIRS: list[dict[str, Any]] = [
    {"query": "Hi", "response": "fine", "rejected_response": "no"},
    {"messages": TALK, "rejected_response": "no"},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "fine"}], "rejected_response": "no"},
    {"prompt": "Hi", "chosen": "fine", "rejected": "no"},
    {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": WORSE[1:]},
    {"chosen": TALK, "rejected": WORSE},
    {"instruction": "Hi", "output": "fine", "rejected_response": "no"},
]
SINGLES: list[dict[str, Any]] = [
    {"query": "Hi", "response": "fine", "label": False},
    {"prompt": "Hi", "completion": "fine", "label": False},
    {"prompt": TALK[:1], "completion": TALK[1:], "label": "false"},
    {"messages": TALK, "label": 0},
]


@pytest.fixture(scope="module")
def template(tokenizer: PreTrainedTokenizerFast) -> Template:
    return get_template("auto", tokenizer)


def read(row: dict[str, Any]) -> Any:
    return convert_row(detect("x", [row]), row, "x:1")


@pytest.mark.parametrize("k", range(len(PAIRS)))
def test_every_format_of_pairs_is_the_same(k: int, template: Template) -> None:
    (found,) = PreferenceEncoder(template, 100, pairs=True).encode_batch([read(PAIRS[k])])
    alone = [template.encode({"messages": talk})[0] for talk in (TALK, WORSE)]
    assert found["input_ids"] == alone[0]["input_ids"] + alone[1]["input_ids"]
    assert found["labels"] == alone[0]["labels"] + alone[1]["labels"]
    assert [list(answer["input_ids"]) for answer in answers_of(found)] == [row["input_ids"] for row in alone]


@pytest.mark.parametrize("k", range(len(SINGLES)))
def test_every_format_of_single_answers_is_the_same(k: int, template: Template) -> None:
    (found,) = PreferenceEncoder(template, 100, pairs=False).encode_batch([read(SINGLES[k])])
    assert found["input_ids"] == template.encode({"messages": TALK})[0]["input_ids"]
    assert set(found["rejected"]) == {1}


def test_two_texts_without_a_prompt_begin_with_it() -> None:
    row = {"chosen": "Human: Hi.\n\nAssistant: fine, thanks", "rejected": "Human: Hi.\n\nAssistant: fish"}
    found = read(row)
    assert found["messages"] == [
        {"role": "user", "content": "Human: Hi.\n\nAssistant:"},
        {"role": "assistant", "content": " fine, thanks"},
    ]
    assert found["rejected_response"] == " fish"
    with pytest.raises(DataError, match="do not begin alike"):
        read({"chosen": "a b", "rejected": "c d"})


def test_only_the_last_answer_counts(template: Template) -> None:
    row = read({"query": "Hi", "response": "fine", "rejected_response": "no", "history": [["one", "two"]]})
    (found,) = PreferenceEncoder(template, 100, pairs=True).encode_batch([row])
    said = [[label for label in answer["labels"] if label != -100] for answer in answers_of(found)]
    assert [template.tokenizer.decode(ids) for ids in said] == ["fine<|im_end|>", "no<|im_end|>"]


@pytest.mark.parametrize(
    ("pairs", "rows", "names"),
    [
        (True, [{"query": "a", "response": "b"}] * 2, ("rejected_response", '"chosen": "..."')),
        (True, [{"query": "a", "response": "b", "label": True}], ("--rlhf_type kto", "rejected_response")),
        (False, [{"query": "a", "response": "b"}], ('"label" is missing', '"completion"')),
        (False, [{"query": "a", "response": "b", "label": "good"}], ("'good', not true or false", '"label": true')),
        (False, [PAIRS[0]], ("--rlhf_type dpo", '"label"')),
    ],
)
def test_wrong_rows_are_told_the_right_format(
    pairs: bool, rows: list[dict[str, Any]], names: tuple[str, ...], template: Template, tmp_path: Path
) -> None:
    loaded = load_datasets(write(tmp_path / "rows.jsonl", rows), test_ratio=0)
    with pytest.raises(DataError) as caught:
        encode(loaded.train, PreferenceEncoder(template, 100, pairs=pairs), loaded.ledger)
    assert "rows.jsonl:1" in str(caught.value)
    assert all(name in str(caught.value) for name in names), caught.value


def test_every_row_is_counted(template: Template, tmp_path: Path) -> None:
    rows = [pair(0), {"query": "a", "response": "b"}, {**pair(1), "response": "one " * 60}, pair(2)]
    loaded = load_datasets(write(tmp_path / "rows.jsonl", rows), test_ratio=0, max_bad_rows=1)
    template.max_length = 60
    try:
        encoded = encode(loaded.train, PreferenceEncoder(template, 100, pairs=True), loaded.ledger)
    finally:
        template.max_length = None
    assert len(encoded) == 2
    told = loaded.ledger.to_json()
    assert told["rows_read"] == 4 == told["train"]["rows"] + sum(each["rows"] for each in told["dropped"].values())
    assert {reason: each["rows"] for reason, each in told["dropped"].items()} == {
        "bad row": 1,
        "longer than 60 tokens": 1,
    }


def fitted(template: Template, strategy: str, length: int, prompt: int) -> list[list[int]] | None:
    row = {
        "messages": [{"role": "user", "content": "one two three four five six"}, TALK[1]],
        "rejected_response": "no one",
    }
    template.max_length, template.truncation_strategy = length, strategy
    try:
        (found,) = PreferenceEncoder(template, prompt, pairs=True).encode_batch([row])
    finally:
        template.max_length, template.truncation_strategy = None, "delete"
    return [list(answer["input_ids"]) for answer in answers_of(found)] if found else None


def test_first_the_prompt_gives_way_then_the_answers(template: Template) -> None:
    whole = fitted(template, "delete", 1000, 4)
    assert whole is not None
    answers = [ids[-n:] for ids, n in zip(whole, (len(whole[0]) - 21, len(whole[1]) - 21), strict=True)]
    longest = max(map(len, whole))
    prompt = whole[0][: next(k for k, (a, b) in enumerate(zip(*whole, strict=False)) if a != b)]
    assert fitted(template, "delete", longest, 4) == whole  # it fits: nothing is cut
    tails = [ids[len(prompt) :] for ids in whole]
    assert fitted(template, "delete", longest - 1, 4) == [prompt[-4:] + tail for tail in tails]
    assert fitted(template, "delete", 4 + max(map(len, tails)) - 1, 4) is None
    cut = 4 + max(map(len, tails)) - 1
    assert fitted(template, "truncation_left", cut, 4) == [(prompt[-4:] + tail)[:cut] for tail in tails]
    assert fitted(template, "truncation_left", 4, 4) is None  # nothing of an answer would be left
    assert answers


def encoded(template: Template, pairs: bool, tmp_path: Path) -> EncodedDataset:
    rows = [pair(k) if pairs else single(k) for k in range(7)]
    loaded = load_datasets(write(tmp_path / "rows.jsonl", rows), test_ratio=0)
    return encode(loaded.train, PreferenceEncoder(template, 100, pairs=pairs), loaded.ledger)


def test_however_answers_are_laid_out_they_are_as_likely_as_alone(template: Template, tmp_path: Path) -> None:
    model = tiny_model("qwen2").double().eval()
    rows = [dict(row) for row in PreferenceRows(encoded(template, True, tmp_path))]
    alone = []
    for which in range(2):
        for row in rows:
            ids, labels = (
                torch.tensor(np.asarray(answers_of(row)[which][name])).long() for name in ("input_ids", "labels")
            )
            with torch.no_grad():
                logps = model(ids[None]).logits[0, :-1].log_softmax(-1)
            on = labels[1:] != -100
            alone.append(float(logps[on].gather(1, labels[1:][on][:, None]).sum()))
    sizes = {}
    for free in (False, True):
        for shared in (False, True):
            batch = Collator(0, free, shared)(rows)
            with torch.no_grad():
                logits = model(**{name: batch[name] for name in INPUTS if name in batch}, use_cache=False).logits
            scores = Scores.of(*of_logits(logits, batch["at"], batch["targets"], logits.shape[1]), batch)
            assert scores.logps_A.tolist() == pytest.approx(alone, abs=1e-9)
            sizes[free, shared] = batch["input_ids"].numel()
            assert int(batch["real"]) <= sizes[free, shared]
    assert sizes[True, True] < sizes[True, False] < sizes[False, False]


def test_unrelated_answers_are_of_other_questions(template: Template, tmp_path: Path) -> None:
    rows = PreferenceRows(encoded(template, False, tmp_path), single=True, limit=40)
    assert rows.partner is not None
    for place in rows.used.tolist():
        row, other = rows.row(place), rows.row(int(rows.partner[place]))
        asked, unrelated = (template.tokenizer.decode(each["input_ids"]) for each in (other, row["partner"]))
        assert asked.split("assistant")[0] != unrelated.split("assistant")[0]
        assert asked.split("assistant")[1].startswith(unrelated.split("assistant")[1][:5])
        assert len(row["partner"]["input_ids"]) <= 40
    assert rows.row(0)["partner"]["labels"][0] == -100
    assert json.dumps(rows[0]["rejected"].tolist())
