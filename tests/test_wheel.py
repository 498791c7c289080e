"""The built wheel works in a fresh environment outside the repository, with its data files."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel(tmp_path: Path, tiny_dir: Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)], check=True)
    wheel = next(tmp_path.glob("swift_finetune-*.whl"))
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"swift/llm.pyi", "swift/py.typed", "swift/datasets/self_cognition.jsonl"} <= names
    assert {"swift/demo/demo-chat/model.safetensors", "swift/demo/general.jsonl", "swift/demo/README.md"} <= names
    assert not [name for name in names if name.startswith(("tests", "scripts", "configs"))]

    fresh = tmp_path / "fresh"
    subprocess.run([sys.executable, "-m", "venv", str(fresh)], check=True)
    subprocess.run([str(fresh / "bin" / "pip"), "install", "--quiet", "--no-deps", str(wheel)], check=True)
    here = Path(sysconfig.get_path("purelib", vars={"base": str(fresh), "platbase": str(fresh)}))
    # The dependencies come from this environment: a plain path, so that its editable install is not found.
    (here / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    swift = str(fresh / "bin" / "swift")
    version = subprocess.run([swift, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert version.strip() in wheel.name.replace("-", " ").split()[1] or version.strip().endswith(
        wheel.name.split("-")[1]
    )
    train = ["sft", "--model_id_or_path", str(tiny_dir), "--dataset", "self-cognition#12", "--max_steps", "1"]
    named = ["--model_name", "Swifty", "--model_author", "us"]
    done = subprocess.run([swift, *train, *named], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where = subprocess.run(
        [str(fresh / "bin" / "python"), "-c", "import swift; print(swift.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert str(fresh) in where.stdout
