"""EvalScope asking a server of the OpenAI API: one that is there, or `swift deploy` on a free port of this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swift.errors import MissingPackageError

OF_PATTERN = {"ceval": "general_mcq", "general_qa": "general_qa"}
"""EvalScope's benchmarks of rows of one's own, by the patterns of --custom_eval_config."""


@dataclass(frozen=True)
class Task:
    """What EvalScope measures at once: its benchmarks, each with what it is told of it.

    `name` is what the results of a lone benchmark are called; None is for its own name.
    """

    benchmarks: dict[str, dict[str, Any]]
    name: str | None = None


def tasks(names: Sequence[str], own: Sequence[Mapping[str, Any]], few_shot: int) -> list[Task]:
    """The tasks of benchmarks by name, and of the data sets of a configuration, each for itself."""
    shots = {"few_shot_num": few_shot} if few_shot else {}
    found = [Task({name: dict(shots) for name in names})] if names else []
    for entry in own:
        place = Path(entry["dataset"]).expanduser()
        told = {"local_path": str(place.absolute()), "subset_list": entry.get("subset_list") or ["default"]}
        found.append(Task({OF_PATTERN[entry["pattern"]]: told | shots}, str(entry.get("name") or entry["dataset"])))
    return found


def check_package() -> None:
    """Raise MissingPackageError when EvalScope is not installed."""
    if importlib.util.find_spec("evalscope") is None:
        fix = "pip install 'swift-finetune[evalscope]', in an environment of its own: it wants older packages"
        raise MissingPackageError("PACKAGE-01", "--eval_backend evalscope needs evalscope", fix=fix)


def settings(
    url: str,
    model: str,
    key: str | None,
    task: Task,
    *,
    directory: Path,
    limit: int | None,
    at_once: int,
    seed: int,
    generation: dict[str, Any],
) -> dict[str, Any]:
    """What EvalScope's `TaskConfig` is told, by its names."""
    return {
        "model": model,
        "api_url": url.rstrip("/"),
        "api_key": key or "EMPTY",
        "eval_type": "openai_api",
        "datasets": list(task.benchmarks),
        "dataset_args": {name: told for name, told in task.benchmarks.items() if told},
        "generation_config": generation,
        "eval_batch_size": at_once,
        "limit": limit,
        "seed": seed,
        "work_dir": str(directory),
    }


def run(said: dict[str, Any], name: str | None = None) -> dict[str, Any]:
    """EvalScope's report of each data set, as plain values; `name` is what that of a lone one is called."""
    from evalscope import TaskConfig, run_task  # pyright: ignore[reportMissingImports]

    found = dict(run_task(TaskConfig(**said)))
    plain = {key: report if isinstance(report, dict) else report.to_dict() for key, report in found.items()}
    return {name or key: report for key, report in plain.items()}
