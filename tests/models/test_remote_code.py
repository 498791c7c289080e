from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from swift.errors import DataError, RefusedError
from swift.models.remote_code import check_remote_code, check_unchanged, code_files, is_native

CODE = "open('canary', 'w')\n"
FOREIGN = {"model_type": "strange", "auto_map": {"AutoModelForCausalLM": "modeling_strange.StrangeForCausalLM"}}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "modeling_strange.py").write_text(CODE)
    return tmp_path


def test_native_types_are_those_of_transformers():
    assert {name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if not is_native(name)} == set()
    assert not any(is_native(name) for name in ("strange", "chatglm", "qwen", ""))


def test_a_native_model_needs_no_code_whatever_it_brings(directory: Path):
    assert check_remote_code(directory, FOREIGN | {"model_type": "qwen2"}, allowed=True) == {}
    assert check_remote_code(directory, FOREIGN | {"model_type": "qwen2"}, allowed=False) == {}


def test_code_is_refused_with_its_files_and_the_flag(directory: Path):
    with pytest.raises(RefusedError) as caught:
        check_remote_code(directory, FOREIGN, allowed=False, revision="abc")
    message = str(caught.value)
    assert caught.value.exit_code == 77
    assert "modeling_strange.py" in message
    assert hashlib.sha256(CODE.encode()).hexdigest() in message
    assert "--trust_remote_code true --model_revision abc" in message


def test_code_that_the_user_allowed_may_run(directory: Path):
    assert check_remote_code(directory, FOREIGN, allowed=True) == code_files(directory)


@pytest.mark.parametrize(("answer", "runs"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False)])
def test_a_terminal_is_asked(directory: Path, monkeypatch: pytest.MonkeyPatch, answer: str, runs: bool):
    screen = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stderr", screen)
    if runs:
        assert check_remote_code(directory, FOREIGN, allowed=False) == code_files(directory)
    else:
        with pytest.raises(RefusedError):
            check_remote_code(directory, FOREIGN, allowed=False)
    assert "modeling_strange.py" in screen.getvalue()


def test_several_processes_are_not_asked(directory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    monkeypatch.setattr("sys.stderr", Terminal())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RefusedError):
        check_remote_code(directory, FOREIGN, allowed=False)


@pytest.mark.parametrize("name", ["someone/repo--modeling.M", ["tokenizer.T", "someone/repo--tokenizer.T"]])
def test_code_of_another_repository_is_refused_even_when_allowed(directory: Path, name: object):
    config = {"model_type": "strange", "auto_map": FOREIGN["auto_map"] | {"AutoTokenizer": name}}
    with pytest.raises(RefusedError, match="another repository"):
        check_remote_code(directory, config, allowed=True)


@pytest.mark.parametrize("extra", [{}, {"auto_map": {"AutoConfig": "c.C"}}, {"auto_map": ["x"]}])
def test_an_unknown_type_without_code_is_not_supported(directory: Path, extra: dict):
    with pytest.raises(DataError, match="strange") as caught:
        check_remote_code(directory, {"model_type": "strange", **extra}, allowed=True)
    assert caught.value.code == "MODEL-02"


def test_code_files_are_found_in_folders_too(directory: Path):
    (directory / "ops").mkdir()
    (directory / "ops" / "kernel.py").write_text("")
    assert list(code_files(directory)) == ["modeling_strange.py", "ops/kernel.py"]


def test_code_that_is_named_but_missing_is_damage(tmp_path: Path):
    with pytest.raises(DataError, match="missing"):
        check_remote_code(tmp_path, FOREIGN, allowed=True)


def test_code_that_changed_after_the_check_does_not_run(directory: Path):
    agreed = check_remote_code(directory, FOREIGN, allowed=True)
    check_unchanged(directory, agreed)
    (directory / "modeling_strange.py").write_text("# other")
    with pytest.raises(RefusedError, match="changed"):
        check_unchanged(directory, agreed)
    check_unchanged(directory, {})
