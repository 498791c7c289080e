"""The scripts that a newcomer meets first: the quickstart, the figures of the README, the picture of the chat page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo.conftest import ROOT

pytestmark = pytest.mark.slow


def run(*words: str) -> str:
    """What a script printed; it has to end well."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_quickstart_gives_another_name_and_runs_again() -> None:
    shutil.rmtree(ROOT / "output" / "quickstart", ignore_errors=True)
    first = run("bash", "scripts/quickstart.sh")
    assert "I am demo-chat" in first
    assert "Swifty" in first.partition("4/6")[2].partition("5/6")[0]
    found = re.search(r"Of 40 new questions ([\d.]+) % are answered with the new name", first)
    assert found
    assert float(found[1]) >= 90
    assert "merged = unmerged" in first
    second = run("bash", "scripts/quickstart.sh")
    assert "Done. What next?" in second
    assert "nothing is left to train" in second


def test_the_figures_of_the_readme_can_be_made_again() -> None:
    told = run(sys.executable, "scripts/figures.py")
    questions = [line.split("|")[1] for line in told.splitlines() if line.startswith("|")]
    for page in ("README.md", "README_zh.md"):
        table = (ROOT / page).read_text(encoding="utf-8").partition("<!-- figures -->\n")[2]
        assert [line.split("|")[1] for line in table.splitlines() if line.startswith("|")][
            : len(questions)
        ] == questions


def test_the_chat_page_has_its_picture_taken(tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not shutil.which("chromium"):
        pytest.skip("there is no Chromium on this machine")
    run(sys.executable, "scripts/screenshot.py", "--output", str(tmp_path / "page.png"))
    assert (tmp_path / "page.png").stat().st_size > 20_000
