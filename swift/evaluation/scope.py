"""EvalScope asking a server of the OpenAI API: one that is there, or `swift deploy` on a free port of this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swift.errors import MissingPackageError


def check_package() -> None:
    """Raise MissingPackageError when EvalScope is not installed."""
    if importlib.util.find_spec("evalscope") is None:
        fix = "pip install 'swift-finetune[evalscope]', in an environment of its own: it wants older packages"
        raise MissingPackageError("PACKAGE-01", "--eval_backend evalscope needs evalscope", fix=fix)


def settings(
    url: str,
    model: str,
    key: str | None,
    datasets: Sequence[str],
    *,
    directory: Path,
    few_shot: int,
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
        "datasets": list(datasets),
        "dataset_args": {name: {"few_shot_num": few_shot} for name in datasets} if few_shot else {},
        "generation_config": generation,
        "eval_batch_size": at_once,
        "limit": limit,
        "seed": seed,
        "work_dir": str(directory),
    }


def run(said: dict[str, Any]) -> dict[str, Any]:
    """EvalScope's report of each data set, as plain values."""
    from evalscope import TaskConfig, run_task  # pyright: ignore[reportMissingImports]

    found = dict(run_task(TaskConfig(**said)))
    return {name: report if isinstance(report, dict) else report.to_dict() for name, report in found.items()}
