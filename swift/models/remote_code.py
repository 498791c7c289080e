"""The one gate for Python code that comes with a model: closed unless the user opens it for this run.

A model whose class transformers has runs without its own code, whatever its config.json names. For the rest the user
says `--trust_remote_code true`, or yes on a terminal, after having been told which files it is about.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swift import dist
from swift.errors import DataError, RefusedError


def check_remote_code(
    directory: Path, config: dict[str, Any], allowed: bool, revision: str | None = None
) -> dict[str, str]:
    """The model's own Python files that will run, with their sha256: needed and allowed; {} for a native model.

    Args:
        directory: the model's files.
        config: its config.json.
        allowed: what the user said for this run.
        revision: what was downloaded, for the message; None for a local directory.

    Raises:
        RefusedError: the code is needed and nobody allowed it, or lies in another repository.
        DataError: there is neither a class in transformers nor code.
    """
    if is_native(str(config["model_type"])):
        return {}
    classes = config.get("auto_map")
    if not isinstance(classes, dict) or not {"AutoModelForCausalLM", "AutoModel"} & set(classes):
        raise DataError(
            "MODEL-02",
            f"{directory}: transformers has no text model of type {config['model_type']!r}",
            why="and the directory brings no class of its own",
        )
    _check_own(directory, classes)
    files = code_files(directory)
    if not files:
        raise DataError("MODEL-01", f"{directory}: the Python files that its config.json names are missing")
    if allowed or _agrees(directory, files):
        return files
    raise RefusedError(
        "REFUSED-01",
        f"{directory} needs its own Python code: transformers has no class for {config['model_type']!r}",
        why="it would run " + ", ".join(f"{name} (sha256 {digest})" for name, digest in files.items()),
        fix="read these files, then add --trust_remote_code true"
        + (f" --model_revision {revision}" if revision else ""),
    )


def check_unchanged(directory: Path, agreed: Mapping[str, str]) -> None:
    """Raise RefusedError when the files that the user agreed to are not those that are there now."""
    if agreed and code_files(directory) != dict(agreed):
        raise RefusedError("REFUSED-01", f"{directory}: its Python code changed since it was checked", fix="run again")


def code_files(directory: Path) -> dict[str, str]:
    """Python file of a model -> sha256 of its content."""
    paths = sorted(directory.rglob("*.py"))
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def is_native(model_type: str) -> bool:
    """Whether transformers itself has a causal language model of this `model_type`."""
    return model_type in _native_types()


@functools.cache
def native_type(arch: str) -> str | None:
    """The `model_type` of a model class such as "Qwen2ForCausalLM" that transformers has; None for one that it lacks.

    Classes that models brought as their own before transformers had them are found in spite of another spelling.
    """
    stem = re.sub(r"(ForCausalLM|ForConditionalGeneration|LMHeadModel)$", "", arch).lower()
    named = [model_type for model_type in _native_types() if re.sub("[-_]", "", model_type) == stem]
    of_class = [model_type for model_type, name in _native_types().items() if name.lower() == arch.lower()]
    both = [model_type for model_type in named if model_type in of_class]
    return next(iter([*both, *of_class, *named]), None)


@functools.cache
def _native_types() -> dict[str, str]:
    """Transformers' table of causal language models, read as text: importing it takes seconds, and this comes first."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None, "transformers comes with this package"
    source = (Path(str(spec.origin)).parent / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8")
    table = source.partition("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = ")[2].partition("\n)")[0]
    return dict(re.findall(r'\("([^"]+)", "([^"]+)"\)', table))


def _check_own(directory: Path, classes: dict[str, Any]) -> None:
    for value in classes.values():
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str) and "--" in name:
                raise RefusedError(
                    "REFUSED-01",
                    f"{directory} takes its code from another repository: {name}",
                    why="that code could change at any time",
                    fix=f"copy the files of {name.partition('--')[0]} into the directory and shorten the name",
                )


def _agrees(directory: Path, files: dict[str, str]) -> bool:
    """Ask on a terminal; anywhere else the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()) or dist.world_size() > 1:
        return False
    listed = "\n".join(f"  {name}  sha256 {digest}" for name, digest in files.items())
    sys.stderr.write(f"{directory} needs its own Python code:\n{listed}\nRun it with your rights? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
