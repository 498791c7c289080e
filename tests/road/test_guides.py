"""The blocks of the guides that our users come from run here with only model and data names changed.

The guides stand beside the checkout where they are at hand; without them these tests are skipped.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from swift.llm import DATASETS, MODELS, DatasetRecord, ModelRecord
from swift.ui.serving import listen
from tests.documents import ROOT, Block, blocks, commands, run_python, run_swift
from tests.road.conftest import conversations, write_jsonl

GUIDE = next(ROOT.parent.glob("*/reference/*/002_*.txt"), None)
pytestmark = pytest.mark.skipif(GUIDE is None, reason="the guides are not beside this checkout")
BLOCKS = blocks(GUIDE.read_text(encoding="utf-8")) if GUIDE else []

# What does not run yet, each with its reason. Later work empties this table.
NOT_YET = {
    "pip install": "installs packages",
    "git clone": "needs a network",
    "pip config": "changes the user's settings",
    "cd ": "a directory of another repository",
}
if find_spec("gradio") is None:
    NOT_YET |= {"swift app-ui": "gradio is not installed", "app_ui_main(infer_args)": "gradio is not installed"}


@pytest.fixture(scope="module")
def place(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("guide")
    (directory / "my-model").symlink_to(home / "my-model")
    write_jsonl(directory / "chatml.jsonl", conversations(12))
    write_jsonl(directory / "math.jsonl", conversations(12))
    MODELS.add(ModelRecord("guide-chat", "auto", path=str(directory / "my-model"), targets=("q_proj",)), replace=True)
    DATASETS.add(DatasetRecord("guide-math", path=str(directory / "math.jsonl")), replace=True)
    return directory


@pytest.fixture(autouse=True)
def visits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The status of a visit to each chat page that a block serves, on any free port; the page then ends."""
    found: list[int] = []
    if find_spec("gradio") is None:
        return found

    def visit(served: Any) -> None:
        with urllib.request.urlopen(served.url) as answer:
            found.append(answer.status)

    monkeypatch.setattr("swift.ui.server.Served.wait", visit)
    monkeypatch.setattr("swift.commands.app_ui.listen", lambda host, port: listen(host, 0))
    return found


def localise(text: str, checkpoint: str | None) -> str:
    """The text with our model, data and checkpoint in place of the guide's."""
    text = text.replace("qwen/Qwen-7B-Chat", "my-model").replace("AI-ModelScope/blossom-math-v2", "math.jsonl")
    text = text.replace("ModelType.qwen_7b_chat", "ModelType.guide_chat")
    text = text.replace("DatasetName.blossom_math_zh", "DatasetName.guide_math")
    if checkpoint:
        text = re.sub(r"(xxx/)?vx-xxx/checkpoint-(xxx|100)", checkpoint, text)
    return text


def newest(place: Path) -> str | None:
    found = sorted(place.glob("output/*/*/checkpoint-*[0-9]"), key=lambda path: path.stat().st_mtime)
    return str(found[-1]) if found else None


def without_not_yet(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not any(mark in line for mark in NOT_YET))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda block: f"line{block.line}")
def test_python_block(block: Block, place: Path, monkeypatch: pytest.MonkeyPatch, visits: list[int]) -> None:
    monkeypatch.chdir(place)
    if "-merged" in block.text and not list(place.glob("output/*/*/*-merged")):
        assert run_swift(f"swift export --ckpt_dir {newest(place)} --merge_lora true") == 0
    scope = run_python(localise(without_not_yet(block.text), newest(place)), f"guide:{block.line}")
    assert scope.get("response") is not None or scope.get("result")
    assert visits == [200] * without_not_yet(block.text).count("app_ui_main(")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=lambda block: f"line{block.line}")
def test_bash_block(block: Block, place: Path, monkeypatch: pytest.MonkeyPatch, visits: list[int]) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nexit\n"))
    for command in commands(localise(block.text, newest(place))):
        if "NNODES" in command or any(mark in command for mark in NOT_YET):
            continue
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\nexit\n"))
        assert run_swift(command) == 0, command
    assert visits == [200] * "\n".join(commands(without_not_yet(block.text))).count("swift app-ui")


@pytest.mark.slow
def test_two_nodes(place: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    found = [line for block in BLOCKS for line in commands(block.text) if "NNODES" in line]
    assert len(found) == 2
    node_lines = [
        localise(line, None).replace("xxx.xxx.xxx.xxx", "127.0.0.1").replace("NPROC_PER_NODE=4", "NPROC_PER_NODE=1")
        for line in found
    ]
    script = (
        f'export MASTER_PORT={free_port} PYTHONPATH="{ROOT}"; swift() {{ "{sys.executable}" -m swift.cli "$@"; }}; '
    )
    nodes = [subprocess.Popen(["bash", "-c", f"{script} export -f swift; {line}"]) for line in node_lines]
    assert [node.wait(240) for node in nodes] == [0, 0]


def test_the_table_of_what_is_not_there_is_needed() -> None:
    text = "\n".join(block.text for block in BLOCKS)
    assert not [mark for mark in NOT_YET if mark not in text]
