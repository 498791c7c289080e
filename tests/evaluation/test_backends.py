"""Others who measure: lm-eval on a task of one's own, and EvalScope through a server of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift.commands.eval import eval_main
from swift.errors import NotFoundError

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
