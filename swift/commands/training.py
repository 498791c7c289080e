"""The road of every kind of training: `train` reads in the order in which things happen.

What a kind does in its own way its `Task` says (`swift.commands.task`): how options are decided, rows read and shown,
the model made ready, and which trainer it gets with which further arguments. `swift sft` is the task of all defaults.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from transformers import TrainerCallback

from swift import dist, storage
from swift.arguments.pt import sees_rows_apart
from swift.arguments.sft import SftArguments
from swift.commands.dry_run import dry_run
from swift.commands.prepare import load_plugins, load_template
from swift.commands.ready import Data, find_inputs, new_ids, spell_out
from swift.commands.receipt import write_receipt
from swift.commands.report import save_arguments, write_report
from swift.commands.run import check_disk, check_shared, choose_run, no_empty_run, what_is_saved
from swift.commands.scarce import memory_explained
from swift.commands.task import Task
from swift.datasets.lazy import LazyDataset
from swift.datasets.pack import PackedDataset
from swift.decide import tidy, why_checkpointing, without_effect
from swift.log import get_logger
from swift.models.load import detect_hardware
from swift.models.placing import device_map_of
from swift.models.source import ModelSource
from swift.publish.during import Pushing, going_on, open_repository
from swift.publish.token import settle
from swift.templates.publish import settle_chat_template
from swift.trainers import zero
from swift.trainers.arguments import training_arguments
from swift.trainers.lazy import FollowLazy
from swift.trainers.old_rows import OldRows
from swift.trainers.order import NoteOrder
from swift.trainers.packs import check_rows_apart

logger = get_logger()
LONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def train(said: SftArguments, task: Task, words: Sequence[str] | None = None) -> dict[str, Any]:
    """Train as the options say; return the report that is also written.

    Args:
        said: the options, of the class that the task has.
        task: the kind of training.
        words: the command line they were read from; None where Python gave them.

    Returns:
        best and last checkpoint, metrics, log history, data and model facts: the keys of `write_report`; with
        `dry_run`, what `Rehearsal.to_json` says.
    """
    args = settle(tidy(said))
    if args.dry_run:
        return dry_run(args, words)
    load_plugins(args.custom_register_path)
    source = find_inputs(args)
    spelt, hardware = spell_out(args), detect_hardware()
    args = task.decide(spelt, hardware, source)
    if spelt.optim != args.optim:
        logger.info(f"--optim {spelt.optim} is read as --use_galore true --optim {args.optim}")
    if spelt.gradient_checkpointing is None:
        on, why = why_checkpointing(args, hardware, source)
        logger.info(f"gradient checkpointing is {'on' if on else 'off'}: {why}")
    for name in without_effect(args):
        kinds = f"--tuner {' '.join(args.tuner)}" if args.tuner else f"--sft_type {args.sft_type}"
        logger.warning(f"--{name} has no effect with {kinds}")
    device_map_of(args.device_map)
    join_group(args)
    args = replace(args, **choose_run(args, source))
    held = storage.held(args.output_dir) if dist.is_main() else nullcontext()
    with no_empty_run(args), held, memory_explained(args, source, hardware):
        check_shared(args)
        return _train(args, source, task)


def _train(args: SftArguments, source: ModelSource, task: Task) -> dict[str, Any]:
    """Train in the run's directory, which nobody else writes into meanwhile."""
    check_disk(args, source)
    pushing = publishing(args, source)
    training = training_arguments(args)  # before the data: it refuses what transformers does not know
    template = load_template(args, source)
    settle_chat_template(template)
    new = new_ids(args, template)
    data = task.read(args, template)
    if isinstance(data.train, PackedDataset):
        logger.info(f"train: {data.train.describe()}")
    logger.info(task.show(template, data))
    if not args.streaming:
        logger.info(data.ledger.summary() if args.lazy_tokenize else data.ledger.screen())
    if data.val is None:
        args = replace(args, evaluation_strategy="no")
        training = training_arguments(args)
    save_arguments(args, training, data.ledger)

    torch.manual_seed(args.seed)
    with zero.loaded_whole(training):
        model = task.prepare(args, source, new)
        if sees_rows_apart(args):
            check_rows_apart(model, "packing" if args.packing else "padding_free")
        order = NoteOrder()
        every: dict[str, Any] = {
            "model": model,
            "args": training,
            "data_collator": template.data_collator,
            "train_dataset": data.train,
            "eval_dataset": data.val,
            "tokenizer": template.tokenizer,
            "sft_args": args,
            "template": template,
            "callbacks": [order, *followers(model, new, args, data), *pushing],
        }
        trainer = task.trainer(model)(**{**every, **task.further(args, source, model, data)})
    with what_is_saved(args), going_on(pushing):
        task.before(args, trainer)
        trainer.train(resume_from_checkpoint=None if args.resume_only_model else args.resume_from_checkpoint)
    data.ledger.pad(trainer.padding.tokens, trainer.padding.of_datasets)
    late = args.streaming or args.lazy_tokenize  # only now is it known what was read, or what its tokens are
    logger.info(data.ledger.screen() if late else data.ledger.padding())
    report = write_report(args, trainer, data.ledger)
    write_receipt(args, trainer, template, order.digest, task.verb)
    leave_group()
    with going_on(pushing):
        for pushes in pushing:
            report["pushes"] = pushes.finish(report)
    return report


def publishing(args: SftArguments, source: ModelSource) -> list[Pushing]:
    """What publishes the run while it trains, in the main process; nothing without `--push_to_hub`.

    Raises:
        RefusedError: there is no token, or it may not write there.
    """
    if not args.push_to_hub or not dist.is_main():
        return []
    repo = open_repository(args, f"{args.model_type or source.name}-{args.sft_type}")
    return [Pushing(replace(args, hub_model_id=repo), Path(args.output_dir))]


def followers(model: torch.nn.Module, new: Sequence[int], args: SftArguments, data: Data) -> list[TrainerCallback]:
    """What goes along with training: old rows stay as they are, rows that are encoded late are entered when drawn."""
    found: list[TrainerCallback] = [OldRows(model, new)] if args.sft_type == "full" else []
    return [*found, FollowLazy(data.train)] if isinstance(data.train, LazyDataset) else found


def join_group(args: SftArguments) -> None:
    """Join the other processes, if there are any; what shares a model wants a group of one too."""
    if args.deepspeed:
        zero.prepare_build(zero.read_config(args.deepspeed))
    shares = bool(args.deepspeed or args.fsdp)
    if shares and dist.world_size() == 1:
        os.environ.update(LONE | {name: os.environ[name] for name in LONE if name in os.environ})
    if (dist.world_size() > 1 or shares) and not torch.distributed.is_initialized():
        backend = args.ddp_backend or ("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():  # needs-cuda
            torch.cuda.set_device(dist.local_rank())
        torch.distributed.init_process_group(backend, timeout=timedelta(seconds=args.ddp_timeout))


def leave_group() -> None:
    """Wait for the others and part in order, so that none dies while another still talks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if all(os.environ.get(name) == value for name, value in LONE.items()):
        for name in LONE:
            del os.environ[name]
