"""The practice scripts run as they stand; what they check of themselves holds."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "practice"


def test_rows_for_chatglm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["chatglm_rows.py", str(tmp_path)])
    monkeypatch.syspath_prepend(str(SCRIPTS))
    runpy.run_path(str(SCRIPTS / "chatglm_rows.py"), run_name="__main__")
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown.startswith("[gMASK]")
    assert shown.endswith("made to last.</s>")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["opt_generate", "opt_lora", "chatglm_rows", "chatglm_qlora"])
def test_practice(name: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
