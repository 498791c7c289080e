"""`swift rlhf`: train on preferences, with DPO, ORPO, SimPO, CPO or KTO; `swift dpo` and its like are short for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from swift.arguments.reading import command_words, read_arguments
from swift.arguments.rlhf import RLHFArguments
from swift.commands.estimates import Batches
from swift.commands.prepare import find_source
from swift.commands.ready import Data, load_base, read_data
from swift.commands.task import Task, task_of
from swift.commands.training import train
from swift.datasets.encode import EncodedDataset
from swift.log import get_logger
from swift.models.load import TORCH_DTYPES
from swift.models.outline import outline_model
from swift.models.source import ModelSource
from swift.preference.batches import Collator
from swift.preference.decide import decide_rlhf, names_reference
from swift.preference.encode import PreferenceEncoder, answers_of
from swift.preference.losses import needs_reference, settings_of
from swift.preference.reference import Reference, check_stays
from swift.preference.rows import PreferenceRows
from swift.preference.sharing import why_not_shared
from swift.preference.trainer import Method, PreferenceTrainer
from swift.templates.template import Template
from swift.trainers.simulated import Batch, Lesson

logger = get_logger()


def rlhf_main(said: RLHFArguments | list[str] | None = None, **options: Any) -> dict[str, Any]:
    """Train on preferences as the options say; return the report that is also written.

    Args:
        said: an `RLHFArguments`, a list of command-line words (`["x.json"]` too), or None for `sys.argv`.
        options: single options by name, over `said`.

    Returns:
        as `sft_main`.
    """
    args = read_arguments(RLHFArguments, said, **options)
    return train(args, task_of(args), command_words(said, options))


def dpo_main(said: RLHFArguments | list[str] | None = None, **options: Any) -> dict[str, Any]:
    """`rlhf_main` with `rlhf_type` dpo."""
    return rlhf_main(said, **{**options, "rlhf_type": "dpo"})


def orpo_main(said: RLHFArguments | list[str] | None = None, **options: Any) -> dict[str, Any]:
    """`rlhf_main` with `rlhf_type` orpo."""
    return rlhf_main(said, **{**options, "rlhf_type": "orpo"})


def read_preferences(args: RLHFArguments, template: Template) -> Data:
    """The rows, encoded, with their account."""
    pairs = args.rlhf_type != "kto"
    data = read_data(args, template, PreferenceEncoder(template, args.max_prompt_length, pairs=pairs))

    def with_more(rows: Any) -> Any:
        return PreferenceRows(rows, single=not pairs, limit=template.max_length) if _plain(rows) else rows

    return replace(data, train=with_more(data.train), val=with_more(data.val))


def _plain(rows: Any) -> bool:
    return type(rows) is EncodedDataset


def show_answers(template: Template, data: Data) -> str:
    """The first row's answers as the model meets them, with what is learnt."""
    row = data.example
    answers = [{name: list(values) for name, values in answer.items()} for answer in answers_of(row)]
    names = ["chosen", "rejected"] if len(answers) == 2 else [["good", "bad"][int(row["rejected"][0])]]
    return "\n".join(f"{name}:\n{template.show(answer)}" for name, answer in zip(names, answers, strict=True))


def further(args: RLHFArguments, source: ModelSource, model: torch.nn.Module, data: Data) -> Mapping[str, Any]:
    """What a trainer of preferences is given besides."""
    method = Method(args.rlhf_type, str(args.loss_type), settings_of(args))
    logger.info(describe(args, method))
    shared = args.share_prompts and args.rlhf_type != "kto"
    reason = why_not_shared(model) if shared else None
    if reason is not None:
        logger.warning(f"--share_prompts: each answer gets a prompt of its own, because {reason}")
    pad = source_pad(model)
    return {
        "method": method,
        "reference": find_reference(args, source, model),
        "data_collator": Collator(pad, args.padding_free, shared and reason is None),
    }


def source_pad(model: Any) -> int:
    """An id to fill up with, which no position that counts ever sees."""
    return int(model.config.pad_token_id or 0)


def find_reference(args: RLHFArguments, source: ModelSource, model: torch.nn.Module) -> Reference | None:
    """What changes are measured against, `model` not being trained yet; None where the loss has nothing to measure."""
    return make_reference(args, source, model) if needs_reference(args) else None


def make_reference(args: RLHFArguments, source: ModelSource, model: torch.nn.Module) -> Reference:
    """What the options say that changes are measured against, `model` not being trained yet."""
    if not is_whole(args) and not names_reference(args):
        check_stays(model, args.init_lora_weights)
        return Reference()
    if not names_reference(args):
        logger.info("reference: a copy of the model as it is now")
        return Reference(copy.deepcopy(model))
    other = named_reference(args)
    logger.info(f"reference: {other.path}")
    return Reference(load_base(args, other))


def is_whole(args: RLHFArguments) -> bool:
    """Whether the model itself trains, so that nothing of it can be turned off."""
    return args.sft_type == "full" and not args.tuner


def named_reference(args: RLHFArguments) -> ModelSource:
    """The model that is named to measure against."""
    return find_source(
        replace(
            args,
            model_id_or_path=args.ref_model_id_or_path,
            model_type=args.ref_model_type,
            model_revision=args.ref_model_revision,
        )
    )


def describe(args: RLHFArguments, method: Method) -> str:
    """The loss in a line."""
    s = method.settings
    name = method.name if method.loss == method.name else f"{method.name}, {method.loss}"
    more = [f"beta {s.beta:g}"]
    more += [f"label smoothing {s.smoothing:g}"] if s.smoothing else []
    more += [f"gamma {s.gamma:g}"] if method.loss == "simpo" else []
    share = f"{s.share:g} x " if s.share != 1 else ""
    nll = f" + {s.nll:g} x the chosen answers' cross-entropy" if s.nll else ""
    return f"loss: {share}{name} ({', '.join(more)}){nll}"


def trainer_of(model: torch.nn.Module) -> type[PreferenceTrainer]:
    """The trainer of preferences."""
    return PreferenceTrainer


def know_reference(args: RLHFArguments, trainer: PreferenceTrainer) -> None:
    """Ask the reference about all rows before training, where that is wanted."""
    if args.precompute_ref_log_probs and trainer.reference is not None:
        assert args.precompute_ref_batch_size is not None
        trainer.know_reference(args.precompute_ref_batch_size)


def answers_at_once(args: RLHFArguments, batches: Batches) -> Batch:
    """The answers of a batch: those of a pair are two rows, which are taken to be equally long."""
    rows = batches.largest
    if args.rlhf_type == "kto":
        return rows
    if batches.known:
        return replace(rows, rows=2 * rows.rows, tokens=-(-rows.tokens // 2), padded=True)
    return replace(rows, rows=2 * rows.rows, supervised=2 * rows.supervised, padded=True)


def asks_reference(args: RLHFArguments, source: ModelSource) -> Lesson:
    """How often the reference is asked about a batch, and which model it is where it is one of its own.

    KTO asks it, and the model that trains, about answers to other prompts too.
    """
    if not needs_reference(args):
        return Lesson()
    divergence = args.loss_type == "kto"
    passes = int(divergence) if args.precompute_ref_log_probs else 1 + 2 * divergence
    if not (is_whole(args) or names_reference(args)):
        return Lesson(passes)
    where = named_reference(args) if names_reference(args) else source
    return Lesson(passes, outline_model(where, TORCH_DTYPES[args.dtype]))


RLHF = Task(
    "rlhf",
    RLHFArguments,
    decide=decide_rlhf,
    read=read_preferences,
    show=show_answers,
    trainer=trainer_of,
    further=further,
    before=know_reference,
    of_verb=("rlhf_type",),
    batch=answers_at_once,
    lesson=asks_reference,
)
