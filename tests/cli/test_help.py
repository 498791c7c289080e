"""Help: complete, grouped, wrapped, the same in a pipe; and nothing heavy is imported for it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from swift.arguments import help as help_text
from swift.arguments.fields import options_of
from swift.cli import COMMANDS, load, main
from swift.commands.schema import CLASSES

HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate", "trl", "numpy", "rich", "yaml", "typer")


def shown(*words: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_its_sentence_unit_default_and_meaning_of_none(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    text = " ".join(shown(name, "--help", capsys=capsys).split())
    for info in options_of(load(COMMANDS[name].arguments)).values():
        assert text.count(f" --{info.name} ") >= 1
        assert " ".join(info.help.split()) in text
        assert info.help.endswith("."), f"{info.name}: its help is not a sentence"
        if info.default is None:
            assert info.none, f"{info.name}: nothing says what None means"
            assert f"default: None, {' '.join(info.none.split())}]" in text
        if info.unit:
            assert f"[{info.unit}; default: " in text


@pytest.mark.parametrize("columns", ["40", "80", "100", "133"])
def test_lines_fit(columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for words in (["--help"], ["sft", "--help"], ["merge_lora", "-h"]):
        for line in shown(*words, capsys=capsys).splitlines():
            option_alone = line.lstrip().startswith("--") or len(line.split()) == 1
            assert len(line) <= int(columns) or option_alone or line.startswith(("  swift ", "usage: ")), line


def test_topics_come_in_order_and_plug_ins_last(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown("sft", "--help", capsys=capsys).splitlines()
    heads = [
        line for line in lines if line in ("Model", "Data", "Tuner", "Optimisation", "Output", "Plug-ins", "General")
    ]
    assert heads == ["Model", "Data", "Tuner", "Optimisation", "Output", "Plug-ins", "General"]
    assert lines[0] == "Fine-tune a model on conversations."


def test_width_is_columns_else_the_terminal_else_100(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, found in (("72", 72), ("3", 40), ("9999", 160)):
        monkeypatch.setenv("COLUMNS", said)
        assert help_text.width() == found
    for said in ("", "wide", "0"):
        monkeypatch.setenv("COLUMNS", said)
        monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((90, 20)))
        assert help_text.width() == 90
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((0, 0)))
    assert help_text.width() == 100

    def none(fd: int) -> os.terminal_size:
        raise OSError("not a terminal")

    monkeypatch.setattr(os, "get_terminal_size", none)
    assert help_text.width() == 100


def on_a_terminal(command: list[str], env: dict[str, str]) -> bytes:
    """What a command writes when its output is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        written += piece
    process.wait()
    os.close(ours)
    return written.replace(b"\r\n", b"\n")


def test_help_is_the_same_on_a_terminal_and_in_a_pipe() -> None:
    command = [sys.executable, "-m", "swift.cli", "sft", "--help"]
    env = {**os.environ, "COLUMNS": "100", "TERM": "xterm-256color"}
    piped = subprocess.run(command, capture_output=True, env=env, check=True).stdout
    assert on_a_terminal(command, env) == piped
    assert b"\x1b" not in piped


QUICK = [["--help"], ["--version"], ["sft", "--help"], ["infer", "--help"], ["doctor", "--help"], ["sft"], []]


@pytest.mark.parametrize(
    "words", [["schema", "sft"], ["schema", "export"], ["completion", "zsh"], ["completion", "fish"]]
)
def test_small_verbs_import_little(words: list[str]) -> None:
    code = (
        f"import sys\nfrom swift.cli import main\ncode = main({words!r})\n"
        f"sys.stderr.write(str((code, sorted(set({HEAVY!r}) & set(sys.modules)))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == "(0, ['yaml'])"


def test_a_command_that_takes_a_word_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert f"usage: swift schema {'|'.join(CLASSES)}\n" in shown("schema", "--help", capsys=capsys)
    assert "usage: swift launch [run.yaml] [--option value ...] -- COMMAND ...\n" in shown(
        "launch", "--help", capsys=capsys
    )
    assert main(["completion"]) == 2
    assert "fix: give one of: bash, zsh, fish" in capsys.readouterr().err
    assert main(["completion", "tcsh"]) == 2
    assert "one of: bash, zsh, fish" in capsys.readouterr().err
    assert main(["schema", "--command", "infer"]) == 0
    by_name = capsys.readouterr().out
    assert shown("schema", "infer", capsys=capsys) == by_name


@pytest.mark.parametrize("words", QUICK)
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    code = (
        "import sys\nfrom swift.cli import main\n"
        f"code = main({words!r})\n"
        f"loaded = sorted(set({HEAVY!r}) & set(sys.modules))\n"
        "sys.stderr.write(f'{code} {loaded}')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ["yaml"] if words == ["sft"] else []
    assert run.stderr.endswith(f"{0 if len(words) == 2 or words[:1] in (['--help'], ['--version']) else 2} {loaded}")


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m swift.cli sft --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert run.stdout == "Fine-tune a model on conversations.\n"
    assert run.stderr == ""
    assert run.returncode in (0, 141)
