"""`swift eval`: measure models on data sets and say whether they differ. `eval_main` reads in the order of events."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from swift import storage
from swift._version import __version__
from swift.arguments.eval import EvalArguments
from swift.arguments.fields import to_json
from swift.arguments.reading import read_arguments
from swift.commands.chosen import load_plugin
from swift.commands.eval_models import Subject, find_subjects, local, remote, serving, token
from swift.commands.eval_sets import custom_sets, find_sets, named_sets, read_items
from swift.commands.infer import label_of
from swift.commands.prepare import load_template, load_tuned_model
from swift.decide import tidy
from swift.errors import ConfigError, SwiftError, UsageError, raise_all
from swift.evaluation import harness, results, scope
from swift.evaluation.asking import Asked
from swift.evaluation.items import Item, fitted
from swift.evaluation.metrics import METRICS, Metric, choose_metrics, user_metric
from swift.evaluation.scoring import Plan, Scored, score
from swift.log import get_logger
from swift.registry import unknown
from swift.templates.template import Template

logger = get_logger()


def eval_main(said: EvalArguments | list[str] | None = None, **options: Any) -> list[dict[str, Any]]:
    """Measure what the options say; print a table, write results.json, answers and a picture.

    Args:
        said: an `EvalArguments`, a list of command-line words (`["x.json"]` too), or None for `sys.argv`.
        options: single options by name, over `said`.

    Returns:
        a dict for each model: `model`, its name, and `datasets`: by data set and metric its `value` with `low` and
        `high`, and `against` the first model where it is another. With `eval_backend` lm-eval or evalscope what these
        report.
    """
    args = tidy(read_arguments(EvalArguments, said, **options))
    check(args)
    if args.eval_backend == "lm-eval":
        return _with_harness(args)
    if args.eval_backend == "evalscope":
        return _with_scope(args)
    custom = load_metrics(args.custom_metric)
    subjects = find_subjects(args)
    sets = find_sets(args)
    items, ledger = read_items(args, sets, subjects[0].args, answers=bool(args.eval_metrics or not custom))
    plans = make_plans(args, items, custom)
    logger.info(ledger.summary())
    directory = results.open_directory(args.eval_output_dir, args.name)
    models = []
    for subject in subjects:
        _free(models)
        models.append(measure(args, subject, plans))
    return _finish(args, directory, [subject.name for subject in subjects], models, {"rows": ledger.to_json()})


def check(args: EvalArguments) -> None:
    """Refuse, before anything is read, what cannot be meant so. Raises SwiftError with all mistakes."""
    mistakes: list[SwiftError] = []
    if args.eval_url and (args.ckpt_dir or args.with_base):
        mistakes.append(ConfigError("CONFIG-02", "--eval_url and --ckpt_dir exclude each other", fix="one of the two"))
    if args.with_base and not args.ckpt_dir:
        mistakes.append(ConfigError("CONFIG-02", "--with_base has no checkpoint to compare", fix="--ckpt_dir <dir>"))
    if args.eval_model and not args.eval_url:
        mistakes.append(ConfigError("CONFIG-02", "--eval_model names models of --eval_url", fix="--eval_url <url>"))
    if args.eval_url and args.eval_use_cache:
        what = "--eval_use_cache cannot tell whether --eval_url still serves the same weights"
        fix = "leave --eval_use_cache out, or --model_id_or_path"
        mistakes.append(ConfigError("CONFIG-02", what, fix=fix))
    if args.eval_backend == "lm-eval" and args.eval_url:
        fix = "--model_id_or_path without --eval_url, or --eval_backend evalscope"
        mistakes.append(ConfigError("CONFIG-02", "--eval_backend lm-eval needs the model itself", fix=fix))
    for name in args.eval_metrics:
        if name not in METRICS:
            mistakes.append(unknown("metric of answers", name, METRICS))
    raise_all(mistakes)
    _pattern(args)


def load_metrics(said: Sequence[str]) -> dict[str, Metric]:
    """Metrics of users by the name of their function.

    Raises:
        UsageError: there is no such function, or a metric has that name already.
    """
    found: dict[str, Metric] = {}
    for text in said:
        path, _, name = text.rpartition(":")
        if not path:
            raise UsageError(
                "USAGE-02", f"--custom_metric {text} names no function", fix="--custom_metric file.py:name"
            )
        function = vars(load_plugin(path, "custom_metric")).get(name)
        if not callable(function):
            raise UsageError("USAGE-02", f"--custom_metric {text}: {path} has no function {name!r}")
        if name in METRICS or name in found:
            raise UsageError("USAGE-02", f"--custom_metric {text}: there is a metric {name} already", fix="rename it")
        found[name] = user_metric(name, function)
    return found


def make_plans(args: EvalArguments, items: Sequence[Item], custom: Mapping[str, Metric]) -> list[Plan]:
    """Which metrics each data set has.

    Raises:
        UsageError: none of those that are said fits a data set.
    """
    sets: dict[str, list[Item]] = {}
    for item in items:
        sets.setdefault(item.dataset, []).append(item)
    plans = []
    for name, own in sets.items():
        metrics = choose_metrics(args.eval_metrics, own[0], custom, likelihoods=not args.eval_url)
        if not metrics:
            what = f"{name}: none of --eval_metrics {' '.join(args.eval_metrics)} fits its rows"
            raise UsageError("USAGE-02", what, why="choice and letter need rows with choices", fix="other metrics")
        plans.append(Plan(name, own, metrics))
    return plans


def measure(args: EvalArguments, subject: Subject, plans: Sequence[Plan]) -> list[Scored]:
    """Ask one model everything."""
    logger.info(f"measuring {subject.name}")
    if args.eval_url:
        asked: Asked = remote(args, subject)
        own = list(plans)
    else:
        assert subject.source is not None
        template = load_template(subject.args, subject.source)
        own = [replace(plan, items=[_of_template(item, template) for item in plan.items]) for plan in plans]
        asked = local(args, subject, template)
    pattern = _pattern(args)
    return [score(asked, plan, pattern) for plan in own]


def _of_template(item: Item, template: Template) -> Item:
    """The item with a label in the words of the template, checked to fit it."""
    template.encode(fitted(item.row, template.generation))
    if item.last is None or not item.last.get("tool_calls"):
        return item
    whole: Any = {**item.row, "messages": [*item.messages, item.last]}
    return replace(item, label=label_of(template, whole) or item.label)


def _pattern(args: EvalArguments) -> re.Pattern[str] | None:
    try:
        return re.compile(args.answer_regex) if args.answer_regex else None
    except re.error as error:
        raise UsageError("USAGE-02", f"--answer_regex {args.answer_regex!r}: {error}") from None


def _with_harness(args: EvalArguments) -> list[dict[str, Any]]:
    """Let lm-eval measure every model; its samples are compared as our own rows are."""
    harness.check_package()
    tasks = harness.find_tasks(find_sets(args).specs)
    subjects = find_subjects(args)
    directory = results.open_directory(args.eval_output_dir, args.name)
    models, own = [], {}
    for subject in subjects:
        _free(models)
        assert subject.source is not None
        logger.info(f"measuring {subject.name}")
        template = load_template(subject.args, subject.source)
        chat = not template.generation if args.eval_is_chat_model is None else args.eval_is_chat_model
        scored, own[subject.name] = harness.run(
            load_tuned_model(subject.args, subject.source),
            template.tokenizer,
            tasks,
            few_shot=args.eval_few_shot,
            limit=args.eval_limit,
            batch_size=args.batch_size,
            seed=args.seed,
            chat=chat,
            max_length=template.max_length,
        )
        models.append(scored)
    return _finish(args, directory, [subject.name for subject in subjects], models, {"lm_eval": own})


def _with_scope(args: EvalArguments) -> list[dict[str, Any]]:
    """Let EvalScope ask a server: the one that is named, or one of each model on this machine."""
    scope.check_package()
    find_sets(args)  # which refuses what cannot be read
    tasks = scope.tasks(named_sets(args), custom_sets(args), args.eval_few_shot)
    if not tasks:
        raise UsageError("USAGE-03", "EvalScope has no data set to measure on", fix="--eval_dataset <benchmark>")
    names = [task.name for task in tasks if task.name]
    if len(set(names)) < len(names):
        what = "--custom_eval_config gives one name to several data sets"
        raise ConfigError("CONFIG-01", what, fix="a name for each")
    directory = results.open_directory(args.eval_output_dir, args.name)
    found = []
    for subject in find_subjects(args):
        place, reports = directory / results.plain_name(subject.name), {}
        with serving(args, subject) as (url, name):
            for task in tasks:
                said = scope_settings(args, url, name, task, place / results.plain_name(task.name or ""))
                reports |= scope.run(said, task.name)
        found.append({"model": subject.name, "datasets": reports})
    storage.write_json(directory / "results.json", {"options": to_json(args), "models": found})
    logger.info(f"results: {directory}")
    return found


def scope_settings(args: EvalArguments, url: str, name: str, task: scope.Task, directory: Path) -> dict[str, Any]:
    """What EvalScope is told of one task on one model."""
    sampled = args.do_sample and args.temperature > 0
    return scope.settings(
        url,
        name,
        token(args),
        task,
        directory=directory,
        limit=args.eval_limit,
        at_once=args.eval_nproc,
        seed=args.seed,
        generation={"max_tokens": args.max_new_tokens, "temperature": args.temperature if sampled else 0},
    )


def _finish(
    args: EvalArguments,
    directory: Path,
    names: Sequence[str],
    models: Sequence[Sequence[Scored]],
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Write everything, print the table; the reports."""
    rows = results.compared(models, args.bootstrap_samples, args.seed)
    results.write(directory, names, models, rows, {"swift": __version__, "options": to_json(args), **facts})
    sys.stdout.write(results.table(names, rows) + "\n")
    logger.info(f"results: {directory}")
    return results.reports(names, rows)


def _free(measured: Sequence[Any]) -> None:
    """Let go of the model that was measured before another one is loaded."""
    if measured:
        gc.collect()
    if torch.cuda.is_available():  # needs-cuda
        torch.cuda.empty_cache()
