"""EleutherAI's lm-evaluation-harness on a model of ours; its samples become rows like those of our own metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from swift.errors import DataError, MissingPackageError, NotFoundError, TemporaryError
from swift.evaluation.metrics import Metric, mean
from swift.evaluation.scoring import Plan, Scored

KEPT = ("doc_id", "doc", "target", "arguments", "resps", "filtered_resps")


def check_package() -> None:
    """Raise MissingPackageError when the harness is not installed."""
    try:
        import lm_eval  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        missing = f"--eval_backend lm-eval needs {error.name}"
        raise MissingPackageError("PACKAGE-01", missing, fix="pip install 'swift-finetune[eval]'") from None


def find_tasks(said: Sequence[str]) -> list[Any]:
    """Tasks as the harness takes them: names, or what is in a YAML file of one's own.

    Raises:
        NotFoundError: there is no such file, or no task of that name.
    """
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks._yaml_loader import load_yaml  # pyright: ignore[reportMissingImports]

    tasks, manager = [], None
    for text in said:
        if text.endswith((".yaml", ".yml")):
            if not Path(text).is_file():
                raise NotFoundError("FOUND-01", f"--eval_dataset {text} does not exist")
            tasks.append(load_yaml(str(Path(text).resolve()), resolve_func=True))
            continue
        manager = manager or TaskManager()
        found = manager.match_tasks([text])
        if not found:
            fix = "`lm_eval ls tasks` lists them; a task of your own is a .yaml file"
            raise NotFoundError("FOUND-01", f"--eval_dataset {text}: lm-eval has no task of that name", fix=fix)
        tasks += found
    return tasks


def run(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[Any],
    *,
    few_shot: int,
    limit: int | None,
    batch_size: int,
    seed: int,
    chat: bool,
    max_length: int | None,
) -> tuple[list[Scored], dict[str, Any]]:
    """What the harness measures: the rows of each task as ours, and its own results.

    Raises:
        TemporaryError: the data of a task could not be fetched.
        DataError: it was, and is not as the task says.
    """
    import lm_eval  # pyright: ignore[reportMissingImports]
    from lm_eval.models import huggingface  # pyright: ignore[reportMissingImports]

    ask, wrap = cast(Any, lm_eval.simple_evaluate), cast(Any, huggingface.HFLM)  # their types know no arguments
    wrapped = wrap(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
    try:
        found = ask(
            model=wrapped,
            tasks=list(tasks),
            num_fewshot=few_shot or None,
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except ConnectionError as error:
        raise TemporaryError("FOUND-02", f"lm-eval could not fetch the data of its tasks: {error}") from error
    except (FileNotFoundError, KeyError) as error:
        raise DataError("DATA-01", f"lm-eval could not read the data of its tasks: {error}") from error
    scored = [each for task, samples in found["samples"].items() for each in _scored(task, samples)]
    return scored, found["results"]


def _scored(task: str, samples: Sequence[dict[str, Any]]) -> list[Scored]:
    """The samples of one task, for each way in which answers are filtered."""
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    found = []
    for name in filters:
        own = sorted((sample for sample in samples if sample["filter"] == name), key=lambda sample: sample["doc_id"])
        metrics = [metric for metric in own[0]["metrics"] if all(_is_number(sample[metric]) for sample in own)]
        plan = Plan(task if len(filters) == 1 else f"{task} ({name})", [], [_metric(m, own) for m in metrics])
        sums = {m: np.array([[float(sample[m]), 1.0] for sample in own]) for m in metrics}
        records = [
            {**{key: _plain(s.get(key)) for key in KEPT}, "scores": {m: float(s[m]) for m in metrics}} for s in own
        ]
        found.append(Scored(plan, records, sums))
    return found


def _metric(name: str, samples: Sequence[dict[str, Any]]) -> Metric:
    percent = all(0 <= sample[name] <= 1 for sample in samples)
    return mean(name, "answer", lambda told: float("nan"), "of lm-eval", percent=percent, binary=None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float, np.number)) and bool(np.isfinite(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
