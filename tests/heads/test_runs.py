"""Heads through the command: what a run learns from, that it goes on to the bit, what its checkpoints hold and say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from swift.errors import ConfigError, DataError, UsageError
from swift.llm import InferArguments, infer_main, merge_lora, prepare_model_template
from tests.heads.conftest import KINDS, Train, logged, rows_of, weights
from tests.road.conftest import write_jsonl

MORE = (("search", "full"), ("pairs", "lora"), ("rerank", "full"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_that_of_its_rows_however_it_is_cut(train: Train, kind: str) -> None:
    whole = train(kind, batch_size=4, max_steps=2)
    if kind == "search":  # its negatives are those of a batch
        assert logged(whole)[0] > 0
        return
    cut = train(kind, batch_size=2, gradient_accumulation_steps=2, max_steps=2, group_by_length=True)
    same = train(kind, batch_size=1, gradient_accumulation_steps=4, max_steps=2)
    assert logged(cut) == pytest.approx(logged(whole), abs=2e-6)
    assert logged(same) == pytest.approx(logged(whole), abs=2e-6)
    for name, tensor in weights(whole, 2).items():
        torch.testing.assert_close(weights(same, 2)[name], tensor, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "sft_type"), [pytest.param(*one, marks=pytest.mark.slow) for one in (("names", "lora"), *MORE)]
)
def test_it_goes_on_to_the_bit(train: Train, kind: str, sft_type: str) -> None:
    whole = train(kind, sft_type=sft_type)
    again = train(kind, sft_type=sft_type, resume_from_checkpoint=f"{whole['output_dir']}/checkpoint-2")
    first, second = weights(whole, 4), weights(again, 4)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    scores = [name for name in first if "score" in name]
    assert len(scores) == (kind != "search")
    assert all(not torch.equal(first[name], weights(whole, 2)[name]) for name in scores)
    account = json.loads((Path(whole["output_dir"]) / "data_report.json").read_text())
    assert account["rows_read"] == 24 == account["train"]["rows"] + account["validation"]["rows"]


def scored(run: Path | str, data: str, **said: Any) -> list[dict[str, Any]]:
    words = {"dataset": [data], "save_result": False, "verbose": False, **said}
    return infer_main([], ckpt_dir=str(run), **words)["result"]


@pytest.mark.slow
def test_labels_with_names(train: Train, tiny_dir: Path) -> None:
    report = train("names", rows=60, max_steps=40, batch_size=16, learning_rate=1e-2, eval_steps=40)
    assert logged(report, "eval_f1")
    checkpoint = Path(report["output_dir"]) / "checkpoint-40"
    assert json.loads((checkpoint / "head.json").read_text())["labels"] == ["cold", "kind"]
    lines = scored(checkpoint, report["data"], batch_size=7)
    assert np.mean([line["prediction"] == line["label"] for line in lines]) > 0.9
    base = AutoModelForSequenceClassification.from_pretrained(tiny_dir, num_labels=2, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    model = PeftModel.from_pretrained(base, checkpoint).eval()
    text = tokenizer.apply_chat_template(lines[0]["messages"], add_generation_prompt=True, tokenize=False)
    row = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    if lines[0]["messages"][0]["role"] == "assistant":
        text = tokenizer.apply_chat_template(
            [{**lines[0]["messages"][0], "role": "user"}], add_generation_prompt=True, tokenize=False
        )
        row = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**row).logits.softmax(-1)[0].tolist()
    assert list(lines[0]["probabilities"].values()) == pytest.approx(theirs, abs=1e-5)
    merged = merge_lora(InferArguments(ckpt_dir=str(checkpoint)))
    plain = AutoModelForSequenceClassification.from_pretrained(merged)
    assert plain.config.id2label == {0: "cold", 1: "kind"}
    with torch.no_grad():
        assert plain(**row).logits.softmax(-1)[0].tolist() == pytest.approx(theirs, abs=1e-5)
    assert [line["prediction"] for line in scored(merged, report["data"])] == [line["prediction"] for line in lines]


@pytest.mark.slow
def test_vectors(train: Train) -> None:
    report = train("search", sft_type="full", max_steps=2, query_prefix="query: ")
    assert {"eval_recall@1", "eval_mrr"} <= report["log_history"][-2].keys() | report["log_history"][-1].keys()
    checkpoint = Path(report["output_dir"]) / "checkpoint-2"
    line = scored(checkpoint, report["data"])[0]
    tokenizer, model = AutoTokenizer.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint).eval()
    asked = line["messages"][0]["content"]
    with torch.no_grad():
        states = model(**tokenizer(f"query: {asked}", return_tensors="pt")).last_hidden_state
    assert line["vector"] == pytest.approx(F.normalize(states[0, -1], dim=0).tolist(), abs=1e-5)
    assert len(line["documents"]) == len(line["cosines"]) >= 2
    from swift.inference.embedding import Embedder, read_recipe

    served = Embedder(model, tokenizer, read_recipe(checkpoint))
    assert served.vectors([served.ids(f"query: {asked}")])[0].tolist() == pytest.approx(line["vector"], abs=1e-5)
    tuned = train("search", max_steps=2)
    merged = Path(merge_lora(InferArguments(ckpt_dir=f"{tuned['output_dir']}/checkpoint-2")))
    assert read_recipe(merged).pooling == ("lasttoken",)
    one, other = scored(merged, report["data"])[0], scored(f"{tuned['output_dir']}/checkpoint-2", report["data"])[0]
    assert one["vector"] == pytest.approx(other["vector"], abs=1e-5)


@pytest.mark.slow
def test_a_reward_model_scores(train: Train, tiny_dir: Path, tmp_path: Path) -> None:
    report = train("pairs", rows=80, max_steps=30, batch_size=8, learning_rate=1e-2, center_rewards_coefficient=0.01)
    checkpoint = Path(report["output_dir"]) / "checkpoint-30"
    held = str(write_jsonl(tmp_path / "held.jsonl", rows_of("pairs", 60, seed=9)))
    lines = scored(checkpoint, held)
    assert np.mean([line["score"] > line["rejected_score"] for line in lines]) >= 0.95
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_dir, num_labels=1, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, checkpoint).eval()
    text = tokenizer.apply_chat_template(lines[0]["messages"], tokenize=False)
    with torch.no_grad():
        theirs = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits
    assert lines[0]["score"] == pytest.approx(float(theirs), abs=1e-5)
    result = infer_main([], ckpt_dir=str(checkpoint), dataset=[held], result_dir=str(tmp_path), verbose=False)
    (file,) = tmp_path.glob("2*.jsonl")
    assert [json.loads(text) for text in file.read_text().splitlines()] == result["result"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numbers", "sets", "alike", "listwise"])
def test_what_each_kind_writes(train: Train, kind: str) -> None:
    report = train(kind)
    names = {"numbers": "eval_mse", "sets": "eval_f1", "alike": "eval_pearson", "listwise": "eval_recall@1"}
    assert len(logged(report, names[kind])) == 2
    line = scored(f"{report['output_dir']}/checkpoint-4", report["data"])[0]
    keys = {"numbers": "prediction", "sets": "probabilities", "alike": "cosines", "listwise": "order"}
    assert keys[kind] in line


@pytest.mark.slow
def test_other_tuners_take_the_head_along(train: Train) -> None:
    for said in (
        {"sft_type": "adapter"},
        {"tuner": ["lora:rank=2", "adapter:length=4"]},
        {"sft_type": "ia3", "ia3_feedforward_modules": ["down_proj"]},
    ):
        report = train("names", max_steps=2, **said)
        checkpoint = f"{report['output_dir']}/checkpoint-2"
        one, other = scored(checkpoint, report["data"]), scored(checkpoint, report["data"])
        assert one == other


def test_what_cannot_be_is_said_first(train: Train, tmp_path: Path) -> None:
    for said, message in (
        ({"num_labels": None}, "--num_labels is missing"),
        ({"num_labels": 1, "problem_type": "single_label_classification"}, "leaves nothing to choose"),
        ({"packing": True}, "does not go with --packing"),
        ({"loss_name": "infonce"}, "has no loss infonce"),
        ({"pooling": "mean"}, "--pooling is of embedding"),
        ({"task_type": "causal_lm"}, "--num_labels needs --task_type"),
        ({"sft_type": "reft"}, "reft is made for models that write"),
    ):
        with pytest.raises((ConfigError, UsageError), match=message):
            train("names", **said)
    with pytest.raises(ConfigError, match="--beta has no meaning for a reward model"):
        train("pairs", beta=0.2)
    bad = write_jsonl(tmp_path / "bad.jsonl", [*rows_of("names", 8), {"text": "one", "label": None}])
    with pytest.raises(DataError, match=r'bad\.jsonl:9: "label" is missing'):
        train("names", dataset=[str(bad)])
    report = train("names", dataset=[str(bad)], max_bad_rows=1, max_steps=1)
    assert len(report["dataset_info"]["bad_rows"]) == 1
    args = InferArguments(ckpt_dir=f"{report['output_dir']}/checkpoint-1")
    with pytest.raises(ConfigError, match="has a head for seq_cls: it writes no text"):
        prepare_model_template(args)
    with pytest.raises(UsageError, match="does not chat"):
        infer_main([], ckpt_dir=f"{report['output_dir']}/checkpoint-1")
