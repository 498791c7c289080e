"""Chats go to a process of their own behind a key, stop when told to, and leave no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from swift.errors import SwiftError, UnavailableError
from swift.studio import jobs as module
from swift.studio import talks as talking
from swift.studio.studio import Studio
from swift.studio.talks import Talks
from swift.studio.workspace import Workspace

SERVER = """
import http.server, json, os, sys, time
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(json.dumps({"data": [{"id": "tuned"}, {"id": "base"}]}).encode())
    def reply(self, body):
        if self.headers["Authorization"] != "Bearer " + os.environ["SWIFT_API_KEY"]:
            self.send_response(401); self.end_headers(); self.wfile.write(b"{}"); return
        self.send_response(200); self.end_headers()
        if body: self.wfile.write(body)
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(b"")
        words = json.dumps({k: asked[k] for k in ("model", "messages", "max_tokens")}).split(" ")
        for k, word in enumerate(words if "slowly" not in str(asked) else ["w"] * 1000):
            chunk = {"choices": [{"delta": {"content": word + " "}}]}
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\\n\\n"); self.wfile.flush()
            time.sleep(0.01 if "slowly" in str(asked) else 0)
        self.wfile.write(b'data: {"choices": [{"delta": {}}]}\\n\\ndata: [DONE]\\n\\n')
    def log_message(self, *said): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
print(f"serving tuned, base on http://127.0.0.1:{server.server_port}/v1 (Ctrl-C ends it)", flush=True)
server.serve_forever()
"""


@pytest.fixture
def talks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Talks]:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    (tmp_path / "broken").mkdir()
    (tmp_path / "silent").mkdir()
    real = subprocess.Popen

    def popen(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
        if "silent" in words:
            return real([sys.executable, "-S", "-c", "import time; time.sleep(600)"], **options)
        if "broken" in words:
            return real(
                [sys.executable, "-S", "-c", "print('error[MODEL-01]: no config.json'); raise SystemExit(65)"],
                **options,
            )
        return real([sys.executable, str(script)], **options)

    monkeypatch.setattr(module.subprocess, "Popen", popen)
    studio = Studio(Workspace.at(str(tmp_path)))
    found = Talks(studio)
    yield found
    found.close()
    for job in studio.jobs.all():
        if job.alive():
            os.killpg(job.pid, signal.SIGKILL)


def test_the_checkpoint_is_asked_with_the_conversation(talks: Talks) -> None:
    talks.load("demo-chat")
    talks.load("demo-chat")  # it is there already
    assert len(talks.studio.jobs.all()) == 1
    assert talks.is_loaded("demo-chat")
    said = list(talks.answer("demo-chat", "and?", [["hi", "hello"]], "be kind", 0.0, 7, "ann"))[-1]
    for part in ('"model": "tuned"', '"max_tokens": 7', '"be kind"', '"hello"', '"and?"'):
        assert part in said
    (job,) = talks.studio.jobs.all()
    key = talks.served["demo-chat"].key
    assert key not in (job.directory / "job.json").read_text() + job.log()
    talks.unload("demo-chat")
    assert not talks.is_loaded("demo-chat")
    with pytest.raises(UnavailableError, match="not loaded"):
        list(talks.answer("demo-chat", "x", [], "", 0, 1, "ann"))


def test_an_answer_is_stopped_by_its_own_person_alone(talks: Talks) -> None:
    talks.load("demo-chat")
    ann = talks.answer("demo-chat", "slowly", [], "", 0.0, 9, "ann")
    bob = talks.answer("demo-chat", "slowly", [], "", 0.0, 9, "bob")
    next(ann)
    next(bob)
    talks.stop("ann")
    assert len(list(ann)[-1]) < 1500
    assert next(bob)
    talks.leave("bob")
    assert len(list(bob)[-1]) < 1500
    assert "bob" not in talks.stops


def test_two_models_at_a_time(talks: Talks) -> None:
    for name in ("demo-chat", "demo-base"):
        talks.load(name)
    list(talks.answer("demo-chat", "x", [], "", 0.0, 1, "ann"))
    (talks.studio.workspace.root / "third").mkdir()
    talks.load("third")
    assert set(talks.served) == {"demo-chat", "third"}
    talks.close()
    wait_for_the_end(talks)


def wait_for_the_end(talks: Talks) -> None:
    """Return when no model is served."""
    end = time.monotonic() + 10
    while any(job.alive() for job in talks.studio.jobs.all()):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_end_does_not_wait_for_what_is_being_loaded(talks: Talks) -> None:
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(talks.load, "silent")
        while not talks.studio.jobs.all():
            time.sleep(0.01)
        began = time.monotonic()
        talks.close()
        assert time.monotonic() - began < 5
        assert isinstance(loading.exception(), UnavailableError)
    wait_for_the_end(talks)
    with pytest.raises(UnavailableError, match="ends"):
        talks.load("demo-chat")


def test_a_model_that_does_not_say_its_name_is_ended(talks: Talks, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**said: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(talking, "get_model_list_client", refuse)
    with pytest.raises(ZeroDivisionError):
        talks.load("demo-chat")
    assert talks.served == {}
    wait_for_the_end(talks)


def test_models_of_a_server_that_was_killed_are_ended(talks: Talks) -> None:
    talks.load("demo-chat")
    Talks(talks.studio)  # while the other runs
    (job,) = talks.studio.jobs.all()
    assert job.state() == "running"
    said = json.loads((job.directory / "job.json").read_text())
    said["environment"][talking.OWNER] = f"{os.getpid()} 1"  # another process that had this pid before
    (job.directory / "job.json").write_text(json.dumps(said))
    Talks(talks.studio)
    wait_for_the_end(talks)


def test_why_a_model_cannot_be_loaded(talks: Talks, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SwiftError, match=r"no config\.json"):
        talks.load("broken")
    with pytest.raises(SwiftError, match="no directory"):
        talks.load("/etc")
    monkeypatch.setattr(talking, "PATIENCE", 0.0)
    with pytest.raises(UnavailableError):
        talks.load("demo-chat")
    assert talks.served == {}
