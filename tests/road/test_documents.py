"""Every block of the README, every YAML in configs/ and every script in scripts/ is run as it stands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from tests.documents import ROOT, Block, blocks, commands, run_python, run_swift

README = blocks((ROOT / "README.md").read_text(encoding="utf-8"))
CHINESE = blocks((ROOT / "README_zh.md").read_text(encoding="utf-8"))
CONFIGS = sorted(
    path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name not in ("large", "deploy")
)  # see test_large and tests/serving/test_configs
QUICK = ("lora", "full", "adapter", "several", "galore", "dpo")  # the other tuners' are run in the slow tier
NEEDING_MORE = ("gptq", "gguf", "lm_eval")  # packages than the quick tier has


@pytest.fixture(scope="module")
def place(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory in which all blocks run one after another, as a reader would type them."""
    directory = tmp_path_factory.mktemp("reader")
    for name in ("my-model", "chat.jsonl"):
        (directory / name).symlink_to(home / name)
    (directory / "my-teacher").symlink_to(home / "my-model")
    shutil.copytree(ROOT / "configs", directory / "configs")
    pair = {"query": "Who are you?", "response": "Sure! I am swift's.", "rejected_response": "I am swift's."}
    one = {"query": "Who are you?", "response": "Sure! I am swift's.", "label": True}
    for name, row in (("pairs", pair), ("labels", one)):
        (directory / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * 4, encoding="utf-8")
    asked = {"query": "What is 12 + 30?", "solution": "42"}
    (directory / "sums.jsonl").write_text(f"{json.dumps(asked)}\n" * 4, encoding="utf-8")
    brief = "def brief(completions):\n    return [float(len(text) < 20) for text in completions]\n"
    (directory / "rewards.py").write_text(brief, encoding="utf-8")
    search = {"query": "Who are you?", "pos": ["I am swift's."], "neg": ["It is noon."]}
    (directory / "search.jsonl").write_text(f"{json.dumps(search)}\n" * 4, encoding="utf-8")
    (directory / "texts.txt").write_text("A kiln is lit at dawn.\nIt burns until noon.\n\n" * 40, encoding="utf-8")
    return directory


def marked(page: str) -> list[Any]:
    """The blocks of a page; those that say so are slow."""
    found = blocks((ROOT / page).read_text(encoding="utf-8"))
    slow = pytest.mark.slow
    return [
        pytest.param(page, block, id=f"{page}:{block.line}", marks=slow if block.info == "slow" else ())
        for block in found
    ]


@pytest.mark.parametrize(
    ("page", "block"),
    [
        *marked("README.md"),
        *marked("docs/self-cognition.md"),
        *marked("docs/customize.md"),
        *marked("docs/data.md"),
        *marked("docs/pretraining.md"),
        *marked("docs/heads.md"),
        *marked("docs/quantization.md"),
        *marked("docs/rlhf/README.md"),
        *marked("docs/rlhf/dpo.md"),
        *marked("docs/rlhf/orpo.md"),
        *marked("docs/rlhf/simpo.md"),
        *marked("docs/rlhf/cpo.md"),
        *marked("docs/rlhf/kto.md"),
        *marked("docs/rlhf/grpo.md"),
        *marked("docs/rlhf/rloo.md"),
        *marked("docs/rlhf/gkd.md"),
        *marked("docs/rlhf/rm.md"),
        *marked("docs/evaluation.md"),
        *marked("docs/infer.md"),
        *marked("docs/vllm.md"),
    ],
)
def test_block(page: str, block: Block, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    if block.info.startswith("skip"):
        assert block.info.removeprefix("skip").strip(": "), "a skipped block says why"
        return
    if block.info.endswith((".py", ".jsonl", ".json")):
        (place / block.info).write_text(block.text, encoding="utf-8")
    elif block.language == "python":
        run_python(block.text, f"{page}:{block.line}")
    elif block.language == "bash":
        for command in commands(block.text):
            assert run_swift(command) == 0, command
    else:
        assert block.language == "json", block
        (place / "one.jsonl").write_text(block.text * 4, encoding="utf-8")
        assert (
            run_swift("swift sft --model_id_or_path my-model --dataset one.jsonl --max_steps 1 --output_dir one") == 0
        )


@pytest.mark.parametrize(
    "script", ["echo a \\\n  b", "echo a \\\n# the next\necho b#c", "# first\necho a # rest\n#\necho b"]
)
def test_commands_are_what_a_shell_reads(script: str) -> None:
    def run(text: str) -> str:
        return subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True).stdout

    assert run("\n".join(commands(script))) == run(script)
    assert len(commands(script)) == len(run(script).splitlines())


def test_the_chinese_readme_shows_the_same() -> None:
    assert [(block.language, block.info, block.text) for block in CHINESE] == [
        (block.language, block.info, block.text) for block in README
    ]


def config(path: Path) -> ParameterSet:
    slow = (path.parent.name in ("sft", "pt", "rlhf", "heads") and path.stem not in QUICK) or path.stem in NEEDING_MORE
    name = str(path.relative_to(ROOT / "configs"))
    return pytest.param(path, id=name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("path", [config(path) for path in CONFIGS])
def test_config(path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    if not list(place.glob("output/*/*/checkpoint-*")):
        assert run_swift("swift sft --config configs/sft/lora.yaml --max_steps 1") == 0
    command = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    assert str(path.relative_to(ROOT)) in command
    short = {
        "sft": " --max_steps 1",
        "pt": " --max_steps 1",
        "rlhf": " --max_steps 1",
        "heads": " --max_steps 1",
        "infer": " --max_new_tokens 4",
        "eval": " --max_new_tokens 4",
        "export": "",
    }[path.parent.name]
    assert run_swift(command + short) == 0


def run_script(name: str, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(["bash", str(ROOT / "scripts" / name), *words], env=env)


@pytest.mark.slow
def test_scripts(place: Path, monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.chdir(place)
    train = ["my-model", "chat.jsonl", "--max_steps", "1", "--add_output_dir_suffix", "false", "--output_dir"]
    assert run_script("sft_lora.sh", *train, "scripted").wait(120) == 0
    assert run_script("infer_dataset.sh", "scripted/checkpoint-1", "--max_new_tokens", "4").wait(120) == 0
    assert run_script("export_merge.sh", "scripted/checkpoint-1").wait(120) == 0
    assert run_script("prove.sh", "--only", "F5", "--out", str(place / "exactness.md")).wait(200) == 0
    assert "9 of 9" in (place / "exactness.md").read_text(encoding="utf-8")
    assert run_script("sft_ddp.sh", *train, "ddp").wait(200) == 0
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    nodes = [run_script("sft_multinode.sh", *train, "nodes", NODE_RANK=str(rank), **address) for rank in (0, 1)]
    assert [node.wait(200) for node in nodes] == [0, 0]
    assert (place / "nodes" / "checkpoint-1" / "adapter_model.safetensors").is_file()


BENCHES = {
    "encode.py": ["--rows", "300", "--turns", "1", "--out", "speed.md"],
    "export.py": ["merge", "q8_0", "bnb:8"],
    "gpu.py": [],
    "help.py": ["--runs", "1"],
    "infer.py": ["--model", "tiny", "--prompts", "4", "--turns", "1"],
    "lookup.py": ["--model", "tiny", "--tokens", "8", "--turns", "1"],
    "memory.py": ["--only", "small, LoRA"],
    "merge.py": ["--rounds", "1", "--gigabytes", "0.3"],
    "quantize.py": ["bnb:8"],
    "rlhf.py": ["--vocabulary", "2000", "--steps", "1", "--batch", "2"],
    "serve.py": ["--model", "tiny", "--requests", "6", "--turns", "1", "--only", "swift deploy"],
    "startup.py": ["--runs", "1"],
    "train.py": "--models tiny --dtypes fp32 --rows 64 --steps 3 --warm 1 --turns 1 --ways swift optimised".split(),
    "tuners.py": ["--turns", "1", "--tokens", "16", "--depth", "20", "--only", "IA3", "Adapter", "--out", "cost.md"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHES)
def test_bench(name: str, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "scripts" / "bench" / name), *BENCHES[name]]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    if name == "gpu.py" and done.returncode:
        assert done.stderr.strip().startswith("there is no CUDA GPU here")
        return
    assert any(word in done.stdout for word in ("ratio", "by hand", "measured", "tokens/s")), done.stderr


def test_every_script_is_run_or_is_this_test() -> None:
    assert {path.name for path in (ROOT / "scripts" / "bench").glob("*.py")} == set(BENCHES)
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for script in (ROOT / "scripts").glob("*.sh"):  # the tests themselves run by the two that are left out
        assert script.name in text or script.name in ("test.sh", "install.sh"), f"{script.name} is run by no test"
