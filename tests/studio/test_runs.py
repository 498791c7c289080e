"""Runs of a workspace are found, told apart and compared, whoever started them."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swift import storage
from swift.errors import RefusedError, SwiftError
from swift.studio import runs as module
from swift.studio import views
from swift.studio.jobs import Jobs
from swift.studio.labels import CHINESE as TRANSLATED
from swift.studio.labels import label_of
from swift.studio.offers import EVALUATE, EXPORT, TRAIN, all_fields, all_groups, all_sections
from swift.studio.runs import differences, is_held
from swift.studio.studio import Studio
from swift.studio.words import CHINESE, ENGLISH
from swift.studio.workspace import Workspace


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setattr(module, "KEPT_SECONDS", -1.0)
    return Studio(Workspace.at(str(tmp_path)))


def add(studio: Studio, path: str, steps: int = 3, *, done: bool = False, **said: object) -> Path:
    """A run of a command line."""
    place = studio.workspace.root / path
    place.mkdir(parents=True)
    (place / "sft_args.json").write_text(json.dumps({"model_type": "demo-chat", "dataset": ["a.jsonl"], "sft_type": "lora", **said}))  # fmt: skip
    rows = [{"loss": 5 - k, "acc": 0.5, "global_step": k} for k in range(1, steps + 1)]
    rows += [{"log_history": []}] if done else []
    (place / "logging.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def save(run: Path, step: int) -> Path:
    with storage.staged_directory(run / f"checkpoint-{step}", {}) as stage:
        (stage / "sft_args.json").write_text("{}")
    return run / f"checkpoint-{step}"


def test_runs_of_a_command_line_are_found(studio: Studio) -> None:
    add(studio, "output/demo-chat/v0", done=True)
    going = add(studio, "other/v1")
    (going / storage.HOLDER).write_text(f"{os.getpid()}\n")
    dead = add(studio, "other/v2")
    (dead / storage.HOLDER).write_text("4194304\n")
    found = {run.path: run.state for run in studio.runs.all()}
    assert found == {"output/demo-chat/v0": "done", "other/v1": "running", "other/v2": "ended"}
    with pytest.raises(SwiftError, match="command line"):
        studio.stop("other/v1")
    with pytest.raises(SwiftError, match="still running"):
        studio.resume("other/v1")
    with pytest.raises(SwiftError, match="no run"):
        studio.stop("../etc")


def test_who_holds_a_run(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    run = add(studio, "v1")
    holder = run / storage.HOLDER
    holder.write_text(f"{os.getpid()}\n")
    assert is_held(run)
    os.utime(holder, (1, 1))  # long before this process began, which has the pid of one that ended
    assert not is_held(run)
    monkeypatch.setattr(module, "began_at", lambda pid: None)
    assert is_held(run)

    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(module.os, "kill", refuse)
    assert is_held(run)


def job_of(name: str, started: float, state: str) -> Any:
    return SimpleNamespace(
        name=name, command="sft", output="v1", started=started, state=lambda: state, alive=lambda: state == "running"
    )


def test_what_trains_now_says_the_state(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    run = add(studio, "v1")
    known = [job_of("new", 2.0, "failed"), job_of("old", 1.0, "running")]
    monkeypatch.setattr(Jobs, "all", lambda self: known)
    found = studio.runs.get("v1")
    assert found.state == "running"
    assert found.job is known[1]
    del known[1]
    assert studio.runs.get("v1").state == "failed"
    (run / storage.HOLDER).write_text(f"{os.getpid()}\n")
    assert studio.runs.get("v1").state == "running"
    with pytest.raises(SwiftError, match="command line"):
        studio.stop("v1")


def test_two_tabs_go_on_with_a_run_once(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    save(add(studio, "v1"), 7)
    began: list[Any] = []

    def start(self: Jobs, *said: Any) -> None:
        time.sleep(0.05)
        began.append(job_of("new", 2.0, "running"))

    monkeypatch.setattr(Jobs, "start", start)
    monkeypatch.setattr(Jobs, "all", lambda self: list(began))
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(studio.resume, "v1") for _ in range(2)]
    errors = [each.exception() for each in both]
    assert len(began) == 1
    assert [str(error).count("still running") for error in errors if error] == [1]


def test_checkpoints_are_whole_and_the_newest_first(studio: Studio) -> None:
    run = add(studio, "output/x/v0")
    for step in (5, 100, 20):
        save(run, step)
    (run / "checkpoint-200").mkdir()
    (save(run, 150) / "manifest.json").write_text("{}")
    assert studio.runs.checkpoints() == [f"output/x/v0/checkpoint-{step}" for step in (100, 20, 5)]
    assert studio.model_words("output/x/v0/checkpoint-5") == ["--ckpt_dir", "output/x/v0/checkpoint-5"]
    assert studio.model_words("demo-chat") == ["--model_type", "demo-chat"]
    assert studio.model_words("output/x") == ["--model_id_or_path", "output/x"]
    assert studio.models()[:3] == studio.runs.checkpoints()
    for said in ("", "/etc", "../x", "no/such", "--ckpt_dir=/etc", "output/x\n"):
        with pytest.raises(SwiftError):
            studio.model_words(said)


def test_a_run_is_gone_on_from_its_last_checkpoint(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    run = add(studio, "output/x/v0", lora_rank=4)
    with pytest.raises(SwiftError, match="no checkpoint"):
        studio.resume("output/x/v0")
    save(run, 7)
    began: list[tuple[object, ...]] = []
    monkeypatch.setattr(Jobs, "start", lambda self, *said: began.append(said))
    assert studio.resume("output/x/v0") == "output/x/v0/checkpoint-7"
    command, words, variables, output = began[0]
    assert (command, variables, output) == ("sft", {}, "output/x/v0")
    for pair in ("--lora_rank 4", "--dataset a.jsonl", "--output_dir output/x/v0 --add_output_dir_suffix false", "--resume_from_checkpoint output/x/v0/checkpoint-7"):  # fmt: skip
        assert pair in " ".join(words)  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [{"custom_register_path": ["x.jsonl"]}, {"trust_remote_code": True}, {"callbacks": ["x"]}, {"dataset": ["/etc/passwd"]}])  # fmt: skip
def test_a_run_with_plug_ins_or_paths_elsewhere_is_not_repeated(studio: Studio, said: dict[str, object]) -> None:
    save(add(studio, "data", **said), 1)
    with pytest.raises(SwiftError) as caught:
        studio.resume("data")
    assert isinstance(caught.value, RefusedError) or "outside the workspace" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["--custom_register_path", "x.py"], {}),
        (["--trust_remote_code", "true"], {}),
        (["--dataset", "/etc/passwd"], {}),
        (["--nonsense", "1"], {}),
        (["--lora_rank", "4"], {"LD_PRELOAD": "/x.so"}),
        (["--lora_rank", "4"], {"NPROC_PER_NODE": "2; x"}),
    ],
)
def test_a_job_that_came_with_the_workspace_says_no_more_than_a_form(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, words: list[str], environment: dict[str, str]
) -> None:
    save(add(studio, "output/x/v0"), 7)
    began: list[tuple[object, ...]] = []
    monkeypatch.setattr(Jobs, "start", lambda self, *said: began.append(said))

    def came(words: list[str], environment: dict[str, str]) -> None:
        place = studio.jobs.place / "20260101-000000-abcdef"
        place.mkdir(exist_ok=True)
        said = {"name": place.name, "command": "sft", "output": "output/x/v0", "pid": 1, "born": "", "started": 1.0}
        (place / "job.json").write_text(json.dumps({**said, "words": words, "environment": environment}))

    whole = ["--model_type", "demo-chat", "--dataset", "self-cognition", "--output_dir", "/etc"]
    came([*whole, *words], environment)
    with pytest.raises(SwiftError):
        studio.resume("output/x/v0")
    assert began == []
    came([*whole, "--lora_rank", "4"], {"NPROC_PER_NODE": "2"})
    studio.resume("output/x/v0")
    ((command, resumed, variables, output),) = began
    assert (command, variables, output) == ("sft", {"NPROC_PER_NODE": "2"}, "output/x/v0")
    assert "--lora_rank 4" in " ".join(resumed)  # type: ignore[arg-type]
    assert "/etc" not in resumed  # type: ignore[operator]


def test_names_of_runs(studio: Studio) -> None:
    runs = studio.runs
    assert runs.choose_output("Qwen/Qwen3-0.6B", "mine") == "output/Qwen3-0.6B/mine"
    first = runs.choose_output("demo-chat", "")
    assert first.startswith("output/demo-chat/v0-")
    add(studio, "output/demo-chat/v7-x")
    assert runs.choose_output("demo-chat", "").startswith("output/demo-chat/v8-")
    assert runs.choose_output("..", "a") == "output/model/a"
    for name in ("../x", "/x", "-x", "a b", "v7-x", ".x", "x" * 65, "a/b", "$(x)"):
        with pytest.raises(SwiftError):
            runs.choose_output("demo-chat", name)
    (studio.workspace.root / "output" / "out").symlink_to("/tmp")
    with pytest.raises(SwiftError, match="leads out"):
        runs.choose_output("out", "x")


def test_data_is_told_from_the_workspace_on(studio: Studio) -> None:
    add(studio, "output/x/v0", dataset=[f"{studio.workspace.root}/data/a.jsonl", "self-cognition", "/elsewhere/b"])
    assert studio.runs.get("output/x/v0").data == ["data/a.jsonl", "self-cognition", "/elsewhere/b"]


def test_runs_are_compared(studio: Studio) -> None:
    add(studio, "a", lora_rank=4, output_dir="/x")
    add(studio, "b", lora_rank=8, output_dir="/y", dataset=["a.jsonl", "<b>"])
    runs = sorted(studio.runs.all(), key=lambda run: run.path)
    assert differences(runs) == {"lora_rank": ["4", "8"], "dataset": ['["a.jsonl"]', '["a.jsonl", "<b>"]']}
    for words in (ENGLISH, CHINESE):
        text = views.comparison(runs, words)
        assert text.count("<svg") == 5
        assert "&lt;b&gt;" in text
        assert "<b>" not in text
        assert views.comparison(runs[:1], words) == ""


EVIL = '<img src=x onerror="alert(1)">'


def test_nothing_that_was_read_is_markup(studio: Studio) -> None:
    run = add(studio, "output/x/v0", dataset=[EVIL], model_type=EVIL, sft_type=EVIL)
    found = studio.runs.get("output/x/v0")
    shown = [views.detail(found, ENGLISH), views.log(EVIL, ENGLISH), views.notice(EVIL, "bad"), views.checkpoints([EVIL], ENGLISH), views.charts(found, ENGLISH), views.page(EVIL + "'", EVIL)]  # fmt: skip
    assert run.is_dir()
    for text in shown:
        assert "<img" not in text
        assert 'onerror="' not in text
    assert 'sandbox=""' in shown[-1]


def test_an_estimate_is_shown() -> None:
    found = {"parameters": 1000, "trainable": 10, "memory": {"weights": 6 << 30, "total": 6 << 30}, "free": 4 << 30, "seconds_per_step": 2.5, "schedule": {"steps": 3600}, "not_estimated": None}  # fmt: skip
    text = views.estimate(found, ENGLISH)
    for part in ("6.0 GiB of memory", "4.0 GiB free", "more than is free", "2.5 s", "2 h 30 min", "1 %"):
        assert part in text
    assert "No estimate: x" in views.estimate({**found, "memory": None, "not_estimated": "x"}, ENGLISH)


def test_what_is_looked_at_by_itself_is_near_and_small(studio: Studio) -> None:
    (studio.workspace.root / "a.jsonl").write_text("{}\n")
    assert [studio.is_small(s) for s in ("a.jsonl", "a.jsonl#5", "self-cognition#5", "alpaca-zh", "a/b", "a.jsonl#5@0.5")] == [True, True, True, False, False, True]  # fmt: skip
    assert studio.is_near({"model_type": "demo-chat"})
    assert not studio.is_near({"model_type": "qwen3-0_6b"})
    assert not studio.is_near({"model_type": "demo-chat", "model_id_or_path": "a/b"})


def test_forms_are_those_of_commands() -> None:
    from swift.cli import COMMANDS, load

    for name, form in {**TRAIN, "export": EXPORT, "eval": EVALUATE}.items():
        assert form.command == name
        assert load(COMMANDS[name].arguments) is form.arguments
        assert set(form.basic_names) <= set(form.fields)
    for name, form in TRAIN.items():
        assert form.needs == COMMANDS[name].needs
    assert {name for form in TRAIN.values() for name in form.fields} == set(all_fields())
    shown = [name for names in all_sections().values() for name in names]
    shown += [field.name for fields in all_groups().values() for field in fields]
    assert sorted(shown) == sorted(all_fields())


def test_both_languages_say_everything() -> None:
    for name, text in vars(ENGLISH).items():
        other = getattr(CHINESE, name)
        if isinstance(text, dict):
            assert text.keys() == other.keys()
            continue
        assert sorted(part.split("}")[0] for part in text.split("{")[1:]) == sorted(p.split("}")[0] for p in other.split("{")[1:]), name  # fmt: skip


def test_what_is_translated_is_an_option() -> None:
    fields = {**all_fields(), **EXPORT.fields, **EVALUATE.fields}
    assert set(TRANSLATED) <= set(fields)
    assert {name for form in TRAIN.values() for name in form.basic_names} <= set(TRANSLATED)
    for field in fields.values():
        assert label_of(field, "en")[0] == label_of(field, "zh")[0] == field.name
