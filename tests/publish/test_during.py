"""A run publishes what its strategy says while it trains; a hub that fails costs pushes, never the run."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from swift import cli, storage
from swift.arguments.hub import STRATEGIES, PushingOptions
from swift.commands.rerun import options_to_repeat
from swift.errors import RefusedError
from swift.publish.during import REPORT, Job, Pushing, open_repository, wanted
from tests.publish.conftest import TOKEN, speak_to
from tests.publish.server import Hub, serving
from tests.road.conftest import conversations, write_jsonl

LAST, BEST = Path("run/checkpoint-20"), Path("run/checkpoint-10")


@pytest.mark.parametrize(
    ("strategy", "jobs"),
    [
        ("end", []),
        ("push_best", [Job(BEST)]),
        ("push_last", [Job(LAST)]),
        ("every_save", [Job(LAST)]),
        ("checkpoint", [Job(LAST), Job(LAST, "last-checkpoint")]),
        ("all_checkpoints", [Job(LAST), Job(LAST, "checkpoint-20")]),
    ],
)
def test_what_is_sent_at_a_save(strategy: str, jobs: list[Job]) -> None:
    assert strategy in STRATEGIES
    assert wanted(strategy, LAST, BEST) == jobs


SCRIPT = """
import json, pathlib, sys, time
words = sys.argv[1:]
place = pathlib.Path(words[words.index("push") + 1])
log = place.parent / "log.txt"
with log.open("a") as file:
    file.write(json.dumps(words) + "\\n")
while (place.parent / "hold").exists():
    time.sleep(0.02)
if (place.parent / "broken").exists():
    sys.exit("noise\\nerror[FOUND-02]: the hub is away\\n  fix: wait")
print(json.dumps({"address": "there", "files": sorted(p.name for p in place.iterdir())}))
"""


class Rehearsed(Pushing):
    """Starts a script of ours in place of `swift push`."""

    def command(self, job: Job, snapshot: Path) -> list[str]:
        words = super().command(job, snapshot)
        return [words[0], "-c", SCRIPT, *words[3:]]


def run_with(tmp_path: Path, steps: tuple[int, ...], **said: Any) -> Rehearsed:
    for step in steps:
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "w").write_text(str(step))
    return Rehearsed(PushingOptions(push_to_hub=True, hub_model_id="ann/mine", **said), tmp_path)


def save(pushing: Pushing, step: int, best: int | None = None) -> None:
    state = TrainerState(global_step=step)
    state.best_model_checkpoint = str(pushing.run / f"checkpoint-{best}") if best else None
    pushing.on_save(SimpleNamespace(), state, TrainerControl())  # type: ignore[arg-type]


def finish(pushing: Pushing, best: int, last: int) -> dict:
    places = {name: str(pushing.run / f"checkpoint-{step}") for name, step in (("best", best), ("last", last))}
    return pushing.finish({f"{name}_model_checkpoint": place for name, place in places.items()})


def calls(pushing: Pushing) -> list[list[str]]:
    path = pushing.run / "log.txt"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_checkpoint_is_sent_though_it_is_rotated_away(tmp_path: Path) -> None:
    pushing = run_with(tmp_path, (1, 2, 3), push_hub_strategy="push_last")
    (tmp_path / "hold").touch()
    save(pushing, 1)
    storage.remove(tmp_path / "checkpoint-1")
    save(pushing, 2)
    save(pushing, 3)  # takes the place of the second, which waits
    (tmp_path / "hold").unlink()
    told = finish(pushing, best=3, last=3)
    assert [push["checkpoint"] for push in told["pushes"]] == ["checkpoint-1", "checkpoint-3"]
    assert (told["pushed"], told["failed"]) == (2, 0)
    assert not list(tmp_path.glob(".tmp-*"))
    assert json.loads((tmp_path / REPORT).read_text()) == told


def test_the_best_is_sent_when_there_is_a_better_one(tmp_path: Path) -> None:
    pushing = run_with(
        tmp_path, (1, 2, 3), hub_private_repo=True, hub_license="an own one", allow_leak=["a.md:1", "b c.md"]
    )
    for step, best in ((1, 1), (2, 1), (3, 3)):
        save(pushing, step, best)
        pushing.look(wait=True)
    told = finish(pushing, best=3, last=3)
    assert [push["checkpoint"] for push in told["pushes"]] == ["checkpoint-1", "checkpoint-3", "checkpoint-3"]
    words = calls(pushing)[0]
    said = ["--hub_model_id", "ann/mine", "--hub_private_repo", "true", "--hub_license", "an own one"]
    assert words[-9:] == [*said, "--allow_leak", "a.md:1", "b c.md"]
    assert "--with_state" not in words


def test_all_that_resuming_needs_goes_into_folders(tmp_path: Path) -> None:
    pushing = run_with(tmp_path, (1, 2), push_hub_strategy="all_checkpoints")
    save(pushing, 1)
    save(pushing, 2)
    told = finish(pushing, best=1, last=2)
    assert [push["folder"] for push in told["pushes"] if push["folder"]] == ["checkpoint-1", "checkpoint-2"]
    assert told["pushes"][-1]["folder"] == ""
    whole = next(words for words in calls(pushing) if "--path_in_repo" in words)
    assert whole[whole.index("--path_in_repo") + 1 :][:3] == ["checkpoint-1", "--with_state", "true"]


def test_of_checkpoints_that_wait_for_one_folder_the_newest_goes(tmp_path: Path) -> None:
    pushing = run_with(tmp_path, (1, 2, 3), push_hub_strategy="checkpoint")
    (tmp_path / "hold").touch()
    for step in (1, 2, 3):
        save(pushing, step)
    assert [(job.directory.name, job.folder) for job, _ in pushing.waiting] == [
        ("checkpoint-3", ""),
        ("checkpoint-3", "last-checkpoint"),
    ]
    assert len(list(tmp_path.glob(".tmp-*"))) == 3  # and the one that is sent
    pushing.stop()


def test_what_waits_goes_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushing = run_with(tmp_path, (1, 2, 3), push_hub_strategy="all_checkpoints")
    (tmp_path / "hold").touch()
    save(pushing, 1)
    save(pushing, 2)
    assert [job.folder for job, _ in pushing.waiting] == ["checkpoint-1", "", "checkpoint-2"]
    free = iter((1, 2))  # one byte short of two checkpoints, then just enough
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=next(free, 2)))
    save(pushing, 3)
    assert [job.folder for job, _ in pushing.waiting] == ["checkpoint-2", "", "checkpoint-3"]
    assert pushing.failed == ["checkpoint-1: the disk is too full to keep it until its turn comes"]
    assert len(list(tmp_path.glob(".tmp-*"))) == 4  # and the one that is sent
    pushing.stop()


def test_what_fails_is_said_counted_and_made_good(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pushing = run_with(tmp_path, (1, 2))
    (tmp_path / "broken").touch()
    save(pushing, 1, 1)
    pushing.look(wait=True)
    assert "checkpoint-1 was not published, training goes on: error[FOUND-02]: the hub is away" in caplog.text
    (tmp_path / "broken").unlink()
    save(pushing, 2, 1)  # the best again, because it is not there
    told = finish(pushing, best=1, last=2)
    assert told["errors"] == ["checkpoint-1: error[FOUND-02]: the hub is away"]
    assert [push["checkpoint"] for push in told["pushes"]] == ["checkpoint-1", "checkpoint-1"]
    assert "1 of 3 pushes failed; again: swift push" in caplog.text


@pytest.mark.parametrize("trouble", ["no link", "no process", "no answer"])
def test_trouble_of_the_machine_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    pushing = run_with(tmp_path, (1,))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    if trouble == "no link":
        monkeypatch.setattr("os.link", refuse)
    elif trouble == "no process":
        monkeypatch.setattr("subprocess.Popen", refuse)
    else:
        monkeypatch.setattr(Rehearsed, "command", lambda *_: ["echo", "[1]"])
    save(pushing, 1)
    told = finish(pushing, best=1, last=1)
    assert (told["pushed"], told["failed"]) == (0, 2)
    assert not list(tmp_path.glob(".tmp-*"))


def test_files_are_copied_where_they_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    told = finish(run_with(tmp_path, (1,)), best=1, last=1)
    assert (told["pushed"], told["failed"]) == (1, 0)


def test_a_run_that_is_ended_leaves_no_push(tmp_path: Path) -> None:
    pushing = run_with(tmp_path, (1, 2), push_hub_strategy="all_checkpoints")
    (tmp_path / "hold").touch()
    save(pushing, 1)
    assert pushing.running is not None
    process = pushing.running.process
    pushing.stop()
    assert process.poll() is not None
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    told = run_with(tmp_path, ()).finish({"best_model_checkpoint": None, "last_model_checkpoint": None})
    assert told["errors"] == ["no checkpoint was written"]


def test_a_push_is_no_worker_and_has_the_token_in_its_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, dict[str, str]] = {}

    class Started:
        def __init__(self, words: list[str], env: dict[str, str], **more: object) -> None:
            seen["words"], seen["env"] = words, env  # type: ignore[assignment]

        def poll(self) -> None:
            return None

    monkeypatch.setattr("subprocess.Popen", Started)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "SWIFT_WORKERS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    save(run_with(tmp_path, (1,)), 1)
    assert TOKEN not in " ".join(seen["words"])
    assert seen["env"]["HF_TOKEN"] == TOKEN
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "SWIFT_WORKERS"} & set(seen["env"])


def test_a_repository_is_opened_before_the_run(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    args = PushingOptions(push_to_hub=True)
    assert open_repository(args, "tiny-lora") == "ann/tiny-lora"
    assert "ann/tiny-lora" in hub.repos
    with pytest.raises(RefusedError, match="403"):
        open_repository(replace(args, hub_model_id="bob/his"), "tiny-lora")
    hub.fail(".*", 503, times=10_000)
    assert open_repository(args, "tiny-lora") == "tiny-lora"
    assert "the run begins all the same" in caplog.text


def test_a_repeated_run_publishes_nothing(tmp_path: Path) -> None:
    saved = {"push_to_hub": True, "hub_token": "***", "output_dir": str(tmp_path), "resume_only_model": False}
    assert not options_to_repeat(saved, str(tmp_path / "again")).push_to_hub


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "chat.jsonl", conversations(16))
    return tmp_path


def train(model: Path, *words: str) -> int:
    common = f"sft --model_id_or_path {model} --dataset chat.jsonl#16 --output_dir run --add_output_dir_suffix false"
    common += " --max_steps 4 --eval_steps 2 --gradient_accumulation_steps 1 --report_to none --push_to_hub true"
    return cli.main([*common.split(), *words])


def test_a_token_that_is_not_taken_ends_it_before_it_begins(
    hub: Hub, rows: Path, tiny_dir: Path, capfd: pytest.CaptureFixture
) -> None:
    assert train(tiny_dir, "--hub_token", "not-the-right-one-0") == 77
    said = capfd.readouterr()
    assert "HUB-01" in said.err
    assert "not-the-right-one-0" not in said.out + said.err
    assert not list(rows.glob("run/checkpoint-*"))


@pytest.mark.slow
@pytest.mark.parametrize("hf", [True, False])
def test_a_run_is_published_pulled_and_gone_on_from(
    hf: bool, rows: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving({TOKEN: "ann"}) as hub:
        speak_to(hub, monkeypatch, rows, hf=hf)
        words = ["--push_hub_strategy", "checkpoint", "--hub_model_id", "mine"]
        assert train(tiny_dir, *words) == 0
        files = hub.repos["ann/mine"].files
        card = files["README.md"].decode()
        assert "## Evaluation" in card
        assert " rows, " in card
        assert "train_loss.png" in card
        told = json.loads((rows / "run" / REPORT).read_text())
        assert told["failed"] == 0
        assert told["pushed"] >= 3
        assert not any(str(rows).encode() in data or TOKEN.encode() in data for data in files.values())
        assert not any(TOKEN in path.read_text("utf-8", "replace") for path in rows.rglob("*") if path.is_file())
        assert cli.main(["pull", "ann/mine", "--output_dir", "back"]) == 0
        assert cli.main(["infer", "--ckpt_dir", "back", "--model_id_or_path", str(tiny_dir), "--query", "Hello?"]) == 0
        resumed = ["--max_steps", "6", "--resume_from_checkpoint", "back/last-checkpoint", "--output_dir", "second"]
        resumed += ["--allow_inexact_resume", "true", "--push_to_hub", "false"]
        assert train(tiny_dir, *resumed) == 0
        assert (rows / "second" / "checkpoint-6").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("status", [403, 503])
def test_a_hub_that_fails_costs_no_run(
    status: int, rows: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving({TOKEN: "ann"}) as hub:
        speak_to(hub, monkeypatch, rows, hf=True)
        hub.fail("POST .*/commit/", status, times=10_000)
        if status == 503:
            monkeypatch.setattr(Pushing, "command", lambda self, job, snapshot: ["sh", "-c", "kill -9 $$"])
        assert train(tiny_dir, "--push_hub_strategy", "push_last") == 0
    told = json.loads((rows / "run" / REPORT).read_text())
    assert told["pushed"] == 0
    assert told["failed"] >= 2
    assert "pushes failed; again: swift push" in caplog.text
    assert (rows / "run" / "run.lock.json").is_file()
    assert storage.verify(rows / "run" / "checkpoint-4") == []
    assert not list((rows / "run").glob(".tmp-*"))
