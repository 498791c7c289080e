"""`swift sft`: fine-tune a model on conversations. `sft_main` reads in the order in which things happen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from swift import checkpoint, dist, storage
from swift.arguments.reading import read_arguments
from swift.arguments.sft import SftArguments
from swift.commands.prepare import find_source, load_plugins, load_template
from swift.commands.report import save_arguments, write_report
from swift.datasets.encode import EncodedDataset, encode
from swift.datasets.ledger import Ledger
from swift.datasets.load import load_datasets, parse_specs
from swift.decide import decide_sft, tidy
from swift.errors import DiskError, OutputError, SeveralErrors, SwiftError, raise_all
from swift.log import get_logger
from swift.models.load import TORCH_DTYPES, detect_hardware, load_model
from swift.models.source import ModelSource
from swift.templates.template import Template
from swift.trainers.arguments import training_arguments
from swift.trainers.trainer import Seq2SeqTrainer
from swift.tuners import Swift
from swift.tuners.choose import choose_tuner
from swift.tuners.freeze import freeze_parameters

logger = get_logger()
ADAPTER_BYTES = 64 << 20
STATES_PER_WEIGHT = 3  # the weight and Adam's two moments


def sft_main(said: SftArguments | list[str] | None = None, **options: Any) -> dict[str, Any]:
    """Fine-tune as the options say; return the report that is also written.

    Args:
        said: an `SftArguments`, a list of command-line words (`["x.json"]` too), or None for `sys.argv`.
        options: single options by name, over `said`.

    Returns:
        best and last checkpoint, metrics, log history, data and model facts: the keys of `write_report`.
    """
    args = tidy(read_arguments(SftArguments, said, **options))
    load_plugins(args.custom_register_path)
    source = find_inputs(args)
    args = decide_sft(args, detect_hardware(), source)
    join_group(args)
    args = replace(args, **choose_run(args, source))
    with no_empty_run(args):
        check_disk(args, source)
        training = training_arguments(args)  # before the data: it refuses what transformers does not know
        template = load_template(args, source)
        data = read_data(args, template)
        if data.val is None:
            args = replace(args, evaluation_strategy="no")
            training = training_arguments(args)
        save_arguments(args, training, data.ledger)

    torch.manual_seed(args.seed)
    model = add_tuner(args, load_base(args, source), source)
    trainer = Seq2SeqTrainer(
        model=model,
        args=training,
        data_collator=template.data_collator,
        train_dataset=data.train,
        eval_dataset=data.val,
        tokenizer=template.tokenizer,
        sft_args=args,
        template=template,
    )
    with what_is_saved(args):
        trainer.train(resume_from_checkpoint=None if args.resume_only_model else args.resume_from_checkpoint)
    report = write_report(args, trainer, data.ledger)
    leave_group()
    return report


@dataclass(frozen=True)
class Data:
    """Encoded rows and the account of every row read; `val` is None without evaluation."""

    train: EncodedDataset
    val: EncodedDataset | None
    ledger: Ledger


def find_inputs(args: SftArguments) -> ModelSource:
    """The model to tune. What is wrong with its name and with those of the data sets is said at once."""
    mistakes: list[SwiftError] = []
    try:
        parse_specs([*args.dataset, *args.val_dataset])
    except SwiftError as error:
        mistakes.append(error)
    try:
        source = find_source(args)
    except SwiftError as error:
        if not mistakes:
            raise
        raise SeveralErrors([error, *mistakes]) from None
    raise_all(mistakes)
    return source


def read_data(args: SftArguments, template: Template) -> Data:
    """Read, split and encode the data sets; show one row with its loss mask."""
    loaded = load_datasets(
        args.dataset,
        val_specs=args.val_dataset,
        test_ratio=args.dataset_test_ratio if args.evaluation_strategy != "no" else 0.0,
        seed=args.dataset_seed,
        columns=args.columns,
        model_name=args.model_name,
        model_author=args.model_author,
        max_bad_rows=args.max_bad_rows,
    )
    train = encode(loaded.train, template, loaded.ledger)
    val = encode(loaded.val, template, loaded.ledger, split="validation") if loaded.val else None
    logger.info(template.show(train[0]))
    logger.info(loaded.ledger.summary())
    return Data(train, val, loaded.ledger)


def load_base(args: SftArguments, source: ModelSource) -> torch.nn.Module:
    """The model to tune, in its decided dtype."""
    return load_model(
        source,
        TORCH_DTYPES[args.dtype],
        attn_implementation="flash_attention_2" if args.use_flash_attn else None,
    )


def add_tuner(args: SftArguments, model: torch.nn.Module, source: ModelSource) -> torch.nn.Module:
    """The model with what trains: a fresh tuner, one to continue, or (a part of) itself."""
    if args.sft_type == "full":
        freeze_parameters(model, args.freeze_parameters, args.additional_trainable_parameters)
        return model
    if args.resume_only_model and args.resume_from_checkpoint:
        return Swift.from_pretrained(model, args.resume_from_checkpoint, is_trainable=True)
    return Swift.prepare_model(model, choose_tuner(args, model, source.targets))


def choose_run(args: SftArguments, source: ModelSource) -> dict[str, Any]:
    """Where this run writes and what it resumes; every process gets what the main one chose.

    Raises:
        DataError: a checkpoint named to resume from is not whole.
        OutputError: nothing can be written there, or another run has written its checkpoints there.
    """
    chosen = _choose_run(args, source) if dist.is_main() else {}
    if dist.world_size() > 1:
        box = [chosen]
        torch.distributed.broadcast_object_list(box)
        chosen = box[0]
    return chosen


def _choose_run(args: SftArguments, source: ModelSource) -> dict[str, Any]:
    output = Path(args.output_dir).expanduser().resolve()
    runs = output / (args.model_type or source.name) if args.add_output_dir_suffix else output
    resume = args.resume_from_checkpoint
    if resume == "auto":
        found = checkpoint.latest_of_runs(runs)
        if found is not None:
            return {"output_dir": str(found.parent), "resume_from_checkpoint": str(found)}
        logger.info(f"nothing to resume below {runs}: starting afresh")
        resume = None
    elif resume:
        resume = str(Path(resume).expanduser().resolve())
        if not args.resume_only_model:
            checkpoint.check_resumable(Path(resume))
    run = runs / next_version(runs) if args.add_output_dir_suffix else runs
    goes_on = resume is not None and not args.resume_only_model and Path(resume).parent == run
    if checkpoint.committed(run) and not goes_on:
        raise OutputError(
            "OUTPUT-01",
            f"--output_dir {args.output_dir} holds the checkpoints of another run",
            fix="--resume_from_checkpoint auto goes on from one that is whole; or name another directory",
        )
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / ".writable").touch()
        (run / ".writable").unlink()
    except OSError as error:
        raise OutputError(
            "OUTPUT-01", f"--output_dir {args.output_dir}: {error.strerror}", fix="name another"
        ) from None
    return {"output_dir": str(run), "resume_from_checkpoint": resume}


@contextmanager
def no_empty_run(args: SftArguments) -> Iterator[None]:
    """Take the run's directory away again when the block ends before anything was written there."""
    try:
        yield
    finally:
        if dist.is_main() and args.add_output_dir_suffix:
            with suppress(OSError):  # what holds something stays
                Path(args.output_dir).rmdir()
                Path(args.output_dir).parent.rmdir()


@contextmanager
def what_is_saved(args: SftArguments) -> Iterator[None]:
    """Say, when the block is interrupted or ended by a signal, where one can go on from."""
    told = dist.record_run(args.output_dir)  # whoever started this worker says it then, for all of them
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if not told:
            checkpoint.say_last(args.output_dir)
        raise


def next_version(runs: Path) -> str:
    """`v<K>-<time>` with K one above the highest there is, from 0."""
    numbers = [int(m[1]) for path in runs.glob("v*") if (m := re.match(r"v(\d+)-", path.name))]
    return f"v{max(numbers, default=-1) + 1}-{datetime.now():%Y%m%d-%H%M%S}"


def check_disk(args: SftArguments, source: ModelSource) -> None:
    """Refuse to start when the checkpoints to come do not fit on the output's disk."""
    if not dist.is_main():
        return
    states = 1 if args.save_only_model else STATES_PER_WEIGHT
    one = source.weight_bytes * states if args.sft_type == "full" else ADAPTER_BYTES
    needed, free = int(one * 1.2), storage.free_bytes(Path(args.output_dir))
    if free < needed:
        raise DiskError(
            "DISK-01",
            f"No space left for a checkpoint in {args.output_dir}: {needed >> 20} MiB needed, {free >> 20} MiB free",
            fix="--output_dir on a larger disk, or --save_only_model",
        )


def join_group(args: SftArguments) -> None:
    """Join the other processes, if there are any."""
    if dist.world_size() > 1 and not torch.distributed.is_initialized():
        backend = args.ddp_backend or ("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():  # needs-cuda
            torch.cuda.set_device(dist.local_rank())
        torch.distributed.init_process_group(backend, timeout=timedelta(seconds=args.ddp_timeout))


def leave_group() -> None:
    """Wait for the others and part in order, so that none dies while another still talks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
