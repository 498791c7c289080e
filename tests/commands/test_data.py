from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from swift.cli import main
from tests.road.conftest import conversations, write_jsonl


@pytest.fixture
def here(tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory with my-model and chat.jsonl in it."""
    shutil.copytree(tiny_dir, tmp_path / "my-model")
    write_jsonl(tmp_path / "chat.jsonl", conversations(40))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path


MODEL = ["--model_id_or_path", "my-model"]


def test_preview_shows_rows_masks_lengths_and_the_account(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "preview", "chat.jsonl", *MODEL, "--rows", "2", "--output", "seen"]) == 0
    shown = capsys.readouterr().out
    assert "Rows (2 drawn at random)" in shown
    assert "assistant: The capital is" in shown
    assert "⟦The capital is" in shown
    assert "Tokens per row: " in shown
    assert "###" in shown
    assert "rows: 40 read = 40 trained + 0 validation" in shown
    page = (here / "seen" / "preview.html").read_text(encoding="utf-8")
    assert page.count('<span class="learnt">') >= 2
    assert "data:image/png;base64," in page
    assert (here / "seen" / "lengths.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((here / "seen" / "data_report.json").read_text())["rows_read"] == 40
    assert main(["data", "preview", "chat.jsonl", *MODEL, "--rows", "2"]) == 0
    assert capsys.readouterr().out.startswith(shown.partition("written")[0][:200])


def test_preview_escapes_what_rows_say(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "<script>alert(1)</script>\x1b[2J"
    row = {"messages": [{"role": "user", "content": evil}, {"role": "assistant", "content": evil}]}
    write_jsonl(here / "evil.jsonl", [row] * 3)
    assert main(["data", "preview", "evil.jsonl", *MODEL, "--output", "seen"]) == 0
    assert "\x1b[2J" not in capsys.readouterr().out
    page = (here / "seen" / "preview.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_preview_tells_rows_that_are_too_long(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "preview", "chat.jsonl", *MODEL, "--max_length", "45", "--rows", "40"]) == 0
    shown = capsys.readouterr().out
    assert "dropped: too long" in shown
    assert "longer than 45 tokens" in shown


def test_what_is_missing_is_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 2
    assert "--action is missing" in capsys.readouterr().err
    assert main(["data", "preview", *MODEL]) == 2
    assert "--dataset is missing" in capsys.readouterr().err
