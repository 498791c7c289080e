"""The models that `swift eval` measures: found, loaded, or asked of a server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from swift.arguments.deploy import DeployArguments
from swift.arguments.eval import EvalArguments
from swift.arguments.fields import options_of, to_json
from swift.arguments.infer import InferArguments
from swift.commands.chosen import find_checkpoint, read_saved
from swift.commands.deploy import NOT_USED, deploy_main
from swift.commands.merge import merge_lora
from swift.commands.prepare import find_decided, load_tuned_model
from swift.commands.score import head_of
from swift.errors import ConfigError, UsageError
from swift.evaluation.answers import Kept, fingerprint, key_of
from swift.evaluation.asking import Local, Remote
from swift.inference.client import KEY, XRequestConfig, ask_server
from swift.inference.settings import generation_config
from swift.models.source import ModelSource
from swift.templates.template import Template

NO_TOKEN = "EMPTY"


@dataclass(frozen=True)
class Subject:
    """What is measured: a model here, by its decided options, or one of a server."""

    name: str
    args: InferArguments
    source: ModelSource | None = None


def find_subjects(args: EvalArguments) -> list[Subject]:
    """All that is measured, in order, with nothing loaded yet."""
    if args.eval_url:
        return [Subject(name, of_one(args, None)) for name in args.eval_model or _served(args)]
    if not args.ckpt_dir:
        decided, source = _decided(of_one(args, None))
        return [Subject(source.name, decided, source)]
    found = [_checkpoint(args, said) for said in args.ckpt_dir]
    if args.with_base:
        found.insert(0, _base(args, found[0]))
    names = _short_names([subject.name for subject in found])
    return [replace(subject, name=name) for subject, name in zip(found, names, strict=True)]


def of_one(args: EvalArguments, ckpt_dir: str | None) -> InferArguments:
    """The options of `swift infer` for one of the models."""
    shared = options_of(EvalArguments).keys() & options_of(InferArguments).keys()
    said = {name: getattr(args, name) for name in shared}
    return InferArguments(**{**said, "ckpt_dir": ckpt_dir, "merge_lora": False})


def _decided(args: InferArguments) -> tuple[InferArguments, ModelSource]:
    """The decided options of a model that writes text.

    Raises:
        ConfigError: it has a head in the place of that.
    """
    decided, source = find_decided(args)
    if head_of(decided, source) is not None:
        what = f"{decided.ckpt_dir or source.path} scores or classifies texts, and writes none"
        raise ConfigError("CONFIG-02", what, fix="swift infer on rows with labels measures it")
    return decided, source


def _checkpoint(args: EvalArguments, said: str) -> Subject:
    if args.merge_lora:
        said = merge_lora(of_one(args, said))
    decided, source = _decided(of_one(args, said))
    return Subject(str(decided.ckpt_dir), decided, source)


def _base(args: EvalArguments, first: Subject) -> Subject:
    """The model that the first checkpoint was trained on, asked as that is.

    Raises:
        UsageError: the checkpoint does not say which it is.
    """
    whole = first.args.model_id_or_path == first.args.ckpt_dir
    saved = read_saved(find_checkpoint(args.ckpt_dir[0])) if whole else to_json(first.args)
    said = args.model_id_or_path or args.model_type
    named = args.model_id_or_path if said else saved.get("model_id_or_path")
    kind = args.model_type if said else saved.get("model_type")
    if not (named or kind):
        raise UsageError("USAGE-03", "--with_base: the checkpoint does not name its model", fix="--model_id_or_path")
    of_first = replace(first.args, ckpt_dir=None, model_id_or_path=named, model_type=kind, sft_type=None)
    decided, source = _decided(of_first)
    return Subject(f"base: {source.name}", decided, source)


def _served(args: EvalArguments) -> list[str]:
    assert args.eval_url
    return [str(each["id"]) for each in ask_server(args.eval_url, "models", token(args))["data"]]


def token(args: EvalArguments) -> str:
    """The key that --eval_url is told."""
    return args.eval_token if args.eval_token != NO_TOKEN else os.environ.get(KEY) or NO_TOKEN


def _short_names(names: Sequence[str]) -> list[str]:
    """The ends of paths, as many parts as tell them from each other."""
    parts = [Path(name).parts if Path(name).is_absolute() else (name,) for name in names]
    for length in range(1, max(map(len, parts)) + 1):
        short = ["/".join(each[-length:]) for each in parts]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def local(args: EvalArguments, subject: Subject, template: Template) -> Local:
    """The model of a subject, loaded, with what is kept of its answers."""
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


def remote(args: EvalArguments, subject: Subject) -> Remote:
    """A model of the server, whose answers are not kept: nobody says whether its weights are still the same."""
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
        token(args),
        config,
        Kept(),
        is_chat=not args.template_type.endswith("generation") if chat is None else chat,
        at_once=args.eval_nproc,
        system=args.system,
    )


def _kept(args: EvalArguments, *what: Any) -> Kept:
    """Where the answers of a model are kept, if they are."""
    name = f"{key_of(*what)[:16]}.jsonl"
    return Kept(Path(args.eval_output_dir).expanduser() / "cache" / name if args.eval_use_cache else None)


@contextmanager
def serving(args: EvalArguments, subject: Subject) -> Iterator[tuple[str, str]]:
    """The address of an API and the model's name there, while the server is needed."""
    if args.eval_url:
        yield args.eval_url, subject.name
        return
    shared = options_of(DeployArguments).keys() & options_of(InferArguments).keys() - {"batch_size", *NOT_USED}
    said = {name: getattr(subject.args, name) for name in shared}
    own = DeployArguments(**said, host="127.0.0.1", port=0, batch_size=args.batch_size)
    served = deploy_main(own, prevent_thread_lock=True)
    assert served is not None
    try:
        yield f"{served.url}v1", served.names[0]
    finally:
        served.close()
