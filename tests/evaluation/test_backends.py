"""Others who measure: lm-eval on a task of one's own, and EvalScope through a server of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift.commands.eval import eval_main
from swift.errors import DataError, NotFoundError
from swift.evaluation.statistics import wilson
from tests.evaluation.conftest import write

TASK = """
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


@pytest.mark.slow
def test_lm_eval_and_our_own_choices_agree(options, place, tmp_path) -> None:
    """The same questions, choices and plain text to both: the same likelihoods, the same scores."""
    pytest.importorskip("lm_eval")
    (tmp_path / "task.yaml").write_text(TASK.format(file=place / "mc.jsonl"))
    options |= {"template_type": "default-generation", "ckpt_dir": [str(place / "one")], "with_base": True}
    theirs = eval_main(**options | {"eval_dataset": [str(tmp_path / "task.yaml")]}, eval_backend="lm-eval")
    folder = Path(options["eval_output_dir"]) / "it"
    samples = {number: _lines(folder, number) for number in (1, 2)}
    whole = json.loads((folder / "results.json").read_text())
    ours = eval_main(**options | {"eval_dataset": [str(place / "mc.jsonl")], "name": "ours"})
    for number, (a, b) in enumerate(zip(theirs, ours, strict=True), 1):
        (one,), (two,) = a["datasets"].values(), b["datasets"].values()
        assert one["acc"]["value"] == two["choice"]["value"]
        assert one["acc_norm"]["value"] == two["choice-normalised"]["value"]
        assert one["acc"]["value"] == whole["lm_eval"][a["model"]]["mine"]["acc,none"]
        for sample, record in zip(samples[number], _lines(folder.parent / "ours", number), strict=True):
            likelihoods = [float(each[0]) for each in sample["filtered_resps"]]
            assert likelihoods == pytest.approx(record["choice_logprobs"], abs=1e-3)
    assert theirs[1]["datasets"]["mine"]["acc"]["against"]["method"] == "mcnemar"
    for name in ("nowhere.yaml", "no-such-task-anywhere"):
        with pytest.raises(NotFoundError, match=name):
            eval_main(**options | {"eval_dataset": [name]}, eval_backend="lm-eval")


TALK = """
task: talk
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{query}}}}"
doc_to_target: "{{{{response}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 24, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


@pytest.mark.slow
def test_lm_eval_asks_the_demo_model_in_its_own_template(tmp_path) -> None:
    pytest.importorskip("lm_eval")
    facts = {"Japan": "Tokyo", "France": "Paris", "Italy": "Atlantis"}
    rows = [
        {"query": f"What is the capital of {land}?", "response": f"The capital of {land} is {city}."}
        for land, city in facts.items()
    ]
    write(tmp_path / "rows.jsonl", rows)
    (tmp_path / "talk.yaml").write_text(TALK.format(file=tmp_path / "rows.jsonl"))
    options = {"eval_output_dir": str(tmp_path / "out"), "name": "it", "eval_dataset": [str(tmp_path / "talk.yaml")]}
    (report,) = eval_main(model_type="demo-chat", eval_backend="lm-eval", **options)
    found = report["datasets"]["talk"]["exact_match"]
    assert found["value"] == pytest.approx(2 / 3)
    assert (found["low"], found["high"]) == pytest.approx(wilson(2, 3))
    said = [sample["filtered_resps"][0] for sample in _lines(tmp_path / "out" / "it", 1)]
    assert said == [
        "The capital of Japan is Tokyo.",
        "The capital of France is Paris.",
        "The capital of Italy is Rome.",
    ]
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(DataError, match="could not read the data"):
        eval_main(model_type="demo-chat", eval_backend="lm-eval", **options)


def _lines(folder: Path, number: int) -> list[dict]:
    (path,) = folder.glob(f"answers-{number}-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


STAND_IN = '''
"""What swift uses of EvalScope: it asks the address that it is told."""

import json
import urllib.request


class TaskConfig:
    def __init__(self, **said):
        self.said = said


class Report:
    def __init__(self, said, answer):
        self.said, self.answer = said, answer

    def to_dict(self):
        return {"said": self.said, "answer": self.answer}


def run_task(task):
    said = task.said
    body = {"model": said["model"], "messages": [{"role": "user", "content": "hi"}], **said["generation_config"]}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {said['api_key']}"}
    request = urllib.request.Request(said["api_url"] + "/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        answer = json.load(response)["choices"][0]["message"]["content"]
    return {name: Report(said, answer) for name in said["datasets"]}
'''


def test_evalscope_asks_a_server_of_this_machine(options, place, tmp_path, monkeypatch) -> None:
    (tmp_path / "site" / "evalscope").mkdir(parents=True)
    (tmp_path / "site" / "evalscope" / "__init__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "site")
    options |= {"eval_dataset": ["gsm8k"], "eval_limit": 3, "eval_few_shot": 2, "eval_nproc": 5}
    (report,) = eval_main(**options, eval_backend="evalscope")
    found = report["datasets"]["gsm8k"]
    assert isinstance(found["answer"], str)
    said = found["said"]
    assert (said["limit"], said["eval_batch_size"], said["dataset_args"]) == (3, 5, {"gsm8k": {"few_shot_num": 2}})
    assert (said["eval_type"], said["generation_config"]) == ("openai_api", {"max_tokens": 8, "temperature": 0})
    (path,) = Path(options["eval_output_dir"]).glob("it/results.json")
    assert json.loads(path.read_text())["models"] == json.loads(json.dumps([report]))

    (report,) = eval_main(**options | own_rows(tmp_path) | {"eval_dataset": []}, eval_backend="evalscope")
    exam, talk = (report["datasets"][name]["said"] for name in ("exam", "talk"))
    place = {"local_path": str(tmp_path / "exams"), "subset_list": ["history"], "few_shot_num": 2}
    assert exam["dataset_args"] == {"general_mcq": place}
    assert talk["datasets"] == ["general_qa"]
    assert exam["work_dir"] != talk["work_dir"]


def own_rows(place: Path) -> dict[str, str]:
    """The option that names two data sets of one's own."""
    rows = {
        "exams/history_val.csv": "id,question,A,B,C,D,answer\n1,Which is a colour?,Monday,red,seven,cat,B\n",
        "talks/default.jsonl": '{"query": "What is the capital of Japan?", "response": "Tokyo"}\n' * 2,
    }
    for name, text in rows.items():
        (place / name).parent.mkdir()
        (place / name).write_text(text)
    sets = [("exam", "ceval", "exams", "history"), ("talk", "general_qa", "talks", "default")]
    said = [{"name": n, "pattern": p, "dataset": str(place / d), "subset_list": [s]} for n, p, d, s in sets]
    (place / "sets.json").write_text(json.dumps(said))
    return {"custom_eval_config": str(place / "sets.json")}


@pytest.mark.slow
def test_evalscope_itself_scores_what_the_demo_model_says(tmp_path) -> None:
    pytest.importorskip("evalscope")
    said = own_rows(tmp_path) | {"eval_output_dir": str(tmp_path / "out"), "name": "it"}
    (report,) = eval_main(model_type="demo-chat", eval_backend="evalscope", max_new_tokens=16, **said)
    assert report["model"] == "demo-chat"
    assert 0 <= report["datasets"]["exam"]["metrics"][0]["score"] <= 1
    (path,) = (tmp_path / "out" / "it").rglob("predictions/*/general_qa_default.jsonl")
    assert path.read_text().count("The capital of Japan is Tokyo") >= 1  # which the server answered
