"""Kinds of training, as rows: what each does in its own way. All else is the one road of `swift.commands.training`.

A new kind is an arguments class that inherits from `SftArguments`, a `Task` in the module of its verb, a row of `TASKS`
and one of `swift.cli.COMMANDS`. Dry run, launch, resume, receipt, rerun and report are there then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from swift.arguments.pt import PtArguments
from swift.arguments.reinforcement import METHODS
from swift.arguments.rlhf import RLHFArguments
from swift.arguments.sft import SftArguments
from swift.commands.estimates import Batches, unknown_size
from swift.commands.ready import Data, add_tuner, load_base, read_data
from swift.decide import decide_sft
from swift.dist import Hardware
from swift.models.source import ModelSource
from swift.parallel.lora import cut_lora
from swift.templates.template import Template
from swift.trainers.simulated import NOTHING, Batch, Lesson
from swift.trainers.tensor_parallel import trainer_of
from swift.trainers.trainer import Seq2SeqTrainer


def prepare_model(args: SftArguments, source: ModelSource, new: list[int]) -> torch.nn.Module:
    """The model with what trains of it; the rows `new` of its embedding always do."""
    return cut_lora(add_tuner(args, load_base(args, source, new), source, new))


def show_row(template: Template, data: Data) -> str:
    """The first row as the model meets it, with what is learnt."""
    return template.show(data.example)


def nothing_further(args: Any, source: ModelSource, model: torch.nn.Module, data: Data) -> Mapping[str, Any]:
    """No more than every trainer gets."""
    return {}


def nothing_before(args: Any, trainer: Any) -> None:
    """Train at once."""


def largest(args: Any, batches: Batches) -> Batch:
    """What goes through the model at once, of a step's largest batch: its rows."""
    return batches.largest


def no_lesson(args: Any, source: ModelSource) -> Lesson:
    """One model learns its tokens."""
    return NOTHING


@dataclass(frozen=True)
class Task:
    """A kind of training; the defaults are those of `swift sft`.

    Attributes:
        verb: the command.
        arguments: the class of its options.
        decide: options as said -> with nothing left open; raises what contradicts itself.
        read: the rows, encoded, with their account.
        show: one of them in words, for the log.
        prepare: the model that trains, of its options, source and the ids of new tokens.
        trainer: the class that trains this model.
        further: what its constructor is given besides, or in place of, what every trainer gets; called when rows and
            model are there and the processes have met.
        before: what is left to do with the trainer before it trains.
        of_verb: options that short names of the command set.
        unsized: why memory and disk of a run cannot be estimated; None where they can.
        batch: what goes through the model at once.
        lesson: what a step does besides, for the same estimate.
    """

    verb: str
    arguments: type[SftArguments]
    decide: Callable[[Any, Hardware, ModelSource], Any] = decide_sft
    read: Callable[[Any, Template], Data] = read_data
    show: Callable[[Template, Data], str] = show_row
    prepare: Callable[[Any, ModelSource, list[int]], torch.nn.Module] = prepare_model
    trainer: Callable[[torch.nn.Module], type[Seq2SeqTrainer]] = trainer_of
    further: Callable[[Any, ModelSource, torch.nn.Module, Data], Mapping[str, Any]] = nothing_further
    before: Callable[[Any, Any], None] = nothing_before
    of_verb: tuple[str, ...] = ()
    unsized: Callable[[Any, ModelSource], str | None] = unknown_size
    batch: Callable[[Any, Batches], Batch] = largest
    lesson: Callable[[Any, ModelSource], Lesson] = no_lesson


TASKS: dict[str, tuple[type[SftArguments], str]] = {
    "sft": (SftArguments, "swift.commands.sft:SFT"),
    "rlhf": (RLHFArguments, "swift.commands.rlhf:RLHF"),
    "pt": (PtArguments, "swift.commands.pt:PT"),
}
"""Verb -> the class of its options, and where its task stands."""

OF_METHOD = {"rm": "swift.commands.heads:REWARDS", "gkd": "swift.commands.gkd:GKD"}
OF_METHOD |= dict.fromkeys(METHODS, "swift.commands.reinforcement:REINFORCEMENT")
"""Methods of `swift rlhf` that are tasks of their own, and where these stand."""


def find_task(verb: str) -> Task:
    """The task of a verb."""
    module, _, name = TASKS[verb][1].partition(":")
    return getattr(import_module(module), name)


def task_of(args: SftArguments) -> Task:
    """The task whose options these are."""
    if isinstance(args, RLHFArguments) and args.rlhf_type in OF_METHOD:
        module, _, name = OF_METHOD[args.rlhf_type].partition(":")
        return getattr(import_module(module), name)
    if args.task_type != "causal_lm":
        return import_module("swift.commands.heads").HEADS
    return find_task(next((verb for verb, (cls, _) in TASKS.items() if type(args) is cls), "sft"))
