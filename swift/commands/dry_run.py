"""`swift sft --dry_run`: everything that can be checked and told before weights are loaded; nothing is written.

What is wrong is gathered, so that one dry run names all of it: the error that is raised at the end has its exit code.
It serves every kind of training: `swift.commands.task` says in what they differ.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from swift import dist
from swift.arguments.fields import options_of, to_json
from swift.arguments.reading import places_of
from swift.arguments.sft import SftArguments
from swift.arguments.values import spelt
from swift.commands.chat import say
from swift.commands.dry_run_text import describe
from swift.commands.estimate import sharding_of
from swift.commands.estimates import Schedule, Size, batches_of, schedule, size_of
from swift.commands.pictures import wants_colour
from swift.commands.prepare import load_plugins, load_template
from swift.commands.ready import Data, find_inputs, new_ids, spell_out
from swift.commands.run import check_disk, check_writable, plan_run
from swift.commands.task import task_of
from swift.decide import tidy
from swift.errors import SeveralErrors, SwiftError, raise_all
from swift.models.load import detect_hardware
from swift.models.placing import device_map_of
from swift.models.source import ModelSource
from swift.publish.token import without_token
from swift.redact import HIDDEN, SECRET_KEY, redact, redact_text
from swift.registry import unknown
from swift.templates.template import Template
from swift.trainers.arguments import Seq2SeqTrainingArguments, training_arguments
from swift.trainers.callbacks import CALLBACKS
from swift.trainers.loss import find_loss
from swift.trainers.metrics import compute_metrics
from swift.trainers.sameness import check_same_run, facts_of

LAUNCH_NAMES = ("NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "USE_HF")
DRY_RUN = re.compile(r"--dry[-_]run(=.*)?")


@dataclass
class Rehearsal:
    """What a dry run found; a part is None where something was in its way, which `errors` names.

    Attributes:
        args: the decided options.
        origins: where each came from: "command line", "run.yaml:7", "said", "checkpoint", "decided" or "default".
        launch: the command that does the run.
        processes: how many train together.
        source: the model.
        resumed: the whole checkpoint that an exact run goes on from; None for a fresh start.
        template: the chat template with the tokenizer.
        data: encoded rows and their account.
        schedule: steps and tokens.
        size: parameters, memory and disk.
        unsized: why `size` is None although nothing is wrong.
        errors: everything that would stop the run.
    """

    args: SftArguments
    origins: dict[str, str]
    launch: str
    processes: int
    source: ModelSource
    resumed: Path | None = None
    template: Template | None = None
    data: Data | None = None
    schedule: Schedule | None = None
    size: Size | None = None
    unsized: str | None = None
    errors: list[SwiftError] = field(default_factory=list)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Add what a part raises to `errors`."""
        try:
            yield
        except SeveralErrors as error:
            self.errors += error.errors
        except SwiftError as error:
            self.errors.append(error)

    def to_json(self) -> dict[str, Any]:
        """Options, where each came from, the account of rows, schedule and size, as plain values."""
        return {
            "launch": self.launch,
            "processes": self.processes,
            "options": to_json(self.args),
            "origins": self.origins,
            "dataset_info": self.data.ledger.to_json() if self.data else None,
            "schedule": asdict(self.schedule) if self.schedule else None,
            "size": asdict(self.size) if self.size else None,
        }


def dry_run(said: SftArguments, words: Sequence[str] | None = None, processes: int | None = None) -> dict[str, Any]:
    """Show on stdout what a run would do, and return it.

    Args:
        said: the options.
        words: the command line they were read from; None where Python gave them.
        processes: how many will train together; None for as many as there are now.

    Returns:
        see `Rehearsal.to_json`; {} in every process but the main one.

    Raises:
        SwiftError: what would stop the run; all that was found, at the end.
    """
    if not dist.is_main():
        return {}
    found = rehearse(said, words, processes)
    say(describe(found, wants_colour()))
    raise_all(found.errors)
    return found.to_json()


def rehearse(said: SftArguments, words: Sequence[str] | None, processes: int | None) -> Rehearsal:
    """Go through a run up to where weights would be loaded."""
    said = tidy(said)
    load_plugins(said.custom_register_path)
    source = find_inputs(said)
    hardware = detect_hardware()
    hardware = replace(hardware, world_size=processes or hardware.world_size)
    args = task_of(said).decide(spell_out(said), hardware, source)
    found = Rehearsal(args, {}, launch_line(said, words), hardware.world_size, source)
    with found.gathering():
        found.args = replace(args, **plan_run(args, source, look_only=True))
        if found.args.resume_from_checkpoint and not args.resume_only_model:
            found.resumed = Path(found.args.resume_from_checkpoint)
        check_writable(found.args)
        check_disk(found.args, source)
        device_map_of(found.args.device_map)
    with found.gathering():
        found.template = load_template(args, source)
        new_ids(found.args, found.template)
        found.data = task_of(args).read(args, found.template)
        if found.data.val is None:
            found.args = replace(found.args, evaluation_strategy="no")
    _check_names(found)
    with found.gathering():
        training = training_arguments(found.args)
        _estimate(found, training)
    found.origins = origins(said, found.args, words)
    return found


def _check_names(found: Rehearsal) -> None:
    """Whether loss, metrics and callbacks are registered; callbacks are not made."""
    with found.gathering():
        find_loss(found.args.loss_name)
    with found.gathering():
        compute_metrics(found.args.metrics)
    found.errors += [unknown("callback", name, CALLBACKS) for name in found.args.callbacks if name not in CALLBACKS]


def _estimate(found: Rehearsal, training: Seq2SeqTrainingArguments) -> None:
    if found.data is not None:
        models = found.processes // found.args.tensor_parallel_size
        found.schedule = schedule(training, found.data.train, models)
        with found.gathering():
            if found.resumed is not None:
                _check_resumed(found, training, found.resumed, found.data)
    task = task_of(found.args)
    found.unsized = task.unsized(found.args, found.source)
    if found.unsized is None:
        train = found.data.train if found.data is not None else None
        batch = task.batch(found.args, batches_of(found.args, found.source, training, train))
        models = found.processes // found.args.tensor_parallel_size
        sharding = sharding_of(found.args, None, models)
        lesson = task.lesson(found.args, found.source)
        found.size = size_of(found.args, found.source, training, batch, sharding, models, lesson)


def _check_resumed(found: Rehearsal, training: Seq2SeqTrainingArguments, checkpoint: Path, data: Data) -> None:
    """Whether going on from a checkpoint would be exact."""
    check_same_run(
        checkpoint,
        facts_of(training, data.train, found.processes),
        tuned=found.args.sft_type != "full",
        data_too=not training.ignore_data_skip,
        options=found.args,
        allow=training.allow_inexact_resume,
    )


def launch_line(said: SftArguments, words: Sequence[str] | None) -> str:
    """The command of the run itself, with the variables that start its processes, without secrets."""
    task = task_of(said)
    options = options_of(task.arguments).values()
    if words is None:
        different = [info for info in options if getattr(said, info.name) != info.default and info.name != "dry_run"]
        words = [word for info in different for word in spelt(info.name, getattr(said, info.name))]
    else:
        in_a_file = places_of(task.arguments, words).get("dry_run", "command line") != "command line"
        by_verb = [name for name in task.of_verb if name not in places_of(task.arguments, words)]
        of_verb = [word for name in by_verb for word in spelt(name, getattr(said, name))]
        words = of_verb + without_dry_run(words) + (["--dry_run", "false"] if in_a_file else [])
    variables = [f"{name}={shlex.quote(os.environ[name])}" for name in LAUNCH_NAMES if os.environ.get(name)]
    return redact_text(
        " ".join([*variables, f"swift {task.verb}", shlex.join(without_secrets(without_token(words)))]).strip()
    )


def without_secrets(words: Sequence[str]) -> list[str]:
    """The words with what stands under a secret's name blacked out: `--name x`, `name=x`, or in a JSON object."""
    shown: list[str] = []
    for word in words:
        name, equals, _ = word.partition("=")
        if word.lstrip().startswith("{"):
            shown.append(_redacted_json(word))
        elif equals and SECRET_KEY.search(_plain(name)):
            shown.append(f"{name}={HIDDEN}")
        elif shown and shown[-1].startswith("--") and SECRET_KEY.search(_plain(shown[-1])):
            shown.append(HIDDEN)
        else:
            shown.append(word)
    return shown


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _redacted_json(word: str) -> str:
    try:
        return json.dumps(redact(json.loads(word)))
    except ValueError:
        return word


def without_dry_run(words: Sequence[str]) -> list[str]:
    """The words of a command line that do not ask for a dry run."""
    kept: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        match = DRY_RUN.fullmatch(word)
        if match is None:
            kept.append(word)
        elif match[1] is None and rest and not rest[0].startswith("-"):
            rest.pop(0)
    return kept


def origins(said: SftArguments, decided: SftArguments, words: Sequence[str] | None) -> dict[str, str]:
    """Where each decided option came from."""
    places = places_of(type(said), words) if words is not None else {}
    found = {}
    for name, info in options_of(type(said)).items():
        if name in places:
            found[name] = places[name]
        elif getattr(said, name) != info.default:
            found[name] = "said"
        else:
            found[name] = "default" if getattr(decided, name) == info.default else "decided"
    if decided.resume_from_checkpoint and said.resume_from_checkpoint == "auto":
        found["output_dir"] = found["resume_from_checkpoint"] = "checkpoint"
    return found
