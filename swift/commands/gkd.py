"""`swift rlhf --rlhf_type gkd`: a model learns to say what its teacher would; `swift gkd` is short for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from swift.arguments.pt import sees_rows_apart
from swift.arguments.rlhf import RLHFArguments
from swift.commands.estimates import unknown_size
from swift.commands.prepare import find_source
from swift.commands.ready import Data, load_base, read_data
from swift.commands.task import Task
from swift.distillation.answers import Writer
from swift.distillation.decide import decide_gkd
from swift.distillation.divergence import Settings
from swift.distillation.teacher import Teacher, check_vocabulary
from swift.distillation.trainer import Answers, DistillationTrainer
from swift.inference.settings import generation_config
from swift.log import get_logger
from swift.models.load import load_tokenizer
from swift.models.source import ModelSource
from swift.templates.template import Template
from swift.trainers.packs import check_rows_apart
from swift.tuners import Swift

logger = get_logger()


def read_rows(args: RLHFArguments, template: Template) -> Data:
    """The rows, after it was made sure that the teacher has their tokens."""
    where = teacher_source(args)
    check_vocabulary(template.tokenizer, rows_of_head(find_source(args)), load_tokenizer(where), rows_of_head(where))
    return read_data(args, template)


def teacher_source(args: RLHFArguments) -> ModelSource:
    """Where the teacher is."""
    return find_source(
        replace(args, model_id_or_path=args.teacher_model, model_type=None, model_revision=args.teacher_model_revision)
    )


def rows_of_head(source: ModelSource) -> int:
    """Rows of a model's head, by its config."""
    config = source.config
    return int(config.get("vocab_size") or config["text_config"]["vocab_size"])


def further(args: RLHFArguments, source: ModelSource, model: torch.nn.Module, data: Data) -> Mapping[str, Any]:
    """What a trainer that learns from a teacher is given besides."""
    where = teacher_source(args)
    taught = load_base(args, where)
    adapters = None
    if args.teacher_adapters:
        taught = Swift.from_pretrained(taught, args.teacher_adapters)
        adapters = digest_of(Path(args.teacher_adapters))
    if sees_rows_apart(args):
        check_rows_apart(taught, "packing" if args.packing else "padding_free")
    sizes = {rows_of_head(source), rows_of_head(where)}
    vocabulary = min(sizes) if len(sizes) > 1 else None
    assert args.beta is not None
    settings = Settings(args.beta, args.distill_temperature, vocabulary)
    writer = Writer(generation_config(args), args.eval_batch_size or args.batch_size)
    logger.info(f"teacher: {where.path}; {describe(args)}")
    return {
        "teacher": Teacher(taught, adapters, vocabulary),
        "settings": settings,
        "answers": Answers(args.lmbda, args.seq_kd, writer),
    }


def digest_of(directory: Path) -> str:
    """The SHA-256 of the adapters in a checkpoint."""
    found = sorted(directory.rglob("*.safetensors"))
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in found)).hexdigest()


def describe(args: RLHFArguments) -> str:
    """The loss, and whose answers it is of, in a line."""
    kind = {0.0: "forward divergence", 1.0: "reverse divergence"}.get(float(args.beta or 0), f"beta {args.beta:g}")
    warm = f", temperature {args.distill_temperature:g}" if args.distill_temperature != 1 else ""
    others = "the teacher's" if args.seq_kd else "the data's"
    return f"loss: {kind}{warm}; answers: {args.lmbda:.0%} of the steps its own, else {others}"


def unsized(args: RLHFArguments, source: ModelSource) -> str | None:
    """Why memory and disk cannot be estimated."""
    return unknown_size(args, source) or "a step with a teacher is none that is gone through here"


GKD = Task(
    "rlhf",
    RLHFArguments,
    decide=decide_gkd,
    read=read_rows,
    trainer=lambda model: DistillationTrainer,
    further=further,
    of_verb=("rlhf_type",),
    unsized=unsized,
)
