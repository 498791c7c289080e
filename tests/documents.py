"""Run what documents show: their fenced blocks, shell lines and Python alike."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from swift.cli import main

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.S | re.M)
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the words after it, its text and the line it starts on."""

    language: str
    info: str
    text: str
    line: int


def blocks(text: str) -> list[Block]:
    """Every fenced block of a Markdown text, in order."""
    return [Block(m[1], m[2].strip(), m[3], text[: m.start()].count("\n") + 1) for m in BLOCK.finditer(text)]


def commands(script: str) -> list[str]:
    """The commands of a shell text: continued lines joined, then comments gone, which is the shell's own order."""
    joined = re.sub(r"\\[ \t]*\n", " ", script)
    lines = re.sub(r"(?m)(^|[ \t])#([ \t].*)?$", "", joined).splitlines()
    return [line.strip() for line in lines if line.strip()]


def run_swift(command: str) -> int:
    """Run one `swift ...` line: here, or as a process when it sets variables that launch several.

    Returns:
        the exit code.
    """
    words = shlex.split(command)
    environment = {}
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    assert words[0] == "swift", command
    if {"NPROC_PER_NODE", "NNODES"} & environment.keys():
        process = [sys.executable, "-m", "swift.cli", *words[1:]]
        return subprocess.run(
            process, env={**os.environ, **environment, "PYTHONPATH": str(ROOT)}, timeout=300
        ).returncode
    return run_here(words[1:])


def run_here(argv: list[str]) -> int:
    """The command line in this process; its exit code."""
    return main(argv)


def run_python(code: str, name: str) -> dict[str, object]:
    """Run a Python text as a script; its variables."""
    scope: dict[str, object] = {"__name__": "__main__"}
    exec(compile(code, name, "exec"), scope)
    return scope
