"""What can be known of a run before it starts: its steps and tokens, and the memory and disk it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch import nn
from transformers.trainer_utils import IntervalStrategy
from transformers.training_args import OptimizerNames

from swift.arguments.sft import SftArguments
from swift.commands.ready import add_tuner
from swift.datasets.encode import EncodedDataset
from swift.datasets.lazy import LazyDataset
from swift.datasets.pack import PackedDataset
from swift.datasets.pieces import Joined
from swift.datasets.prompts import Prompts
from swift.datasets.stream import Stream
from swift.errors import UnknownNameError
from swift.estimate import Memory, Step, memory_of
from swift.models.load import TORCH_DTYPES
from swift.models.outline import outline_model
from swift.models.source import ModelSource
from swift.parallel.cuts import whole_shape
from swift.parallel.groups import imagine_group
from swift.parallel.lora import cut_lora
from swift.parallel.plan import cut_model
from swift.trainers.arguments import Seq2SeqTrainingArguments
from swift.trainers.batches import GROUPED, Grouped, TokenBatches, lengths_of
from swift.trainers.lisa import Lisa
from swift.trainers.loss import IGNORED, find_loss
from swift.trainers.optim import any_optimizer
from swift.trainers.simulated import NOTHING, Batch, Lesson, UnknownStepError, simulate
from swift.trainers.trainer import Seq2SeqTrainer

ADAM = ("adamw_torch", "adamw_torch_fused")  # two moments as large as the gradient
LONGEST = 32768  # tokens of a row where nothing else limits it
LONGEST_REASON = 200  # characters
Rows = EncodedDataset | PackedDataset | Joined | LazyDataset | Prompts


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
    """Parameters, and the bytes that a process needs.

    Attributes:
        parameters: of the model with its tuner, however many processes hold it.
        trainable: those that train.
        weight_bytes: of all parameters that a process holds.
        gradient_bytes: of all gradients of them at once.
        optimiser_bytes: its states for them; None where they are not known.
        checkpoint_bytes: on the disk; None likewise.
        batch: the largest there is.
        step: what a step on it needs; None where shapes alone do not tell.
        memory: at its height, in each of the processes; None likewise.
        unknown: why `step` is None.
    """

    parameters: int
    trainable: int
    weight_bytes: int
    gradient_bytes: int
    optimiser_bytes: int | None
    checkpoint_bytes: int | None
    batch: Batch | None = None
    step: Step | None = None
    memory: Memory | None = None
    unknown: str | None = None

    @property
    def memory_bytes(self) -> int:
        """All that is known to be needed: without `memory` that is weights, gradients and optimiser states."""
        if self.memory is not None:
            return self.memory.total
        return self.weight_bytes + self.gradient_bytes + (self.optimiser_bytes or 0)


@dataclass(frozen=True)
class Batches:
    """The batches of a run: the largest, and what the others are next to it.

    Attributes:
        largest: its shape.
        share: the mean size of a batch, next to the largest.
        known: whether rows were looked at; else the largest is as long as options allow, and all are like it.
    """

    largest: Batch
    share: float = 1.0
    known: bool = False


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
    if isinstance(train, Prompts) and train.times > 1:  # steps are whole, and each is made so many times
        accumulated = training.gradient_accumulation_steps
        return len(train) // (training.train_batch_size * accumulated * processes) * accumulated * train.times
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


def batches_of(
    args: SftArguments, source: ModelSource, training: Seq2SeqTrainingArguments, train: Rows | Stream | None
) -> Batches:
    """The batches that the trainer will make of these rows; without rows, those that options allow."""
    if train is None or isinstance(train, (Stream, LazyDataset, Prompts)) or not len(train):
        return _allowed(args, source)
    lengths = np.asarray(train.lengths, np.int64)
    taken = [rows for rows in _drawn(training, lengths) if len(rows)]
    sizes = np.asarray([len(rows) * lengths[rows].max() for rows in taken])
    rows = taken[int(sizes.argmax())]
    longest = int(lengths[rows].max())
    learnt = int(sum(label != IGNORED for row in rows.tolist() for label in train[row]["labels"][1:]))
    packed = isinstance(train, PackedDataset)
    padded = not packed and bool((lengths[rows] != longest).any())
    return Batches(Batch(len(rows), longest, max(learnt, 1), padded), float(sizes.mean() / sizes.max()), known=True)


def _drawn(training: Seq2SeqTrainingArguments, lengths: np.ndarray) -> list[np.ndarray]:
    """The batches of the first epoch; for an order that transformers draws, one that is as good as its own."""
    size, processes = training.train_batch_size, training.world_size
    if training.max_tokens_per_batch:
        return TokenBatches(lengths.tolist(), training.max_tokens_per_batch, training.seed).batches()
    if training.train_sampling_strategy == GROUPED:
        order = Grouped(lengths.tolist(), size, training.seed, processes * training.gradient_accumulation_steps).order()
    else:
        order = np.random.default_rng(training.seed).permutation(len(lengths))
    return np.split(order, range(size, len(order), size))


def _allowed(args: SftArguments, source: ModelSource) -> Batches:
    """Batches as large as they may be, all of which is learnt."""
    limit = source.config.get("max_position_embeddings") or LONGEST
    tokens = args.max_length if args.max_length > 0 else min(limit, LONGEST)
    rows = max(args.max_tokens_per_batch // tokens, 1) if args.max_tokens_per_batch else args.batch_size
    return Batches(Batch(rows, tokens, rows * (tokens - 1), padded=not args.packing and rows > 1))


def size_of(
    args: SftArguments,
    source: ModelSource,
    training: Seq2SeqTrainingArguments,
    batch: Batch | None = None,
    sharding: str = "none",
    processes: int = 1,
    lesson: Lesson = NOTHING,
) -> Size:
    """Count the model with its tuner on, built without weights; the targets of the tuner are looked up in it.

    Args:
        args: the decided options.
        source: the model.
        training: the trainer's arguments for them.
        batch: the shape that a step is gone through with; None goes through none.
        sharding: how processes share, as `swift.estimate.memory_of` has it.
        processes: how many train together, each with rows of its own.
        lesson: what a step does besides learning its own tokens; another model in it is counted, whole.

    Raises:
        SwiftError: the model's config or the tuner's options do not fit.
    """
    outline, degree = outline_model(source, TORCH_DTYPES[args.dtype]), args.tensor_parallel_size
    if degree > 1:
        cut_model(outline, imagine_group(degree))
    model = add_tuner(replace(args, init_lora_weights="true"), outline, source)  # how it starts changes no size
    cut_lora(model)
    trainable = sum(whole_shape(p).numel() for p in model.parameters() if p.requires_grad)
    if training.lisa_activated_layers:
        Lisa(model, training.lisa_activated_layers, training.lisa_step_interval, training.seed).activate(0)
    every = list(model.parameters())
    trains = [p for p in every if p.requires_grad]
    gradients, whole_gradients = _bytes(trains), _whole_bytes(trains)
    optimiser = 2 * gradients if OptimizerNames(training.optim).value in ADAM and not training.own_optim else None
    size = Size(
        parameters=sum(whole_shape(p).numel() for p in every),
        trainable=trainable,
        weight_bytes=_bytes(every),
        gradient_bytes=gradients,
        optimiser_bytes=optimiser,
        checkpoint_bytes=None,
    )
    saved = _whole_bytes(every) if args.sft_type == "full" else whole_gradients
    if batch is not None:
        size = _with_step(size, model, training, batch, sharding, processes, lesson)
    states = 0 if training.save_only_model else size.optimiser_bytes
    if states is not None:
        size = replace(size, checkpoint_bytes=saved + round(states * whole_gradients / max(gradients, 1)))
    return size if lesson.other is None else _with_beside(size, _bytes(lesson.other.parameters()))


def _with_beside(size: Size, count: int) -> Size:
    """The same with so many bytes of another model, which each process holds whole."""
    memory = size.memory and replace(size.memory, weights=size.memory.weights + count)
    return replace(size, weight_bytes=size.weight_bytes + count, memory=memory)


def _with_step(
    size: Size,
    model: nn.Module,
    training: Seq2SeqTrainingArguments,
    batch: Batch,
    sharding: str,
    processes: int,
    lesson: Lesson,
) -> Size:
    choose = Seq2SeqTrainer.get_optimizer_cls_and_kwargs
    try:
        loss = find_loss(training.loss_name)
        step = simulate(model, batch, training, loss, lambda tuned: any_optimizer(training, tuned, choose), lesson)
    except (UnknownStepError, UnknownNameError) as error:
        return replace(size, batch=batch, unknown=" ".join(str(error).split())[:LONGEST_REASON])
    if step.optimiser is None:
        step = replace(step, optimiser=size.optimiser_bytes)
    memory = memory_of(step, sharding, processes)
    return replace(size, batch=batch, step=step, memory=memory, optimiser_bytes=step.optimiser)


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _whole_bytes(parameters: Iterable[nn.Parameter]) -> int:
    """Of all processes that hold a model together."""
    return sum(whole_shape(p).numel() * p.element_size() for p in parameters)
