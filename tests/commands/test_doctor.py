"""Doctor: right about versions, devices and logins; its exit code says whether training can start; no token shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from swift.cli import main
from swift.commands import doctor, packages, probe
from swift.commands.packages import Package, allowed, release

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("installed", "needed", "good"),
    [
        ("2.13.0+cpu", ">=2.10", True),
        ("2.9", ">=2.10", False),
        ("5.3", ">=5.3,<6", True),
        ("6.0.0rc1", "<6,>=5.3", False),
        ("2.9.0", "==2.9.0", True),
        ("2.9.0+cu128", "==2.9", True),
        ("2.9.1", "==2.9.0", False),
        ("2.9.1", "==2.9.*", True),
        ("1.0", "!=1.0", False),
        ("1.0", "<=0.9", False),
        ("1.0", ">1.0", False),
        ("1.4", "~=1.3", True),
        ("1.0", "", True),
    ],
)
def test_versions_against_bounds(installed: str, needed: str, good: bool) -> None:
    assert allowed(installed, needed) is good


def test_release_is_the_numbers() -> None:
    assert release("2.13.0+cpu") == (2, 13, 0)
    assert release("unknown") == ()


def test_requirements_are_those_of_the_checkout_where_nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise packages.metadata.PackageNotFoundError(name)

    installed = {line.partition(";")[0] for line in packages.requirements()}
    monkeypatch.setattr(packages.metadata, "requires", missing)
    lines = packages.requirements()
    assert "torch>=2.10" in lines
    assert 'gradio>=6.7; extra == "ui"' in lines
    assert {line.partition(";")[0] for line in lines if "," not in line} <= installed


def test_this_machine_is_ready(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("ready\n")
    assert "torch" in text
    assert "cpu" in text
    assert "GiB free in" in text


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A machine where nothing is asked of torch; what torch would say is put in here."""
    answer: dict[str, Any] = {"devices": [], "cuda": None, "broken": {}}
    monkeypatch.setattr(doctor, "ask_torch", lambda: answer)
    monkeypatch.setattr(doctor, "packages", lambda: (Package("torch", ">=2.10", "2.13.0"),))
    monkeypatch.setattr(doctor, "mismatches", list)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (*doctor.SETTINGS, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return answer


def as_json(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert main(["doctor", "--json"]) == code
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_one_line_of_json(bare: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys)
    assert found["ready"] is True
    assert found["packages"] == [{"name": "torch", "installed": "2.13.0", "needed": ">=2.10", "ok": True}]
    assert found["devices"][0]["cores"] >= 1
    assert found["errors"] == []


@pytest.mark.parametrize(("installed", "says"), [(None, "no torch is installed"), ("2.1", "torch 2.1 is installed")])
def test_a_package_that_does_not_fit_is_69(
    installed: str | None,
    says: str,
    bare: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "packages", lambda: (Package("torch", ">=2.10", installed),))
    assert main(["doctor"]) == 69
    out, err = capsys.readouterr()
    assert out.endswith("not ready\n")
    assert says in err
    assert "fix: pip install" in err
    assert as_json(capsys, 69)["errors"][0]["code"] == "PACKAGE-01"


def test_a_missing_extra_is_no_error_and_names_its_command(
    bare: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        doctor, "packages", lambda: (Package("gradio", ">=6", None, "ui"), Package("pytest", "", "9", "dev"))
    )
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "lacks gradio: pip install -e '" in text
    assert "[ui]'" in text
    monkeypatch.setattr(packages, "ROOT", Path("/nowhere"))
    assert packages.install_command("ui") == "pip install 'swift-finetune[ui]'"
    assert packages.install_command() == "pip install --upgrade swift-finetune"


def test_torch_that_cannot_be_imported_is_78(bare: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    bare["error"] = "ImportError: libcudart.so.13"
    assert main(["doctor"]) == 78
    assert "libcudart" in capsys.readouterr().err


def test_gpus_and_what_torch_does_not_see(
    bare: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "torch sees no GPU" in as_json(capsys)["warnings"][0]
    bare["devices"] = [
        {"name": "cuda:0", "kind": "A GPU", "bf16": True, "memory_bytes": 80 << 30, "free_bytes": 79 << 30},
        {"name": "cuda:1", "kind": "An old GPU", "bf16": False, "memory_bytes": 8 << 30, "free_bytes": 7 << 30},
    ]
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "A GPU, 79.0 GiB of 80.0 GiB free, bf16" in text
    assert "no bf16" in text
    assert "sees no GPU" not in text


def test_a_torchvision_for_another_torch_is_a_warning(
    bare: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {"torch": "2.13.0+cpu", "torchvision": "0.24.0", "torchaudio": "2.13.0"}
    needs = {"torchvision": ["numpy", "torch==2.9.0", "pillow>=5"], "torchaudio": ["torch==2.13.0"]}
    monkeypatch.setattr(packages, "version", versions.get)
    monkeypatch.setattr(packages.metadata, "requires", needs.get)
    assert packages.mismatches() == ["torchvision 0.24.0 is made for torch==2.9.0, and torch 2.13.0+cpu is installed"]
    monkeypatch.setattr(doctor, "mismatches", packages.mismatches)
    bare["broken"] = {"torchvision": "operator torchvision::nms does not exist"}
    first, second = as_json(capsys)["warnings"]
    assert "made for torch==2.9.0" in first
    assert "nms does not exist" in second


@pytest.mark.parametrize(("free", "code", "word"), [(1 << 20, 74, "error[DISK-01]"), (1 << 30, 0, "warning: ")])
def test_a_disk_that_is_full_or_nearly(
    free: int,
    code: int,
    word: str,
    bare: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swift.storage.shutil.disk_usage", lambda path: Usage(1 << 40, 0, free))
    assert main(["doctor"]) == code
    out, err = capsys.readouterr()
    assert word in out + err


def test_tokens_are_never_shown(
    bare: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert as_json(capsys)["hub"]["logins"] == {"Hugging Face": "none", "ModelScope": "none"}
    secret = "not-of-any-known-shape"
    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setenv("USE_HF", "1")
    monkeypatch.setenv("HF_ENDPOINT", f"https://me:{secret}@mirror.example")
    login = tmp_path / ".modelscope" / "credentials" / "git_token"
    login.parent.mkdir(parents=True)
    login.write_text(secret)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "login: from HF_TOKEN" in text
    assert f"login: from {login}" in text
    assert "asked         Hugging Face" in text
    assert "mirror.example" in text
    found = as_json(capsys)
    assert secret not in text + json.dumps(found)


def test_the_probe_says_what_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run([sys.executable, "-m", "swift.commands.probe"], capture_output=True, text=True, check=True)
    assert set(json.loads(run.stdout)) == {"cuda", "devices", "broken"}

    def fail(name: str) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\nand more")
        raise ModuleNotFoundError("no numpy", name="numpy" if name == "torchaudio" else name)

    monkeypatch.setattr(probe.importlib, "import_module", fail)
    assert probe.broken() == {"torchvision": "operator torchvision::nms does not exist", "torchaudio": "no numpy"}


def test_a_probe_that_fails_or_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*args: Any, **options: Any) -> Any:
        return subprocess.CompletedProcess(args, 1, "", "Traceback\nImportError: no torch")

    monkeypatch.setattr(doctor.subprocess, "run", ended)
    assert doctor.ask_torch() == {"error": "ImportError: no torch"}

    def hangs(*args: Any, **options: Any) -> Any:
        raise subprocess.TimeoutExpired("x", 1)

    monkeypatch.setattr(doctor.subprocess, "run", hangs)
    assert "did not answer" in doctor.ask_torch()["error"]
