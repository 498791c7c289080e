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
from swift.commands.prepare import find_source
from swift.commands.ready import Data, load_base, read_data
from swift.commands.task import Task
from swift.distillation.answers import Writer
from swift.distillation.decide import decide_gkd
from swift.distillation.divergence import HeadDivergence, SaidByHead, Settings, TeacherLoss
from swift.distillation.teacher import Teacher, check_vocabulary
from swift.distillation.trainer import Answers, DistillationTrainer
from swift.inference.settings import generation_config
from swift.log import get_logger
from swift.models.load import TORCH_DTYPES, load_tokenizer
from swift.models.outline import outline_model
from swift.models.source import ModelSource
from swift.templates.template import Template
from swift.trainers.head import Rule
from swift.trainers.packs import check_rows_apart
from swift.trainers.simulated import Asked, Lesson
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
    settings = settings_of(args, source, where)
    writer = Writer(generation_config(args), args.eval_batch_size or args.batch_size)
    logger.info(f"teacher: {where.path}; {describe(args)}")
    return {
        "teacher": Teacher(taught, adapters, settings.vocabulary),
        "settings": settings,
        "answers": Answers(args.lmbda, args.seq_kd, writer),
    }


def settings_of(args: RLHFArguments, source: ModelSource, teacher: ModelSource) -> Settings:
    """What is compared, of decided options: tokens that both models know."""
    sizes = {rows_of_head(source), rows_of_head(teacher)}
    assert args.beta is not None
    return Settings(args.beta, args.distill_temperature, min(sizes) if len(sizes) > 1 else None)


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


def asks_teacher(args: RLHFArguments, source: ModelSource) -> Lesson:
    """The teacher is asked about every batch, and the divergence from it learnt; writing answers is left out."""
    where = teacher_source(args)
    teacher = outline_model(where, TORCH_DTYPES[args.dtype])
    settings = settings_of(args, source, where)

    def divergence(head: torch.nn.Linear, told: Asked | None) -> HeadDivergence:
        assert told is not None
        said = SaidByHead(told.hidden_NG, told.head, Rule(), settings.vocabulary)
        return HeadDivergence(head, Rule(), TeacherLoss(settings, said))

    return Lesson(1, teacher, reads=False, loss=divergence)


GKD = Task(
    "rlhf",
    RLHFArguments,
    decide=decide_gkd,
    read=read_rows,
    trainer=lambda model: DistillationTrainer,
    further=further,
    of_verb=("rlhf_type",),
    lesson=asks_teacher,
)
