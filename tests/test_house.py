"""The house rules: layers, light and heavy modules, public names. Read by parsing, not by running."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import swift

ROOT = Path(swift.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}

# One line of the README; a module imports only from layers below its own, or from its own room.
LAYERS = [
    {"agent", "cli", "completion", "emit", "launch", "meeting"},
    {"commands", "serving", "studio", "ui"},
    {
        "checkpoint", "decide", "distillation", "estimate", "evaluation", "heads", "inference", "memory", "merging",
        "preference", "publish", "reinforcement", "scaling", "trainers",
    },
    {"models", "templates", "datasets", "tuners", "peft"},
    {"arguments", "parallel"},
    {"registry", "hub", "storage", "dist", "watch", "log", "redact", "errors"},
]  # fmt: skip
# `swift` and `swift.llm` only export; the version and the lazy exports belong to everybody.
OUTSIDE = {"__init__", "llm", "_lazy", "_version"}
LIGHT = {
    "_lazy",
    "_version",
    "llm",
    "cli",
    "completion",
    "emit",
    "launch",
    "watch",
    "decide",
    "estimate",
    "memory",
    "scaling",
    "registry",
    "log",
    "errors",
    "dist",
    "redact",
    "storage",
}
LIGHT_LIBRARIES = {"yaml", "swift", *sys.stdlib_module_names}


def room(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(node: ast.AST) -> set[str]:
    """Dotted names of the modules that the code below `node` imports."""
    found: set[str] = set()
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            found |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom) and child.module:
            found |= {child.module} if child.module != "swift" else {f"swift.{alias.name}" for alias in child.names}
    return found


def top_imports(tree: ast.Module) -> set[str]:
    body = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    typing_only = [n for n in body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    return set().union(*(imports(node) for node in body if node not in typing_only), set())


LIGHT_FILES = {"models/source.py", "models/files.py", "models/remote_code.py", "parallel/degrees.py"}
LIGHT_FILES |= {f"commands/{name}.py" for name in ("doctor", "names", "packages", "schema")}


def is_light(path: Path) -> bool:
    return (
        path.name == "__init__.py"
        or room(path) in LIGHT | {"arguments"}
        or path.parent.name == "catalog"
        or path.relative_to(ROOT).as_posix() in LIGHT_FILES
    )


def test_layers() -> None:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for path, tree in TREES.items():
        here = room(path)
        if here in OUTSIDE:
            continue
        assert here in level, f"{here} stands in no layer"
        for name in imports(tree):
            parts = name.split(".")
            there = parts[1] if parts[0] == "swift" and len(parts) > 1 else None
            if there is None or there == here or there in OUTSIDE:
                continue
            same_layer = level[there] == level[here]
            free = same_layer and here not in LAYERS[3]
            if level[there] < level[here] or (same_layer and not free):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_layers_line_in_readme() -> None:
    line = " > ".join(", ".join(sorted(layer)) for layer in LAYERS)
    readme = (ROOT.parent / "README.md").read_text(encoding="utf-8")
    assert line in readme, f"the README's layers line should be: {line}"


def test_light_modules_import_no_heavy_library() -> None:
    wrong = []
    for path, tree in TREES.items():
        if is_light(path):
            heavy = {name for name in top_imports(tree) if name.split(".")[0] not in LIGHT_LIBRARIES}
            wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in heavy]
    assert not wrong


@pytest.mark.parametrize(
    "code",
    [
        "from swift.llm import ModelType; assert ModelType.qwen_7b_chat == 'qwen-7b-chat'",
        "from swift.llm import TemplateType, DatasetName, SftArguments; SftArguments(); TemplateType.qwen",
        "from swift.cli import main; import contextlib\nwith contextlib.suppress(SystemExit): main(['sft', '--help'])",
        "from swift.cli import main; import contextlib\nwith contextlib.suppress(SystemExit): main(['--help'])",
        "import swift.completion; swift.completion.bash()",
        "from swift.commands.schema import schema_of; schema_of('sft')",
        "import swift.commands.doctor",
        "import swift; swift.__version__",
    ],
)
def test_light_use_loads_nothing_heavy(code: str) -> None:
    heavy = ["torch", "transformers", "peft", "numpy", "rich", "yaml"]
    check = f"{code}\nimport sys; loaded = [m for m in {heavy!r} if m in sys.modules]; assert not loaded, loaded"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_rooms_without_a_meaning() -> None:
    names = {part.removesuffix(".py") for path in MODULES for part in path.relative_to(ROOT).parts}
    assert not names & {"utils", "util", "helper", "helpers", "common", "manager", "base", "misc"}


def test_every_module_says_what_is_in_it() -> None:
    assert not [str(path.relative_to(ROOT)) for path, tree in TREES.items() if not ast.get_docstring(tree)]


def test_every_error_code_is_used_and_listed() -> None:
    from swift.errors import CODES

    text = "\n".join(p.read_text(encoding="utf-8") for p in MODULES if p.name != "errors.py")
    assert not [code for code in CODES if code not in text]
