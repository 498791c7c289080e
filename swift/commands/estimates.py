"""What can be known of a run before it starts: its steps and tokens, and the least memory and disk it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn
from transformers.trainer_utils import IntervalStrategy
from transformers.training_args import OptimizerNames

from swift.arguments.sft import SftArguments
from swift.commands.ready import add_tuner
from swift.datasets.encode import EncodedDataset
from swift.datasets.lazy import LazyDataset
from swift.datasets.pack import PackedDataset
from swift.datasets.stream import Stream
from swift.models.load import TORCH_DTYPES
from swift.models.outline import outline_model
from swift.models.source import ModelSource
from swift.trainers.arguments import Seq2SeqTrainingArguments
from swift.trainers.batches import TokenBatches, lengths_of

ADAM = ("adamw_torch", "adamw_torch_fused")  # two moments as large as the gradient
Rows = EncodedDataset | PackedDataset | LazyDataset


@dataclass(frozen=True)
class Schedule:
    """How long a run is; `tokens` and `supervised` are over the whole of it, padding left out.

    `epochs`, `tokens` and `supervised` are None for a stream, whose rows are not known before.
    """

    rows_per_step: int
    steps: int
    epochs: float | None
    tokens: int | None
    supervised: int | None
    evaluate_every: int | str | None
    save_every: int | str | None
    checkpoints_kept: int | None


@dataclass(frozen=True)
class Size:
    """Parameters, and the bytes that a process needs at least; activations come on top.

    `optimiser_bytes` None is an optimiser whose states are not known here.
    """

    parameters: int
    trainable: int
    weight_bytes: int
    gradient_bytes: int
    optimiser_bytes: int | None
    checkpoint_bytes: int | None

    @property
    def memory_bytes(self) -> int:
        """Weights, gradients and what is known of the optimiser."""
        return self.weight_bytes + self.gradient_bytes + (self.optimiser_bytes or 0)


def schedule(training: Seq2SeqTrainingArguments, train: Rows | Stream, processes: int) -> Schedule:
    """The steps that the trainer will make of these rows."""
    rows_per_step = training.train_batch_size * training.gradient_accumulation_steps * processes
    if isinstance(train, Stream):
        return _scheduled(training, rows_per_step, training.max_steps, None, None, None)
    per_process = _batches(training, train, processes)
    accumulated = training.gradient_accumulation_steps
    steps_per_epoch = max(math.ceil(per_process / accumulated), 1)
    if training.max_tokens_per_batch:
        rows_per_step = round(len(train) / steps_per_epoch)
    if training.max_steps > 0:
        steps, epochs = training.max_steps, training.max_steps / steps_per_epoch
    else:
        steps, epochs = math.ceil(training.num_train_epochs * steps_per_epoch), training.num_train_epochs
    if isinstance(train, LazyDataset):
        return _scheduled(training, rows_per_step, steps, epochs, None, None)
    tokens, supervised = round(sum(train.lengths) * epochs), round(train.num_supervised * epochs)
    return _scheduled(training, rows_per_step, steps, epochs, tokens, supervised)


def _batches(training: Seq2SeqTrainingArguments, train: Rows, processes: int) -> int:
    """How many batches of an epoch each process takes."""
    if training.max_tokens_per_batch:
        return len(TokenBatches(lengths_of(train), training.max_tokens_per_batch, training.seed, processes))
    batches = len(train) / training.train_batch_size
    if training.dataloader_drop_last:
        return math.floor(batches) // processes
    return math.ceil(math.ceil(batches) / processes)


def _scheduled(
    training: Seq2SeqTrainingArguments,
    rows_per_step: int,
    steps: int,
    epochs: float | None,
    tokens: int | None,
    supervised: int | None,
) -> Schedule:
    return Schedule(
        rows_per_step,
        steps,
        epochs,
        tokens,
        supervised,
        _every(training.eval_strategy, training.eval_steps, steps),
        _every(training.save_strategy, training.save_steps, steps),
        training.save_total_limit,
    )


def _every(strategy: str, interval: float | None, steps: int) -> int | str | None:
    """Steps between two events, "epoch" for one an epoch, None for never."""
    if strategy == "no":
        return None
    if strategy == "epoch" or not interval:
        return IntervalStrategy(strategy).value
    return math.ceil(steps * interval) if interval < 1 else int(interval)


def unknown_size(args: SftArguments, source: ModelSource) -> str | None:
    """Why `size_of` cannot tell, None when it can."""
    if source.config.get("quantization_config"):
        return "the model is quantised"
    if args.resume_only_model and args.resume_from_checkpoint:
        return "an adapter is continued"
    return None


def size_of(args: SftArguments, source: ModelSource, training: Seq2SeqTrainingArguments) -> Size:
    """Count the model with its tuner on, built without weights; the targets of the tuner are looked up in it.

    Raises:
        SwiftError: the model's config or the tuner's options do not fit.
    """
    outline = outline_model(source, TORCH_DTYPES[args.dtype])
    model = add_tuner(replace(args, init_lora_weights="true"), outline, source)  # how it starts changes no size
    every, trained = list(model.parameters()), [p for p in model.parameters() if p.requires_grad]
    gradients = _bytes(trained)
    optimiser = 2 * gradients if OptimizerNames(training.optim).value in ADAM else None
    saved = _bytes(every) if args.sft_type == "full" else gradients
    states = 0 if training.save_only_model else optimiser
    return Size(
        parameters=sum(p.numel() for p in every),
        trainable=sum(p.numel() for p in trained),
        weight_bytes=_bytes(every),
        gradient_bytes=gradients,
        optimiser_bytes=optimiser,
        checkpoint_bytes=None if states is None else saved + states,
    )


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
