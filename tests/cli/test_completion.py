"""Completion: what the shells are offered, asked of the shells themselves where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from swift import completion
from swift.arguments.fields import options_of
from swift.cli import COMMANDS, load, main
from swift.models import MODELS

BASH = """
source ./script
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_swift
printf '%s\\n' "${COMPREPLY[@]}"
"""


def offered(words: str, place: Path) -> list[str]:
    """What bash offers at the end of a line; a blank at its end begins a new word."""
    (place / "script").write_text(completion.bash())
    run = subprocess.run(
        ["bash", "--norc", "-c", BASH, "bash", *words.split(" ")], capture_output=True, text=True, cwd=place
    )
    assert run.stderr == ""
    return run.stdout.split()


@pytest.mark.parametrize(
    ("words", "some"),
    [
        ("swift ", ["sft", "merge-lora", "doctor", "schema"]),
        ("swift in", ["infer"]),
        ("swift sft --lora_r", ["--lora_rank"]),
        ("swift sft --dry", ["--dry_run"]),
        ("swift merge_lora --ckpt", ["--ckpt_dir"]),
        ("swift sft --dtype ", ["AUTO", "bf16", "fp16", "fp32"]),
        ("swift sft --dtype = b", ["bf16"]),
        ("swift sft --sft-type l", ["lora"]),
        ("swift sft --model_type qwen-7b-ch", ["qwen-7b-chat"]),
        ("swift sft --use_dora t", ["true"]),
        ("swift sft --dataset self", ["self-cognition", "selfmade.jsonl"]),
        ("swift sft --dataset self-cognition self", ["self-cognition", "selfmade.jsonl"]),
        ("swift sft --dtype bf16 --evaluation_str", ["--evaluation_strategy"]),
        ("swift sft --config r", ["run.yaml"]),
        ("swift sft r", ["run.yaml"]),
        ("swift schema ", ["sft", "infer", "export"]),
        ("swift completion z", ["zsh"]),
        ("swift schema sft --he", ["--help"]),
    ],
)
def test_bash_offers(words: str, some: list[str], tmp_path: Path) -> None:
    (tmp_path / "selfmade.jsonl").touch()
    (tmp_path / "run.yaml").touch()
    found = offered(words, tmp_path)
    assert set(some) <= set(found)
    typed = words.rpartition(" ")[2]
    assert all(word.startswith(typed) for word in found)


@pytest.mark.parametrize(
    "words", ["swift sft --lora_rank ", "swift sft --model_type xx", "swift nothing --", "swift sft --optim a"]
)
def test_bash_offers_nothing_where_nothing_is_known(words: str, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert offered(words, tmp_path) == []


def test_an_option_that_has_its_value_makes_room_for_the_next(tmp_path: Path) -> None:
    found = offered("swift sft --dtype bf16 ", tmp_path)
    assert "--lora_rank" in found
    assert "bf16" not in found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_script_has_all_commands_options_and_names(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert name in text
        for option in options_of(load(command.arguments)):
            assert f"-l {option} " in text if shell == "fish" else f"--{option}" in text
    assert all(name in text for name in MODELS)
    assert not re.search(r"@[A-Z]+@", text), "a place of the script was not filled"
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=text, text=True, capture_output=True).stderr == ""


def test_files_are_offered_for_options_that_exist() -> None:
    every = {name for infos in completion.tables().values() for name in infos}
    assert set(completion.FILES) <= every


@pytest.mark.skipif(not shutil.which("fish"), reason="needs fish")
@pytest.mark.parametrize(
    ("words", "some"),
    [
        ("swift sch", "schema"),
        ("swift sft --lora_ra", "--lora_rank"),
        ("swift sft --dtype b", "bf16"),
        ("swift schema ex", "export"),
        ("swift infer --model_type qwen-7b-c", "qwen-7b-chat"),
    ],
)
def test_fish_offers(words: str, some: str, tmp_path: Path) -> None:
    (tmp_path / "swift.fish").write_text(completion.fish())
    run = subprocess.run(
        ["fish", "-N", "-c", f"source swift.fish; complete -C '{words}'"],
        capture_output=True, text=True, cwd=tmp_path, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert some in [line.partition("\t")[0] for line in run.stdout.splitlines()], run.stderr


ZSH = """
source ./script 2>/dev/null
compadd() { shift; print -rl -- "$@"; }
compset() { :; }
_files() { print -r -- FILES; }
words=("$@") CURRENT=$#
_swift
"""


@pytest.mark.skipif(not shutil.which("zsh"), reason="needs zsh")
@pytest.mark.parametrize(
    ("words", "some"),
    [
        ("swift s", "schema"),
        ("swift sft --", "--lora_rank"),
        ("swift sft --dtype ", "bf16"),
        ("swift sft --dtype=b", "bf16"),
        ("swift sft --dtype bf16 ", "--lora_rank"),
        ("swift sft --dataset a ", "self-cognition"),
        ("swift sft --dataset ", "FILES"),
        ("swift schema ", "export"),
        ("swift sft ", "FILES"),
    ],
)
def test_zsh_offers(words: str, some: str, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(completion.zsh())
    run = subprocess.run(
        ["zsh", "-f", "-c", ZSH, "zsh", *words.split(" ")], capture_output=True, text=True, cwd=tmp_path
    )
    assert some in run.stdout.split(), run.stderr
