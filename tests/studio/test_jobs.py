"""Jobs are processes of their own: found again, stopped gently, and their arguments are those that were given."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swift.errors import DiskError, SwiftError
from swift.studio import jobs as module
from swift.studio.jobs import Job, Jobs, tail
from swift.studio.workspace import Workspace
from tests.documents import ROOT

SLEEPER = "import time\nprint('\\x1b[31mbegun\\x1b[0m', flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    found = Jobs(Workspace.at(str(tmp_path)))
    yield found
    for job in found.all():
        if job.alive():
            os.killpg(job.pid, signal.SIGKILL)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Let jobs run this instead of swift: a Python that is quick to start."""
    real = subprocess.Popen

    def use(text: str) -> None:
        file = tmp_path / "script.py"
        file.write_text(text)

        def popen(words: list[str], **options: object) -> subprocess.Popen[bytes]:
            assert words[:3] == [sys.executable, "-m", "swift.cli"]
            return real([sys.executable, "-S", str(file), *words[3:]], **options)  # type: ignore[call-overload]

        monkeypatch.setattr(module.subprocess, "Popen", popen)

    return use


def wait(job: Job, state: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while job.state() != state:
        assert time.monotonic() < end, (job.state(), job.log())
        time.sleep(0.02)


def test_a_job_is_found_again_and_stopped(jobs: Jobs, script: Callable[[str], None]) -> None:
    script(SLEEPER)
    job = jobs.start("sft", ["--model_type", "x"], {"NPROC_PER_NODE": "2"}, "output/x", {"SWIFT_API_KEY": "hush"})
    while "begun" not in job.log():
        time.sleep(0.02)
    assert job.log() == "begun"
    assert os.getpgid(job.pid) == os.getsid(job.pid) == job.pid != os.getpgid(0)
    assert Path(f"/proc/{job.pid}/cwd").resolve() == jobs.workspace.root
    again = Jobs(jobs.workspace)  # a server that was started anew
    assert again.all() == [job]
    assert again.get(job.name).state() == "running"
    assert "hush" not in (job.directory / "job.json").read_text()
    again.get(job.name).stop()
    wait(job, "stopped")
    until = time.monotonic() + 20  # whoever began it writes down how it ended, a moment later
    while not (job.directory / "exit.json").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert json.loads((job.directory / "exit.json").read_text())["code"] == -signal.SIGTERM


SERVER = """
import os, signal, subprocess, sys
from swift.studio import jobs
from swift.studio.workspace import Workspace
real = subprocess.Popen
jobs.subprocess.Popen = lambda words, **options: real([sys.executable, "-S", "-c", sys.argv[2]], **options)
job = jobs.Jobs(Workspace.at(sys.argv[1])).start("sft", [], output="output/x")
os.killpg(0, signal.SIGKILL)
"""


def test_a_run_outlives_the_server_that_began_it(jobs: Jobs) -> None:
    place = str(jobs.workspace.root)
    server = subprocess.run([sys.executable, "-c", SERVER, place, SLEEPER], start_new_session=True, cwd=ROOT)
    assert server.returncode == -signal.SIGKILL
    (job,) = jobs.all()
    while "begun" not in job.log():
        time.sleep(0.02)
    assert job.state() == "running"
    job.stop()
    end = time.monotonic() + 10
    while job.alive():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert job.state() == "stopped"


@pytest.mark.parametrize("own_session", [False, True])
def test_the_second_stop_ends_what_does_not_listen_with_all_it_began(
    jobs: Jobs, script: Callable[[str], None], own_session: bool
) -> None:
    script(
        "import signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "words = [sys.executable, '-S', '-c', 'import time; time.sleep(600)']\n"
        f"child = subprocess.Popen(words, start_new_session={own_session})\n"
        "print(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    job = jobs.start("sft", [])
    while not job.log():
        time.sleep(0.02)
    child = int(job.log())
    job.stop()
    time.sleep(0.1)
    assert job.state() == "stopping"
    job.stop()
    wait(job, "stopped")
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(("code", "state"), [(0, "done"), (2, "failed")])
def test_how_it_ended(jobs: Jobs, script: Callable[[str], None], code: int, state: str) -> None:
    script(f"raise SystemExit({code})")
    job = jobs.start("export", [])
    wait(job, state)
    (job.directory / "exit.json").unlink()  # no server saw it
    assert job.state() == "ended"


def test_every_word_is_one_argument(jobs: Jobs, script: Callable[[str], None], tmp_path: Path) -> None:
    script("import json, sys\nprint(json.dumps(sys.argv[1:]))")
    words = ["--system", "; touch canary", "--dataset", "$(touch canary)", "a\nb", "`touch canary`", "*", "--model_name=--x"]  # fmt: skip
    job = jobs.start("sft", words)
    wait(job, "done")
    assert json.loads(job.log()) == ["sft", *words]
    assert not (tmp_path / "canary").exists()


def test_what_lies_in_the_workspace_is_not_imported(jobs: Jobs) -> None:
    (jobs.workspace.root / "json.py").write_text("raise SystemExit('the wrong json')")
    (jobs.workspace.root / "swift").mkdir()
    job = jobs.start("--version", [])
    wait(job, "done")
    assert job.log().startswith("swift ")


def test_a_pid_that_another_process_has_is_not_the_job(jobs: Jobs, script: Callable[[str], None]) -> None:
    script("pass")
    job = jobs.start("sft", [])
    wait(job, "done")
    said = json.loads((job.directory / "job.json").read_text())
    (job.directory / "job.json").write_text(json.dumps({**said, "pid": os.getpid()}))
    other = jobs.get(job.name)
    assert not other.alive()
    other.stop()  # does nothing to us


def test_a_job_that_cannot_be_written_down_is_ended(
    jobs: Jobs, script: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    script(SLEEPER)
    began: list[int] = []

    def full(path: Path, value: dict[str, int], *, private: bool) -> None:
        began.append(value["pid"])
        raise DiskError("DISK-01", "no space left")

    monkeypatch.setattr(module.storage, "write_json", full)
    with pytest.raises(DiskError):
        jobs.start("sft", [])
    assert not Path(f"/proc/{began[0]}").exists()
    assert jobs.all() == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x", "more": 1}'])
def test_what_does_not_say_a_job_is_none(jobs: Jobs, text: str) -> None:
    place = jobs.place / "20260101-000000-abcdef"
    place.mkdir()
    (place / "job.json").write_text(text)
    assert jobs.all() == []


@pytest.mark.parametrize("name", ["", "..", "../..", "x", "20260101-000000-zzzzzz", "20260101-000000-abcdef/.."])
def test_only_jobs_are_found(jobs: Jobs, name: str) -> None:
    with pytest.raises(SwiftError, match="no job"):
        jobs.get(name)


def test_the_end_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert tail(path) == ""
    path.write_bytes(b"".join(b"line %d\n" % k for k in range(100_000)) + b"10%\r20%\r30%\r\nkey sk-abcdefghijklmnopqrstuvwxyz012345 \xff\n")  # fmt: skip
    lines = tail(path, 3).splitlines()
    assert lines[:2] == ["line 99999", "30%"]
    assert "abcdefghijkl" not in lines[2]
