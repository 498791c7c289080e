"""What may not stand in our code: calls that run what a file says, shells, half-written files, open servers.

Names are followed to where they were imported from, so `from os import system as call` is found too. Each rule is
shown to find what it forbids.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator, Set
from pathlib import Path

import pytest

import swift
from scripts import audit

ROOT = Path(swift.__file__).parent
REPO = ROOT.parent
OURS = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}
AROUND = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for room in ("tests", "scripts")
    for path in sorted((REPO / room).rglob("*.py"))
}

RUNS_WHAT_IT_READS = {
    "eval", "exec", "__import__", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "pickle._Unpickler", "dill.load", "dill.loads", "cloudpickle.load",
    "cloudpickle.loads", "marshal.load", "marshal.loads", "shelve.open", "joblib.load", "pandas.read_pickle",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all",
    "tempfile.mktemp",
}  # fmt: skip
FORBIDDEN_VALUES = {("trust_remote_code", True), ("shell", True), ("verify", False), ("allow_pickle", True),
                    ("weights_only", False)}  # fmt: skip
ALL = {"Exception", "BaseException"}
# Where a pickle is read: a list of names, none of which is called (tests/peft/test_pdparams.py).
UNPICKLES = {"peft/pdparams.py"}
LOADS_TORCH_FILES = {
    "tuners/files.py", "peft/pdparams.py", "merging/tensors.py", "trainers/engines.py", "reinforcement/written.py",
}  # fmt: skip
# Who writes a file not through `swift.storage`: words between processes in a directory of their own, the end of a file
# of answers that a full disk cut, tensors that stream into a staged directory, and nothing, where packages draw bars.
WRITES = {
    "storage.py", "launch.py", "dist.py", "watch.py", "inference/results.py", "merging/tensors.py",
    "models/quantising.py", "evaluation/answers.py", "studio/jobs.py", "studio/looking.py",
}  # fmt: skip


def names_of(tree: ast.Module) -> dict[str, str]:
    """What the imported names of a module are called where they come from."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def called(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Each call with the full name of what it calls."""
    names = names_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield _full(node.func, names), node


def _full(node: ast.expr, names: dict[str, str]) -> str:
    first, dot, rest = ast.unparse(node).partition(".")
    return names.get(first, first) + dot + rest


def unsafe(tree: ast.Module) -> list[str]:
    """The calls and bases that run what a file says, or pass a value that lets others do so."""
    found = [f"line {call.lineno}: {name}" for name, call in called(tree) if name in RUNS_WHAT_IT_READS]
    for name, call in called(tree):
        said = {(key.arg, key.value.value) for key in call.keywords if isinstance(key.value, ast.Constant)}
        found += [f"line {call.lineno}: {name}({key}={value})" for key, value in said & FORBIDDEN_VALUES]
        if name == "torch.load" and ("weights_only", True) not in said:
            found.append(f"line {call.lineno}: torch.load without weights_only=True")
    names = names_of(tree)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = [(node, _full(base, names)) for node in classes for base in node.bases]
    return found + [f"line {node.lineno}: a class of {base}" for node, base in bases if base in RUNS_WHAT_IT_READS]


def writes(tree: ast.Module) -> list[str]:
    """The calls that write a file in place, where a kill or a full disk would leave a part of it."""
    found = []
    for name, call in called(tree):
        method = name.rpartition(".")[2]
        of_path = method in ("write_text", "write_bytes") and not name.startswith(("storage.", "swift.storage."))
        if of_path or (method == "open" and name != "os.open" and _mode(name, call) & set("wax+")):
            found.append(f"line {call.lineno}: {name}")
    return found


def _mode(name: str, call: ast.Call) -> set[str]:
    place = 1 if name in ("open", "io.open", "builtins.open", "gzip.open") else 0
    said = [key.value for key in call.keywords if key.arg == "mode"] + call.args[place : place + 1]
    return {letter for value in said if isinstance(value, ast.Constant) for letter in str(value.value)}


def swallows(tree: ast.Module) -> list[str]:
    """The handlers that take whatever comes."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    return [f"line {node.lineno}" for node in found if node.type is None or _caught(node.type) & ALL]


def _caught(kind: ast.expr) -> set[str]:
    return {ast.unparse(one) for one in (kind.elts if isinstance(kind, ast.Tuple) else [kind])}


def opens_to_all(tree: ast.Module) -> list[str]:
    """The addresses that every machine of a network reaches."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [f"line {node.lineno}: {node.value}" for node in found if "0.0.0.0" in node.value]


def of(
    trees: dict[Path, ast.Module], rule: Callable[[ast.Module], list[str]], without: Set[str] = frozenset()
) -> list[str]:
    return [
        f"{path.relative_to(REPO)} {fault}"
        for path, tree in trees.items()
        if path.relative_to(ROOT if path.is_relative_to(ROOT) else REPO).as_posix() not in without
        for fault in rule(tree)
    ]


def test_nothing_of_ours_runs_what_a_file_says() -> None:
    assert not of(OURS, unsafe, UNPICKLES)
    assert [fault for path in UNPICKLES for fault in unsafe(OURS[ROOT / path])]  # else it need not be named here


def test_files_of_torch_are_read_in_few_places() -> None:
    places = [
        path.relative_to(ROOT).as_posix()
        for path, tree in OURS.items()
        for name, _ in called(tree)
        if name == "torch.load"
    ]
    assert sorted(places) == sorted(LOADS_TORCH_FILES)


def test_files_are_written_by_storage() -> None:
    assert not of(OURS, writes, WRITES)
    assert all(writes(OURS[ROOT / path]) for path in WRITES)


# What a user sees last; what others wait for and must be told of; an engine of others that has died;
# a reward function of the user's own, which may raise anything.
SWALLOWS = {
    "cli.py", "inference/service.py", "inference/embedding.py", "inference/vllm_engine.py", "reinforcement/rewards.py",
}  # fmt: skip


def test_no_handler_takes_whatever_comes() -> None:
    assert not of(OURS, swallows, SWALLOWS)
    assert all(swallows(OURS[ROOT / path]) for path in SWALLOWS)


def test_no_server_is_open_to_all() -> None:
    assert not of(OURS, opens_to_all)


def test_tests_and_scripts_read_yaml_safely_too() -> None:
    unsafe_yaml = {name for name in RUNS_WHAT_IT_READS if name.startswith("yaml.")}
    assert not of(AROUND, lambda tree: [name for name, _ in called(tree) if name in unsafe_yaml])


@pytest.mark.slow
def test_bandit_finds_nothing_severe() -> None:
    """Without B701, which wants the characters of HTML escaped: what our templates make is no page."""
    bandit = pytest.importorskip("bandit.core.manager")
    config = importlib.import_module("bandit.core.config").BanditConfig()
    manager = bandit.BanditManager(config, "file", profile={"exclude": ["B701"]})
    manager.discover_files([str(ROOT)], recursive=True)
    manager.run_tests()
    assert len(manager.files_list) == len(OURS)
    assert [issue.as_dict() for issue in manager.get_issue_list("HIGH", "LOW")] == []


def test_an_audit_of_nothing_is_no_clean_one() -> None:
    unknown = {"name": "a", "skip_reason": "not found"}
    clean = {"name": "b", "version": "1", "vulns": []}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    assert audit.judged([unknown]) == ([], "audit skipped: the index knows none of 1 packages")
    assert audit.judged([unknown, clean]) == ([], "audited 1 of 2 packages")
    assert audit.judged([bad, clean]) == (["c 2: CVE-1, fixed in 3"], "audited 2 of 2 packages")


@pytest.mark.parametrize(
    "code",
    [
        "eval(x)",
        "exec(x)",
        "import os\nos.system(x)",
        "from os import system as call\ncall(x)",
        "import pickle as p\np.loads(x)",
        "from pickle import load\nload(x)",
        "import pickle\nclass Own(pickle.Unpickler): ...",
        "from pickle import Unpickler as U\nclass Own(U): ...",
        "import yaml\nyaml.load(x, Loader=yaml.FullLoader)",
        "import yaml\nyaml.unsafe_load(x)",
        "import shelve\nshelve.open(x)",
        "import tempfile\ntempfile.mktemp()",
        "import torch\ntorch.load(x)",
        "import torch\ntorch.load(x, weights_only=False)",
        "import torch\ntorch.load(x, weights_only=said)",
        "from torch import load\nload(x)",
        "import numpy\nnumpy.load(x, allow_pickle=True)",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import requests\nrequests.get(x, verify=False)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_what_runs_a_file_is_found(code: str) -> None:
    assert unsafe(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    ["open(x, 'w')", "open(x, mode='ab')", "path.open('wb')", "path.write_text(x)", "open(x, 'r+')", "open(x, 'x')"],
)
def test_what_writes_in_place_is_found(code: str) -> None:
    assert writes(ast.parse(code))
    assert not writes(ast.parse("open(x); path.open('rb'); storage.write_text(path, x); row.open(); open(x, 'rb')"))


def test_what_takes_or_opens_all_is_found() -> None:
    for kind in ("", " Exception", " (OSError, Exception)", " BaseException"):
        assert swallows(ast.parse(f"try:\n    x()\nexcept{kind}:\n    pass"))
    assert not swallows(ast.parse("try:\n    x()\nexcept (OSError, ValueError):\n    pass"))
    assert opens_to_all(ast.parse("run(host='0.0.0.0')"))
    assert not unsafe(
        ast.parse("import torch, yaml\ntorch.load(x, weights_only=True); yaml.safe_load(x); re.compile(x)")
    )
