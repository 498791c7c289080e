"""Laws of `swift eval`: what it asks, what it counts, what it writes, and how it goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift.arguments.deploy import DeployArguments
from swift.arguments.eval import EvalArguments
from swift.arguments.fields import options_of
from swift.arguments.infer import InferArguments
from swift.commands.deploy import deploy_main
from swift.commands.eval import eval_main
from swift.commands.eval_models import find_subjects, of_one
from swift.errors import ConfigError, DataError, MissingPackageError, NotFoundError, SwiftError, UsageError
from swift.evaluation import asking
from swift.evaluation.answers import Kept
from swift.evaluation.metrics import OF_ANSWERS
from swift.inference.metrics import text_metrics
from tests.evaluation.conftest import LABELS, QUESTIONS, write


@pytest.fixture(scope="module")
def plain(place: Path):
    """What plain transformers answers, with an adapter or without."""
    tokenizer = AutoTokenizer.from_pretrained(place / "model")

    def answers(adapter: str | None, questions=QUESTIONS) -> list[str]:
        model: Any = AutoModelForCausalLM.from_pretrained(place / "model").eval()
        model = PeftModel.from_pretrained(model, place / adapter).eval() if adapter else model
        found = []
        for question in questions:
            messages = question if isinstance(question, list) else [{"role": "user", "content": question}]
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
            with torch.no_grad():
                output = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
            ids = output.tolist()
            found.append(tokenizer.decode(ids[: ids.index(2)] if 2 in ids else ids))
        return found

    return answers


def saved(options: dict[str, Any]) -> dict[str, Any]:
    return json.loads((Path(options["eval_output_dir"]) / "it" / "results.json").read_text(encoding="utf-8"))


def records(options: dict[str, Any], number: int = 1) -> list[dict[str, Any]]:
    (path,) = (Path(options["eval_output_dir"]) / "it").glob(f"answers-{number}-*.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_base_and_its_adapters_are_compared_on_the_same_rows(options, place, plain, capsys) -> None:
    options |= {"ckpt_dir": [str(place / "one"), str(place / "two")], "with_base": True}
    del options["model_id_or_path"]
    found = eval_main(**options)
    assert [report["model"] for report in found] == ["base: model", "one", "two"]
    (name,) = found[0]["datasets"]
    for number, (report, adapter) in enumerate(zip(found, (None, "one", "two"), strict=True), 1):
        answers = plain(adapter)
        assert [record["answer"] for record in records(options, number)] == answers
        expected = text_metrics(answers, LABELS)
        scores = report["datasets"][name]
        assert list(scores) == [*OF_ANSWERS, "loss", "perplexity"]
        for metric in ("rouge-1", "rouge-2", "rouge-l", "bleu-4", "exact"):
            assert 100 * scores[metric]["value"] == pytest.approx(expected[metric], abs=1e-4)
        assert scores["perplexity"]["value"] == pytest.approx(np.exp(scores["loss"]["value"]))
        for metric, entry in scores.items():
            assert entry["low"] <= entry["value"] <= entry["high"], metric
            rows = [record["scores"][metric] for record in records(options, number)]
            if metric not in ("loss", "perplexity"):
                assert entry["value"] == pytest.approx(np.mean(rows))
        if adapter:
            against = scores["loss"]["against"]
            assert against["model"] == "base: model"
            assert against["value"] == pytest.approx(
                scores["loss"]["value"] - found[0]["datasets"][name]["loss"]["value"]
            )
            assert scores["exact"]["against"]["method"] == "mcnemar"
            assert scores["rouge-l"]["against"]["method"] == "bootstrap"
    whole = saved(options)
    assert whole["models"] == json.loads(json.dumps(found))
    assert whole["rows"]["validation"]["rows"] == whole["rows"]["rows_read"] == len(QUESTIONS)
    picture = (Path(options["eval_output_dir"]) / "it" / "plot.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 5000
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["data", "set", "metric", "rows", "base:", "model", "one", "two"]
    assert any("two - base: model" in line for line in table)


def test_choices_are_scored_by_likelihood(options, place) -> None:
    options |= {"eval_dataset": [str(place / "mc.jsonl")]}
    (report,) = eval_main(**options)
    (scores,) = report["datasets"].values()
    assert list(scores) == ["choice", "choice-normalised"]
    model = AutoModelForCausalLM.from_pretrained(place / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(place / "model")
    right = []
    for record, question in zip(records(options), QUESTIONS, strict=True):
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        sums = []
        for choice in record["choices"]:
            ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logprobs = model(torch.tensor([prompt + ids])).logits[0].double().log_softmax(-1)
            sums.append(sum(float(logprobs[len(prompt) - 1 + k, i]) for k, i in enumerate(ids)))
        assert record["choice_logprobs"] == pytest.approx(sums, abs=1e-3)
        right.append(int(np.argmax(sums)) == record["right"])
    assert scores["choice"]["value"] == np.mean(right)


def test_examples_come_first_and_a_limit_cuts_and_the_ledger_knows(options, plain) -> None:
    eval_main(**options, eval_few_shot=1, eval_limit=3, eval_metrics=["exact", "loss"])
    found = records(options)
    shown = [{"role": "user", "content": QUESTIONS[0]}, {"role": "assistant", "content": LABELS[0]}]
    asked = [[*shown, {"role": "user", "content": question}] for question in QUESTIONS[1:4]]
    assert [record["answer"] for record in found] == plain(None, asked)
    rows = saved(options)["rows"]
    assert {reason: entry["rows"] for reason, entry in rows["dropped"].items()} == {
        "shown as examples": 1,
        "beyond --eval_limit": 2,
    }
    assert rows["validation"]["rows"] == 3
    assert all(record["label_tokens"] < 20 for record in found), "the examples' replies count in no loss"


def test_a_killed_run_goes_on_where_it_was_to_the_same_bytes(options, place, tmp_path, monkeypatch) -> None:
    options |= {"eval_use_cache": True, "eval_dataset": [str(place / "qa.jsonl"), str(place / "mc.jsonl")]}
    options |= {"batch_size": 2, "do_sample": True, "temperature": 1.5}
    eval_main(**{**options, "eval_output_dir": str(tmp_path / "whole")})
    put, kept = Kept.put, []

    def killed(self, key, value):
        if len(kept) == 9:
            raise KeyboardInterrupt
        kept.append(key)
        return put(self, key, value)

    with monkeypatch.context() as short:
        short.setattr(Kept, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            eval_main(**options)
    (cache,) = Path(options["eval_output_dir"]).glob("cache/*.jsonl")
    with cache.open("ab") as file:
        file.write(b'{"key": "cut')
    asked = []
    monkeypatch.setattr(Kept, "put", lambda self, key, value: asked.append(key) or put(self, key, value))
    eval_main(**options)
    assert not set(asked) & set(kept[:8]), "what was kept was asked again"
    monkeypatch.setattr(asking, "generate_batch", lambda *a, **k: iter(()))
    monkeypatch.setattr(asking, "likelihoods", lambda *a, **k: pytest.fail("known already"))
    eval_main(**options)
    for path in (tmp_path / "whole" / "it").iterdir():
        if path.suffix == ".jsonl":
            assert path.read_bytes() == (tmp_path / "out" / "it" / path.name).read_bytes()
    assert saved(options)["models"] == saved({**options, "eval_output_dir": str(tmp_path / "whole")})["models"]


@pytest.mark.slow
def test_without_the_cache_nothing_is_kept_and_other_weights_have_their_own(options, place) -> None:
    eval_main(**options, eval_metrics=["exact"])
    assert not (Path(options["eval_output_dir"]) / "cache").exists()
    options |= {"ckpt_dir": [str(place / "one"), str(place / "two")], "eval_use_cache": True}
    eval_main(**options, eval_metrics=["exact"])
    assert len(list(Path(options["eval_output_dir"]).glob("cache/*.jsonl"))) == 2


def test_metrics_of_the_user_see_answer_label_and_row(options, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "def longer(answer, label, row):\n    return len(answer) > len(label)\n\n\n"
        "def asked(answer, label, row):\n    return len(row['messages'][-1]['content'])\n"
    )
    options |= {"custom_metric": [f"{tmp_path}/mine.py:longer", f"{tmp_path}/mine.py:asked"]}
    (report,) = eval_main(**options)
    (scores,) = report["datasets"].values()
    assert list(scores) == ["longer", "asked"]
    found = records(options)
    assert scores["asked"]["value"] == pytest.approx(np.mean([len(question) for question in QUESTIONS]))
    longer = [len(record["answer"]) > len(record["label"]) for record in found]
    assert scores["longer"]["value"] == np.mean(longer)
    (report,) = eval_main(**options, eval_metrics=["exact"])
    assert list(next(iter(report["datasets"].values()))) == ["exact", "longer", "asked"]


@pytest.mark.slow
def test_rows_without_answers_need_a_metric_of_the_user(options, tmp_path) -> None:
    rows = write(tmp_path / "asked.jsonl", [{"query": question} for question in QUESTIONS])
    with pytest.raises(DataError):
        eval_main(**{**options, "eval_dataset": [rows]})
    (tmp_path / "own.py").write_text(
        "def size(answer, label, row):\n    assert label is None\n    return len(answer)\n"
    )
    (report,) = eval_main(**{**options, "eval_dataset": [rows], "custom_metric": [f"{tmp_path}/own.py:size"]})
    assert report["datasets"][rows]["size"]["rows"] == len(QUESTIONS)


@pytest.mark.slow
def test_a_configuration_names_directories_as_before(options, place, tmp_path) -> None:
    directory = tmp_path / "custom"
    directory.mkdir()
    head = "id,question,A,B,answer,explanation\n"
    (directory / "default_dev.csv").write_text(head + "0,first?,x,y,A,\n1,second?,x,y,B,\n")
    (directory / "default_val.csv").write_text(head + "".join(f"{k},which {k}?,one,two,B,\n" for k in range(4)))
    write(directory / "other.jsonl", [{"query": "hi", "response": "ho", "history": []}])
    entries = [
        {"name": "exam", "pattern": "ceval", "dataset": str(directory), "subset_list": ["default"]},
        {"name": "talk", "pattern": "general_qa", "dataset": str(directory), "subset_list": ["other"]},
    ]
    (tmp_path / "config.json").write_text(json.dumps(entries))
    options |= {"eval_dataset": ["no"], "custom_eval_config": str(tmp_path / "config.json"), "eval_few_shot": 1}
    with pytest.raises(DataError, match="no row is left to ask"):
        eval_main(**options)  # talk has one row, which would be the example
    write(directory / "other.jsonl", [{"query": "hi", "response": "ho"}, {"query": "you", "response": "me"}])
    (report,) = eval_main(**options)
    assert list(report["datasets"]) == ["exam/default", "talk/other"]
    assert list(report["datasets"]["exam/default"]) == ["choice", "choice-normalised"]
    exam = [record for record in records(options) if record["dataset"] == "exam/default"]
    assert len(exam) == 4
    assert all(record["messages"][0]["content"] == "first?" for record in exam)
    dropped = saved(options)["rows"]["dropped"]
    assert {reason: entry["rows"] for reason, entry in dropped.items()} == {
        "shown as examples": 2,
        "examples beyond --eval_few_shot": 1,
    }


@pytest.fixture(scope="module")
def served(place: Path):
    args = DeployArguments(model_id_or_path=str(place / "model"), port=0, lora_modules=[f"one={place / 'one'}"])
    server = deploy_main(args, prevent_thread_lock=True)
    yield server
    server.close()


def test_a_server_answers_as_the_model_does(options, place, plain, served) -> None:
    del options["model_id_or_path"]
    options |= {"eval_url": f"{served.url}v1", "eval_nproc": 3}
    found = eval_main(**options)
    assert [report["model"] for report in found] == served.names
    assert list(next(iter(found[0]["datasets"].values()))) == list(OF_ANSWERS)
    for number, adapter in enumerate((None, "one"), 1):
        assert [record["answer"] for record in records(options, number)] == plain(adapter)
    with pytest.raises(ConfigError, match="does not tell how likely"):
        eval_main(**options, eval_metrics=["loss"])


@pytest.mark.slow
def test_a_server_is_asked_for_letters_and_for_one_of_its_models(options, place, served) -> None:
    del options["model_id_or_path"]
    options |= {"eval_url": f"{served.url}v1", "eval_nproc": 3}
    (report,) = eval_main(**options, eval_model=["one"], eval_metrics=["exact"], eval_token="a-secret-key")
    assert report["model"] == "one"
    assert "a-secret-key" not in (Path(options["eval_output_dir"]) / "it" / "results.json").read_text()
    options |= {"eval_dataset": [str(place / "mc.jsonl")]}
    found = eval_main(**options)
    assert list(next(iter(found[0]["datasets"].values()))) == ["letter"]
    with pytest.raises(ConfigError, match="does not tell how likely"):
        eval_main(**options, eval_metrics=["choice"])
    with pytest.raises(UsageError, match="400"):
        eval_main(**options, eval_is_chat_model=False)  # which this template is not for


def test_lm_eval_says_when_it_is_not_there(options, monkeypatch) -> None:
    for backend, package in (("lm-eval", "lm_eval"), ("evalscope", "evalscope")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(MissingPackageError, match=package) as caught:
            eval_main(**options, eval_backend=backend)
        assert "swift-finetune[" in str(caught.value)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"eval_metrics": ["rouge-9"]}, "no metric of answers is called 'rouge-9'"),
        ({"eval_metrics": ["choice"]}, "none of --eval_metrics choice fits its rows"),
        ({"answer_regex": "("}, "--answer_regex"),
        ({"custom_metric": ["mine.py"]}, "names no function"),
        ({"custom_metric": ["nowhere.py:mine"]}, "is not a Python file"),
        ({"with_base": True}, "--with_base has no checkpoint"),
        ({"eval_model": ["x"]}, "--eval_model names models of --eval_url"),
        ({"eval_url": "http://127.0.0.1:9/v1", "ckpt_dir": ["x"]}, "exclude each other"),
        ({"eval_url": "http://127.0.0.1:9/v1", "eval_use_cache": True}, "cannot tell whether --eval_url still serves"),
        ({"eval_dataset": ["no"]}, "no data set to measure on"),
        ({"custom_eval_config": "nowhere.json"}, "does not exist"),
        ({"eval_few_shot": 6}, "no row is left to ask"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(options, said, match, monkeypatch) -> None:
    monkeypatch.setattr("swift.commands.eval_models.load_tuned_model", lambda *a: pytest.fail("loaded"))
    with pytest.raises(SwiftError, match=match):
        eval_main(**{**options, **said})


def test_a_model_with_a_head_is_measured_elsewhere(options, monkeypatch) -> None:
    monkeypatch.setattr("swift.commands.eval_models.head_of", lambda *said: "a head")
    with pytest.raises(ConfigError, match="swift infer"):
        eval_main(**options)


def test_a_server_that_is_not_there(options, free_port) -> None:
    del options["model_id_or_path"]
    with pytest.raises(SwiftError, match="cannot be reached"):
        eval_main(**options, eval_url=f"http://127.0.0.1:{free_port}/v1")


OWN = """
    eval_dataset eval_metrics custom_metric answer_regex eval_few_shot eval_limit custom_eval_config ckpt_dir with_base
    eval_url eval_model eval_token eval_is_chat_model eval_nproc eval_backend name eval_output_dir eval_use_cache
    bootstrap_samples merge_lora merge_device_map ignore_args_error
""".split()


def test_every_other_option_is_told_to_the_model_as_swift_infer_tells_it() -> None:
    infos = options_of(EvalArguments)
    for name, info in infos.items():
        if name in OWN:
            continue
        other = {bool: not info.default, int: 7, float: 0.5, str: (info.choices or ["x"])[-1]}[info.kind]
        value = [other] if info.is_list else other
        assert getattr(of_one(replace(EvalArguments(), **{name: value}), None), name) == value, name
    assert not set(OWN) - set(infos)
    assert {*infos} - {*OWN} <= {*options_of(InferArguments)}


def seen(options: dict[str, Any], **said: Any) -> Any:
    found = eval_main(**{**options, "eval_metrics": ["exact", "rouge-1"], **said})
    return found, records(options), saved(options)["rows"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("answer_regex", "(.)"),
        ("eval_few_shot", 1),
        ("eval_limit", 2),
        ("bootstrap_samples", 150),
        ("seed", 5),
        ("dataset_test_ratio", 0.5),
    ],
)
def test_options_of_its_own_change_something(options, name, value) -> None:
    common = {"custom_metric": [], "eval_metrics": ["rouge-1", "loss"]}
    assert seen(options, **common) != seen(options, **common, **{name: value})


@pytest.mark.slow
def test_a_merged_checkpoint_answers_as_the_adapter(options, place, tmp_path) -> None:
    options |= {"ckpt_dir": [str(place / "one")], "eval_metrics": ["loss"]}
    (apart,), (merged,) = eval_main(**options), eval_main(**options, merge_lora=True)
    (one,), (two,) = apart["datasets"].values(), merged["datasets"].values()
    assert merged["model"] == "one-merged"
    assert two["loss"]["value"] == pytest.approx(one["loss"]["value"], rel=1e-5)


def test_names_tell_checkpoints_of_two_runs_apart(options, place) -> None:
    names = [
        subject.name for subject in find_subjects(EvalArguments(ckpt_dir=[str(place / "one"), str(place / "two")]))
    ]
    assert names == ["one", "two"]
    with pytest.raises(NotFoundError):
        find_subjects(EvalArguments(ckpt_dir=[str(place / "three")]))
