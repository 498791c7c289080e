"""Laws of evaluation by generation: training does not notice it, and its scores are those of plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift.errors import ConfigError
from swift.inference.metrics import text_metrics
from swift.llm import sft_main
from swift.templates.template import get_template
from swift.trainers.predicting import NAMES, means, predict, question_of
from swift.tuners import Swift
from tests.tiny import save_tiny, tiny_tokenizer
from tests.trainers.rows import lora, trainer_of

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
ROWS = [{"query": f"after {a}", "response": f"{b} {a}"} for a, b in zip(WORDS, WORDS[1:] + WORDS[:1], strict=True)]
SCORES = ("rouge-1", "rouge-2", "rouge-l", "bleu-4", "exact")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("predicting")
    save_tiny(directory / "model", initializer_range=0.1)
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return directory


def train(place: Path, name: str, **said: Any) -> dict[str, Any]:
    options = {
        "model_id_or_path": str(place / "model"),
        "dataset": [str(place / "rows.jsonl")],
        "val_dataset": [str(place / "rows.jsonl")],
        "output_dir": str(place / name),
        "add_output_dir_suffix": False,
        "max_steps": 12,
        "eval_steps": 4,
        "batch_size": 8,
        "gradient_accumulation_steps": 1,
        "learning_rate": 2e-2,
        "lora_dropout_p": 0.1,
        "lora_target_modules": ["ALL"],
        "lora_rank": 16,
        "save_total_limit": -1,
        "report_to": ["none"],
        "system": "",
        "max_new_tokens": 12,
    }
    return sft_main(**{**options, **said})


@pytest.fixture(scope="module")
def runs(place: Path) -> dict[str, dict[str, Any]]:
    return {
        "without": train(place, "without"),
        "with": train(place, "with", predict_with_generate=True, do_sample=False),
    }


def evaluations(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in report["log_history"] if "eval_loss" in entry]


def test_training_does_not_notice_it(place: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Dropout draws numbers at every step, so one that generation took would show."""
    for step in (4, 12):
        plain, asked = (load_file(place / name / f"checkpoint-{step}" / "adapter_model.safetensors") for name in runs)
        assert plain.keys() == asked.keys()
        assert all(torch.equal(plain[key], asked[key]) for key in plain)
    for before, after in zip(evaluations(runs["without"]), evaluations(runs["with"]), strict=True):
        assert before["eval_loss"] == after["eval_loss"]
        assert not any(f"eval_{name}" in before for name in SCORES)


def plain_answers(place: Path, step: int) -> list[str]:
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    model = Swift.from_pretrained(model, place / "with" / f"checkpoint-{step}").eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    answers = []
    for row in ROWS:
        messages = [{"role": "user", "content": row["query"]}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(output, skip_special_tokens=True))
    return answers


def test_the_scores_are_those_of_plain_transformers(place: Path, runs: dict[str, dict[str, Any]]) -> None:
    found = evaluations(runs["with"])
    for entry in found:
        expected = text_metrics(plain_answers(place, entry["step"]), [row["response"] for row in ROWS])
        assert {name: entry[f"eval_{name}"] for name in SCORES} == pytest.approx(expected, abs=1e-4)
        assert 1 <= entry["eval_gen_len"] <= 12
    assert found[-1]["eval_rouge-l"] > 20, "nothing was learnt: the law says nothing"
    lines = [json.loads(line) for line in (place / "with" / "logging.jsonl").read_text().splitlines()]
    assert [line["eval_rouge-l"] for line in lines if "eval_rouge-l" in line] == [e["eval_rouge-l"] for e in found]


def test_the_best_checkpoint_has_the_highest_rouge_l(runs: dict[str, dict[str, Any]]) -> None:
    report = runs["with"]
    best = max(evaluations(report), key=lambda entry: entry["eval_rouge-l"])
    assert report["best_metric"] == best["eval_rouge-l"]
    assert Path(report["best_model_checkpoint"]).name == f"checkpoint-{best['step']}"
    assert report["gen_len"] == evaluations(report)[-1]["eval_gen_len"]
    assert "gen_len" not in runs["without"]
    assert runs["without"]["best_metric"] == min(entry["eval_loss"] for entry in evaluations(runs["without"]))


@pytest.mark.parametrize(
    ("labels", "prompt", "reply"),
    [
        ([-100, -100, 7, 8], 2, [7, 8]),
        ([-100, 5, -100, 7, 8, -100], 3, [7, 8]),
        ([5, 6, 7], None, None),
        ([-100, -100], None, None),
    ],
)
def test_the_last_reply_is_asked_for(labels: list[int], prompt: int | None, reply: list[int] | None) -> None:
    ids = [3, 5, 6, 7, 8, 9][: len(labels)]
    found = question_of(4, {"input_ids": ids, "labels": labels})
    if prompt is None:
        assert found is None
    else:
        assert found is not None
        assert (found.number, found.prompt_ids, found.label_ids) == (4, ids[:prompt], reply)


@pytest.mark.parametrize("sampled", [False, True])
def test_processes_share_the_rows_and_nothing_else(place: Path, sampled: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    model.generation_config.do_sample, model.generation_config.max_new_tokens = sampled, 6
    template = get_template("auto", tiny_tokenizer())
    rows = [template.encode(row)[0] for row in ROWS]
    whole = predict(model, template, rows, None, slots=3, seed=1)
    parts = [predict(model, template, rows, None, slots=2, seed=1, share=(3, own)) for own in range(3)]
    assert [sum(each) for each in zip(*parts, strict=True)] == pytest.approx(whole)
    assert means(whole, 0.0)["gen_len"] == whole[NAMES.index("gen_len")] / len(ROWS)


def test_what_cannot_be_asked_is_refused_before_anything_is_loaded(place: Path, tmp_path: Path) -> None:
    for said, match in [
        ({"loss_scale": "all"}, "loss_scale all"),
        ({"evaluation_strategy": "no"}, "needs evaluation"),
        ({"fsdp": "full_shard"}, "fsdp"),
        ({"deepspeed": "default-zero3"}, "deepspeed"),
    ]:
        with pytest.raises(ConfigError, match=match):
            train(tmp_path, "never", model_id_or_path=str(place / "model"), predict_with_generate=True,
                  dataset=[str(place / "rows.jsonl")], val_dataset=[str(place / "rows.jsonl")], **said)  # fmt: skip
    with pytest.raises(ConfigError, match="needs a template"):
        trainer_of(lora(), tmp_path, predict_with_generate=True)
    template = get_template("auto", tiny_tokenizer())
    with pytest.raises(ConfigError, match="no row"):
        predict(None, template, [{"input_ids": [1], "labels": [1]}], None, slots=1, seed=0)
