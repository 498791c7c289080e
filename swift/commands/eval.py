"""`swift eval`: measure models on data sets and say whether they differ. `eval_main` reads in the order of events."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from swift import storage
from swift._version import __version__
from swift.arguments.deploy import DeployArguments
from swift.arguments.eval import EvalArguments
from swift.arguments.fields import options_of, to_json
from swift.arguments.infer import InferArguments
from swift.arguments.reading import read_arguments
from swift.commands.chosen import find_checkpoint, load_plugin, read_saved
from swift.commands.deploy import deploy_main
from swift.commands.infer import generation_config, in_file_order, label_of, load_rows
from swift.commands.merge import merge_lora
from swift.commands.prepare import find_decided, load_template, load_tuned_model
from swift.datasets.ledger import Ledger
from swift.decide import tidy
from swift.errors import ConfigError, NotFoundError, SwiftError, UsageError, raise_all
from swift.evaluation import harness, results, scope
from swift.evaluation.answers import Kept, fingerprint, key_of
from swift.evaluation.asking import Asked, Local, Remote
from swift.evaluation.items import Item, fitted, make_items
from swift.evaluation.metrics import METRICS, Metric, choose_metrics, user_metric
from swift.evaluation.scoring import Plan, Scored, score
from swift.inference.client import KEY, XRequestConfig, ask_server
from swift.log import get_logger
from swift.models.source import ModelSource
from swift.registry import unknown
from swift.templates.template import Template

logger = get_logger()
NO_DATA, NO_TOKEN = "no", "EMPTY"
PATTERNS = ("ceval", "general_qa")


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
    items, ledger = read_items(args, sets, subjects[0], answers=bool(args.eval_metrics or not custom))
    plans = make_plans(args, items, custom)
    logger.info(ledger.summary())
    directory = results.open_directory(args.eval_output_dir, args.name)
    models = [measure(args, subject, plans) for subject in subjects]
    return _finish(args, directory, [subject.name for subject in subjects], models, {"rows": ledger.to_json()})


@dataclass(frozen=True)
class Subject:
    """What is measured: a model here, by its decided options, or one of a server."""

    name: str
    args: InferArguments
    source: ModelSource | None = None


@dataclass(frozen=True)
class Sets:
    """What is asked: data sets as typed, how they are called, and where their examples are if not in them."""

    specs: list[str]
    names: dict[str, str] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)


def check(args: EvalArguments) -> None:
    """Refuse, before anything is read, what cannot be meant so. Raises SwiftError with all mistakes."""
    local = bool(args.ckpt_dir or args.model_id_or_path or args.model_type)
    mistakes: list[SwiftError] = []
    if args.eval_url and (args.ckpt_dir or args.with_base):
        mistakes.append(ConfigError("CONFIG-02", "--eval_url and --ckpt_dir exclude each other", fix="one of the two"))
    if args.with_base and not args.ckpt_dir:
        mistakes.append(ConfigError("CONFIG-02", "--with_base has no checkpoint to compare", fix="--ckpt_dir <dir>"))
    if args.eval_model and not args.eval_url:
        mistakes.append(ConfigError("CONFIG-02", "--eval_model names models of --eval_url", fix="--eval_url <url>"))
    if args.eval_backend == "lm-eval" and args.eval_url and not local:
        fix = "--model_id_or_path, or --eval_backend evalscope"
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


def find_subjects(args: EvalArguments) -> list[Subject]:
    """All that is measured, in order, with nothing loaded yet."""
    if args.eval_url:
        return [Subject(name, _of_one(args, None)) for name in args.eval_model or _served(args)]
    if not args.ckpt_dir:
        decided, source = find_decided(_of_one(args, None))
        return [Subject(source.name, decided, source)]
    found = [_checkpoint(args, said) for said in args.ckpt_dir]
    if args.with_base:
        found.insert(0, _base(args, found[0]))
    names = _short_names([subject.name for subject in found])
    return [replace(subject, name=name) for subject, name in zip(found, names, strict=True)]


def _of_one(args: EvalArguments, ckpt_dir: str | None) -> InferArguments:
    """The options of `swift infer` for one of the models."""
    shared = options_of(EvalArguments).keys() & options_of(InferArguments).keys()
    said = {name: getattr(args, name) for name in shared}
    return InferArguments(**{**said, "ckpt_dir": ckpt_dir, "merge_lora": False})


def _checkpoint(args: EvalArguments, said: str) -> Subject:
    if args.merge_lora:
        said = merge_lora(_of_one(args, said))
    decided, source = find_decided(_of_one(args, said))
    return Subject(str(decided.ckpt_dir), decided, source)


def _base(args: EvalArguments, first: Subject) -> Subject:
    """The model that the first checkpoint was trained on, asked as that is.

    Raises:
        UsageError: the checkpoint does not say which it is.
    """
    saved = read_saved(find_checkpoint(args.ckpt_dir[0]))
    said = args.model_id_or_path or args.model_type
    named = args.model_id_or_path if said else saved.get("model_id_or_path")
    kind = args.model_type if said else saved.get("model_type")
    if not (named or kind):
        raise UsageError("USAGE-03", "--with_base: the checkpoint does not name its model", fix="--model_id_or_path")
    of_first = replace(first.args, ckpt_dir=None, model_id_or_path=named, model_type=kind, sft_type=None, dtype="AUTO")
    decided, source = find_decided(of_first)
    return Subject(f"base: {source.name}", decided, source)


def _served(args: EvalArguments) -> list[str]:
    assert args.eval_url
    return [str(each["id"]) for each in ask_server(args.eval_url, "models", _token(args))["data"]]


def _token(args: EvalArguments) -> str | None:
    return args.eval_token if args.eval_token != NO_TOKEN else os.environ.get(KEY) or NO_TOKEN


def _short_names(names: Sequence[str]) -> list[str]:
    """The ends of paths, as many parts as tell them from each other."""
    parts = [Path(name).parts if Path(name).is_absolute() else (name,) for name in names]
    for length in range(1, max(map(len, parts)) + 1):
        short = ["/".join(each[-length:]) for each in parts]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def find_sets(args: EvalArguments) -> Sets:
    """The data sets that the options name."""
    specs = [*args.eval_dataset, *([] if args.val_dataset else args.dataset), *args.val_dataset]
    sets = Sets([spec for spec in specs if spec != NO_DATA])
    if args.custom_eval_config:
        for entry in _read_config(Path(args.custom_eval_config).expanduser()):
            _add_custom(sets, entry, args.eval_few_shot)
    if not sets.specs and not (args.load_dataset_config and args.ckpt_dir):
        raise UsageError("USAGE-03", "there is no data set to measure on", fix="--eval_dataset rows.jsonl")
    return sets


def _read_config(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError("FOUND-01", f"--custom_eval_config {path} does not exist") from None
    except ValueError as error:
        raise ConfigError("CONFIG-01", f"--custom_eval_config {path} is not JSON: {error}") from None
    whole = isinstance(entries, list) and all(isinstance(each, dict) for each in entries)
    for each in entries if whole else [{}]:
        if each.get("pattern") not in PATTERNS or not isinstance(each.get("dataset"), str):
            what = f"--custom_eval_config {path} is no list of data sets with name, pattern, dataset and subset_list"
            raise ConfigError("CONFIG-01", what, why=f"pattern is one of {', '.join(PATTERNS)}")
    return entries


def _add_custom(sets: Sets, entry: Mapping[str, Any], few_shot: int) -> None:
    """The files of one data set of a configuration: `<subset>_val.csv` and `_dev.csv`, or `<subset>.jsonl`."""
    directory, name = Path(entry["dataset"]).expanduser(), str(entry.get("name") or entry["dataset"])
    for subset in entry.get("subset_list") or ["default"]:
        stem = f"{subset}_val.csv" if entry["pattern"] == "ceval" else f"{subset}.jsonl"
        asked, examples = str(directory / stem), directory / f"{subset}_dev.csv"
        sets.specs.append(asked)
        sets.names[asked] = f"{name}/{subset}"
        if few_shot and entry["pattern"] == "ceval" and examples.is_file():
            sets.examples[asked] = str(examples)


def read_items(args: EvalArguments, sets: Sets, first: Subject, *, answers: bool) -> tuple[list[Item], Ledger]:
    """What is asked, and the account of every row; with `answers`, each row has to have one."""
    inherited = not sets.specs
    specs = [*sets.specs, *sets.examples.values()]
    reading = first.args if inherited else replace(first.args, dataset=[], val_dataset=specs, custom_dataset_info=[])
    loaded = load_rows(
        replace(reading, custom_dataset_info=args.custom_dataset_info), inherited=inherited, answers=answers
    )
    rows = in_file_order(loaded.val or [])
    few, limit = args.eval_few_shot, args.eval_limit
    items = make_items(rows, loaded.ledger, limit=limit, few_shot=few, examples=sets.examples)
    return [replace(item, dataset=sets.names.get(item.dataset, item.dataset)) for item in items], loaded.ledger


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
    """Ask one model everything; it is gone from memory afterwards."""
    logger.info(f"measuring {subject.name}")
    if args.eval_url:
        asked: Asked = _remote(args, subject)
        own = list(plans)
    else:
        assert subject.source is not None
        template = load_template(subject.args, subject.source)
        own = [replace(plan, items=[_of_template(item, template) for item in plan.items]) for plan in plans]
        asked = _local(args, subject, template)
    pattern = _pattern(args)
    scored = [score(asked, plan, pattern) for plan in own]
    del asked
    _free()
    return scored


def _of_template(item: Item, template: Template) -> Item:
    """The item with a label in the words of the template, checked to fit it."""
    template.encode(fitted(item.row, template.generation))
    if item.last is None or not item.last.get("tool_calls"):
        return item
    whole: Any = {**item.row, "messages": [*item.messages, item.last]}
    return replace(item, label=label_of(template, whole) or item.label)


def _local(args: EvalArguments, subject: Subject, template: Template) -> Local:
    assert subject.source is not None
    model = load_tuned_model(subject.args, subject.source)
    set_seed(args.seed)
    ckpt_dir = Path(subject.args.ckpt_dir) if subject.args.ckpt_dir else None
    quantised = {name: value for name, value in to_json(subject.args).items() if re.match("dtype|quant|bnb|hqq", name)}
    kept = _kept(args, fingerprint(Path(subject.source.path), ckpt_dir), quantised)
    return Local(
        model,
        template,
        generation_config(subject.args),
        kept,
        batch_size=args.batch_size,
        stop_words=args.stop_words,
        seed=args.seed,
    )


def _remote(args: EvalArguments, subject: Subject) -> Remote:
    assert args.eval_url
    sampled = args.do_sample and args.temperature > 0
    config = XRequestConfig(
        max_tokens=args.max_new_tokens,
        temperature=args.temperature if sampled else 0.0,
        top_p=args.top_p if sampled else None,
        top_k=args.top_k if sampled else None,
        repetition_penalty=args.repetition_penalty if args.repetition_penalty != 1.0 else None,
        seed=args.seed if sampled else None,
        stop=args.stop_words,
    )
    chat = args.eval_is_chat_model
    return Remote(
        args.eval_url,
        subject.name,
        _token(args),
        config,
        _kept(args, args.eval_url, subject.name),
        is_chat=not args.template_type.endswith("generation") if chat is None else chat,
        at_once=args.eval_nproc,
        system=args.system,
    )


def _kept(args: EvalArguments, *what: Any) -> Kept:
    """Where the answers of a model are kept, if they are."""
    name = f"{key_of(*what)[:16]}.jsonl"
    return Kept(Path(args.eval_output_dir).expanduser() / "cache" / name if args.eval_use_cache else None)


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
        _free()
    return _finish(args, directory, [subject.name for subject in subjects], models, {"lm_eval": own})


def _with_scope(args: EvalArguments) -> list[dict[str, Any]]:
    """Let EvalScope ask a server: the one that is named, or one of each model on this machine."""
    scope.check_package()
    directory = results.open_directory(args.eval_output_dir, args.name)
    sampled = args.do_sample and args.temperature > 0
    generation: dict[str, Any] = {"max_tokens": args.max_new_tokens, "temperature": args.temperature if sampled else 0}
    found = []
    for subject in find_subjects(args):
        with _serving(args, subject) as (url, name):
            said = scope.settings(
                url,
                name,
                _token(args),
                find_sets(args).specs,
                directory=directory / results.plain_name(subject.name),
                few_shot=args.eval_few_shot,
                limit=args.eval_limit,
                at_once=args.eval_nproc,
                seed=args.seed,
                generation=generation,
            )
            found.append({"model": subject.name, "datasets": scope.run(said)})
    storage.write_json(directory / "results.json", {"options": to_json(args), "models": found})
    logger.info(f"results: {directory}")
    return found


@contextmanager
def _serving(args: EvalArguments, subject: Subject) -> Iterator[tuple[str, str]]:
    """The address of an API and the model's name there, while the server is needed."""
    if args.eval_url:
        yield args.eval_url, subject.name
        return
    shared = options_of(DeployArguments).keys() & options_of(InferArguments).keys() - {"batch_size"}
    said = {name: getattr(subject.args, name) for name in shared}
    served = deploy_main(DeployArguments(**said, port=0, batch_size=args.batch_size), prevent_thread_lock=True)
    assert served is not None
    try:
        yield f"{served.url}v1", served.names[0]
    finally:
        served.close()


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


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():  # needs-cuda
        torch.cuda.empty_cache()
