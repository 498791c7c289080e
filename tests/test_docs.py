"""The documents are those of the code: what is written from it is fresh, and every error is explained."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from swift import errors
from swift.errors import CODES

ROOT = Path(__file__).parent.parent
ERRORS = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## ([A-Z]+-\d\d)\n\n(.*?)(?=^## |\Z)", ERRORS, re.S | re.M))


def test_written_documents_are_fresh() -> None:
    run = subprocess.run([sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def raised() -> dict[str, set[int]]:
    """The exit codes that each error code is raised with in the source."""
    found: dict[str, set[int]] = defaultdict(set)
    for path in (ROOT / "swift").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                code, name = node.args[0].value, ast.unparse(node.func).rpartition(".")[2]
                if code in CODES and name in vars(errors):
                    found[str(code)].add(vars(errors)[name].exit_code)
    return found


@pytest.mark.parametrize("code", CODES)
def test_every_error_has_its_sentence_exit_codes_cause_and_fix(code: str) -> None:
    text = " ".join(SECTIONS[code].split())
    head = text.partition("**Cause:**")[0]
    assert head.startswith(f"{CODES[code]} Exit code ")
    assert {int(number) for number in re.findall(r"\b(\d\d?)\b", head.replace("128", ""))} == raised()[code]
    for part in ("**Cause:** ", "**Fix:** "):
        assert len(text.partition(part)[2]) > 20


def test_errors_are_in_the_order_of_the_code() -> None:
    assert list(SECTIONS) == list(CODES)


def test_every_exit_code_is_in_the_table() -> None:
    table = {int(number) for row in re.findall(r"^\| ([\d, ]+) \|", ERRORS, re.M) for number in row.split(",")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SwiftError)]
    assert {kind.exit_code for kind in kinds} <= table


def test_links_between_documents_hold() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
