"""The process that looks says what the commands say; when it is stuck or dies, another one answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from swift.studio import looking
from swift.studio.looking import Looker
from swift.studio.workspace import Workspace

ECHO = """
import json, os, sys, time
for line in sys.stdin:
    words = json.loads(line)
    if words[0] == "die": os._exit(3)
    if words[0] == "sleep": time.sleep(60)
    print(json.dumps({"code": 0 if words[0] == "fine" else 2, "said": " ".join(words), "told": "why"}), flush=True)
"""


@pytest.fixture
def looker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Looker]:
    real = subprocess.Popen
    monkeypatch.setattr(looking.subprocess, "Popen", lambda words, **options: real([sys.executable, "-S", "-c", ECHO], **options))  # fmt: skip
    found = Looker(Workspace.at(str(tmp_path)))
    yield found
    found.close()


def test_one_process_answers_until_it_is_stuck_or_dies(looker: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    looker.warm()
    first = looker._process
    assert looker.look(["fine", "a\nb"]).said == "fine a\nb"
    assert looker.look(["wrong"]).error == "why"
    assert looker._process is first
    assert "gave no answer" in looker.look(["die"]).error
    assert looker.look(["fine"]).said == "fine"
    monkeypatch.setattr(looking, "PATIENCE", 0.5)
    assert "gave no answer" in looker.look(["sleep"]).error
    assert looker.look(["fine"]).error == ""
    looker.close()
    assert looker._process is None


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    from swift.studio.looker import answer

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"query": "hi", "response": "<b>hello</b>"}\n' * 30)
    return lambda *words: answer(list(words))


def test_commands_say_what_they_say_in_a_terminal(answer: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    said = answer("estimate", "--model_type", "demo-chat", "--dataset", "a.jsonl", "--tflops", "1", "--bandwidth", "1", "--json")  # fmt: skip
    assert said["code"] == 0
    found = json.loads(said["said"])
    assert found["parameters"] > 2_000_000
    assert found["memory"]["total"] > 0
    assert found["schedule"]["steps"] > 0
    said = answer("data", "--action", "preview", "--model_type", "demo-chat", "--dataset", "a.jsonl", "--output", "p")
    assert said["code"] == 0
    page = (tmp_path / "p" / "preview.html").read_text()
    assert "&lt;b&gt;hello" in page
    assert "<b>hello" not in page
    said = answer("sft", "--model_type", "demo-chat", "--dataset", "none.jsonl", "--dry_run")
    assert said["code"] == 66
    assert "none.jsonl" in said["told"]
    assert answer("sft", "--lora_rank", "x")["code"] == 2
