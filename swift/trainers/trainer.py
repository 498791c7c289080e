"""The trainer: transformers' loop with one exact loss per optimiser step.

Letters in names: B rows, T tokens, K kept positions, V vocabulary. Checkpoints are in `swift.trainers.committing`.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, has_length
from transformers.training_args import OptimizerNames

from swift import dist, storage, watch
from swift.arguments.sft import SftArguments
from swift.datasets.encode import DATASET_NUMBER
from swift.datasets.stream import Stream
from swift.errors import ConfigError, MissingPackageError, UsageError
from swift.log import get_logger
from swift.trainers import loss as losses
from swift.trainers import metrics, predicting, saving
from swift.trainers.adalora import find_ranks
from swift.trainers.ahead import AheadTrainer
from swift.trainers.arguments import OwnTrainingArguments, Seq2SeqTrainingArguments, check_steps
from swift.trainers.batches import GROUPED, Grouped, Measured, TokenBatches, by_length, lengths_of
from swift.trainers.callbacks import EarlyStopping, LogFile, SaveLast, find_callbacks
from swift.trainers.engines import DEEPSPEED, FSDP
from swift.trainers.fused_lora import fused_lora
from swift.trainers.head import HeadLoss, find_head_loss, stand_in
from swift.trainers.heartbeat import Heartbeat
from swift.trainers.known import masks_told
from swift.trainers.liger import use_liger
from swift.trainers.lisa import Lisa
from swift.trainers.loss import IGNORED, TokenLoss
from swift.trainers.optim import own_optimizer
from swift.trainers.optimizers import GaLore
from swift.trainers.packs import end_to_end, row_of_token
from swift.trainers.padding import Padding
from swift.trainers.progress import MEMORY, STEP_SPEED, TOKEN_SPEED, progress
from swift.trainers.stopping import StopEvaluation, Stops
from swift.trainers.streaming import FollowStream
from swift.trainers.tally import Clock, Tally, memory_gib
from swift.tuners.layers import telling

if TYPE_CHECKING:
    from swift.templates.template import Template

logger = get_logger()
SCALE = "loss_scale"  # the column of weights, one for each token
LOG_FILE = "logging.jsonl"


class Seq2SeqTrainer(AheadTrainer):
    """Trains a causal language model, whole or through a tuner.

    The loss of an optimiser step is the sum over all its supervised tokens, of every process and every accumulated
    batch, divided by their number; where batches have a `loss_scale`, that of each token times its weight, divided by
    the sum of the weights. Checkpoints appear whole or not at all, and going on from one is exact.

    Args:
        model: a PreTrainedModel, PeftModel or SwiftModel.
        args: training arguments; None writes to `output` with transformers' defaults.
        data_collator: makes `input_ids`, `attention_mask` and `labels` (-100 where nothing is learnt) of rows.
        train_dataset: the rows to learn.
        eval_dataset: the rows to evaluate on, or several sets by name; None without evaluation.
        processing_class: the tokenizer, as transformers calls it now.
        tokenizer: the same, as it was called before.
        sft_args: the decided options of `swift sft`, saved into every checkpoint; None without.
        template: its stop tokens go into the checkpoint's generation config; None leaves the model's.
        compute_loss_func: what each token's loss is (`swift.trainers.loss.TokenLoss`); None is `args.loss_name`.
        compute_metrics: metrics of evaluation over all predictions; None is `args.metric_names`.
        callbacks: further callbacks.
        options: passed on to transformers' Trainer.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole step
    tells_accuracy = True
    _told_to_train = False

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        sft_args: SftArguments | None = None,
        template: Template | None = None,
        compute_loss_func: TokenLoss | None = None,
        compute_metrics: Callable[..., dict[str, float]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **options: Any,
    ) -> None:
        own = _own_arguments(args, several_sets=isinstance(eval_dataset, dict))
        named = metrics.compute_metrics(own.metric_names)
        if compute_metrics is None and named is not None:
            compute_metrics = named
            options.setdefault("preprocess_logits_for_metrics", metrics.likeliest)
        if own.predict_with_generate and template is None:
            raise ConfigError("CONFIG-02", "predict_with_generate needs a template", fix="template=get_template(...)")
        self.config_use_cache = model.config.use_cache if isinstance(model, PreTrainedModel) else None
        super().__init__(
            model=model,
            args=own,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer if tokenizer is not None else processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            **options,
        )
        self.args = own
        if own.liger_kernels is not None:
            use_liger(saving.base_of(self.model), own.liger_kernels)
        self.model_accepts_loss_kwargs = True
        self.sft_args, self.template = sft_args, template
        epsilon = own.label_smoothing_factor
        self.token_loss = compute_loss_func or (
            losses.Smoothed(epsilon) if epsilon else losses.find_loss(own.loss_name)
        )
        self.padding = Padding(train_dataset)
        self._tally = Tally(own.device, len(self.padding.names))
        self._keeps_positions = own.use_logits_to_keep and _takes_positions(self.model)
        self._ops_per_token: int | None = None
        self._galore: GaLore | None = None
        self._lisa: Lisa | None = None
        self._wants_all_logits = self._evaluating = self._sums_only = False
        self._sampler: Grouped | TokenBatches | None = None
        self.clock = Clock()
        self._set_up_callbacks(own)
        if self.engine is not None:
            _ = self._head_loss, self.floating_point_ops({"input_ids": torch.empty(0)})  # while all weights are here
        if own.predict_with_generate and (self.engine == FSDP or self._zero_stage == 3):
            what = f"predict_with_generate needs the whole model in each process, which {self.engine} shares"
            raise ConfigError("CONFIG-02", what, fix="swift eval on the checkpoints")
        self.start_engine()

    def _set_up_callbacks(self, args: OwnTrainingArguments) -> None:
        for kind in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
            self.remove_callback(kind)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback.logging_dir = args.logging_dir or str(Path(args.output_dir) / "runs")
        self.stops = Stops()
        self.add_callback(self.stops)
        compiles = args.layer_compiler is not None and args.hang_timeout is None
        self.heartbeat = Heartbeat(int(watch.FIRST_STEP) if compiles else args.hang_timeout)
        self.add_callback(self.heartbeat)
        self.add_callback(SaveLast())
        self.add_callback(LogFile(Path(args.output_dir) / LOG_FILE))
        self.progress = progress(plain=bool(args.disable_tqdm))
        self.add_callback(self.progress)
        if args.early_stopping_patience:
            self.add_callback(EarlyStopping(args.early_stopping_patience))
        if args.lisa_activated_layers:
            self._lisa = Lisa(self.model, args.lisa_activated_layers, args.lisa_step_interval, args.seed)
            self.add_callback(self._lisa)
        if isinstance(self.train_dataset, Stream):
            self.add_callback(FollowStream(self.train_dataset))
            self.train_dataset.pulse = self.heartbeat.tick
        self.ranks = find_ranks(self.model)
        if self.ranks is not None:
            self.add_callback(self.ranks)
        for callback in find_callbacks(args.callback_names):
            self.add_callback(callback)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, by the name that transformers once used."""
        return self.processing_class

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._count_padding()
        with self.heartbeat.pause():
            super()._save_checkpoint(model, trial)

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), **self.padding.to_state()}

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.padding.from_state(storage.read_manifest(checkpoint))

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train, as `CommittingTrainer.train` says; however that ends, the progress bar is closed."""
        self._told_to_train = False
        try:
            with fused_lora(self.model) if self.args.fused_lora else nullcontext(), self._compiled():
                return super().train(*args, **kwargs)
        finally:
            self.progress.close()
            if self._galore is not None:
                self._galore.detach()
            if self._lisa is not None:
                self._lisa.thaw()

    def _compiled(self) -> AbstractContextManager[Any]:
        """The layers compiled, where that is asked for."""
        if self.args.layer_compiler is None:
            return nullcontext()
        from swift.trainers.compiled import compiled_layers  # PyTorch's compiler takes a second to import

        return compiled_layers(self.model, self.args.layer_compiler, self.args.layer_compiler_mode)

    @property
    def share(self) -> tuple[int, int]:
        """Into how many shares the batches of a step are dealt, and which of them this process gets."""
        return self.args.world_size, self.args.process_index

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """Rows of like length together where that is asked for, else as transformers draws them."""
        rows, args = self.train_dataset if train_dataset is None else train_dataset, self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        if rows is None or not has_length(rows):
            self._sampler = None
        elif args.max_tokens_per_batch:
            lengths, tokens = lengths_of(rows), args.max_tokens_per_batch
            logger.info(f"batches: rows of like length, at most {tokens} tokens with padding, in an order of the seed")
            self._sampler = TokenBatches(lengths, tokens, seed, *self.share)
        elif args.train_sampling_strategy == GROUPED:
            logger.info("batches: rows of like length, in an order of the seed; --group_by_length false mixes lengths")
            batches = self.share[0] * args.gradient_accumulation_steps
            self._sampler = Grouped(lengths_of(rows), args.train_batch_size, seed, batches)
        else:
            logger.info("batches: rows at random, in an order of the seed")
            self._sampler = None
        return self._sampler or super()._get_train_sampler(train_dataset)

    def get_train_dataloader(self) -> DataLoader:
        """The batches of training; only they go without padding."""
        padded = self.data_collator
        try:
            self.data_collator = self._training_collator()
            return super().get_train_dataloader()
        finally:
            self.data_collator = padded

    def _training_collator(self) -> Any:
        """What makes a batch of rows that train."""
        return end_to_end if self.args.padding_free else self.data_collator

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """The batches of an evaluation; rows of like length together where only sums are taken of them."""
        self._sums_only = self.args.train_sampling_strategy == GROUPED and self.compute_metrics is None
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self._sums_only = False

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Any:
        if self._sums_only and isinstance(eval_dataset, Measured):
            return by_length(eval_dataset.lengths)
        return SequentialSampler(eval_dataset) if self.args.world_size == 1 and has_length(eval_dataset) else None

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._sampler is not None:
            self._sampler.set_epoch(kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            parameters = inspect.signature(saving.base_of(self.model).forward).parameters
            self._signature_columns = [*parameters, "label", "label_ids", SCALE, DATASET_NUMBER, *self.label_names]

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: TrainingArguments, model: Any = None) -> tuple[Any, Any]:
        """The optimiser's class and its options.

        Raises:
            MissingPackageError: it is of a package that is not installed.
            UsageError: it needs to be told more.
        """
        name = OptimizerNames(args.optim).value
        try:
            return AheadTrainer.get_optimizer_cls_and_kwargs(args, model)
        except ImportError as error:
            raise MissingPackageError("PACKAGE-01", f"--optim {name}: {error}") from None
        except ValueError as error:
            fix = "--training_options with what it asks for, or another --optim"
            raise UsageError("USAGE-02", f"--optim {name}: {error}", fix=fix) from None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimiser, with the parameter groups that the tuners ask for; GaLore's takes gradients while training."""
        if self.optimizer is None:
            tuned = self.model if model is None else model
            self.optimizer = own_optimizer(self.args, tuned, self.get_optimizer_cls_and_kwargs)
            self._galore = self.optimizer if isinstance(self.optimizer, GaLore) else None
        elif self._galore is not None and self._galore.config.optim_per_parameter:
            self._galore.attach()
        return super().create_optimizer(model)

    # The loss

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """One batch. A model in training is not told so again: that goes through all of its modules."""
        parts = (model, cast(nn.Module, self.model), saving.base_of(self.model))
        trains = self._told_to_train and all(part.training for part in parts)
        self._told_to_train = True
        with stand_in(model, lambda mode=True: model, "train") if trains else nullcontext():
            return super().training_step(model, *args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """What the supervised tokens of an optimiser step weigh, over all processes; their number without weights."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        self._mask_repeats(batch_samples[-1])
        dtype = self._tally.sums.dtype
        weights = [losses.total_weight(batch["labels"], batch.get(SCALE)).to(dtype) for batch in batch_samples]
        count = torch.stack(weights).sum()
        here = count.is_cpu and self.args.world_size == 1
        if here and count == 0 and not self._evaluating:
            self._nothing_to_learn(self.state.global_step + 1)
        if count.is_cpu:
            count = torch.full((), float(count), dtype=dtype, device=device)
        if self.args.world_size > 1:
            count = cast(Tensor, self.accelerator.reduce(count, "sum"))
        if not here and not self._evaluating:
            self._judge_tokens(count)
        return _divisor(count).float()

    def _mask_repeats(self, batch: dict[str, Tensor]) -> None:
        """Take the loss off the rows that fill up the last batches of an epoch so that all processes have as many."""
        if self.share[0] < 2:
            return
        labels_BT = batch["labels"]
        if self.args.padding_free and not self._evaluating:
            row_BT = row_of_token(batch["position_ids"])[None]
            rows = int(row_BT[0, -1]) + 1
        else:
            rows = len(labels_BT)
            row_BT = torch.arange(rows, device=labels_BT.device)[:, None]
        real = self._real_rows(rows)
        if real < rows:
            batch["labels"] = labels_BT.masked_fill(row_BT >= real, IGNORED)

    def _real_rows(self, rows: int) -> int:
        """How many of the `rows` of this process's batch, the first ones, are not there a second time to fill it up."""
        state: Any = self.accelerator.gradient_state
        even = self.args.dataloader_drop_last or (self.args.max_tokens_per_batch is not None and not self._evaluating)
        shares, own = self.share
        if shares < 2 or even or not state.end_of_dataloader:
            return rows
        dataset = state.active_dataloader.dataset
        remainder = len(dataset) % (rows * shares) if has_length(dataset) else 0
        return min(max(remainder - rows * own, 0), rows) if remainder else rows

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This batch's share of the step's loss, times the number of processes: DDP averages over them."""
        labels_BT, scale_BT, numbers_B = inputs["labels"], inputs.get(SCALE), inputs.get(DATASET_NUMBER)
        inputs = {name: value for name, value in inputs.items() if name not in ("labels", SCALE, DATASET_NUMBER)}
        head = None if self._wants_all_logits else self._head_loss
        known = self.known
        with telling(labels_BT), masks_told(known):
            if head is not None:
                with head.learning(labels_BT, scale_BT, known and (known.rows_N, known.columns_N)):
                    outputs = model(**inputs)
                sums = head.take()
            else:
                outputs, sums = self._plain_loss(model, inputs, labels_BT, scale_BT)
        self._tally.add(sums, inputs, numbers_B)
        count = _divisor(sums.weight) if num_items_in_batch is None else num_items_in_batch
        loss = sums.loss / count * self.accelerator.num_processes + self._balance_loss(outputs)
        if head is not None and self.engine == DEEPSPEED:
            loss = loss + 0.0 * outputs.logits.sum()  # ZeRO-3 follows outputs back, as DDP does
        if self.ranks is not None and not self._evaluating:
            loss = loss + self.ranks.orthogonality() / self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    @cached_property
    def _head_loss(self) -> HeadLoss | None:
        """The loss in chunks, where the model and the loss are of the kind."""
        if not self.args.fused_cross_entropy:
            return None
        found = find_head_loss(saving.base_of(self.model), self.token_loss)
        if isinstance(found, str):
            logger.info(f"cross-entropy of the whole logits at supervised tokens: {found}")
            return None
        return found

    def _plain_loss(
        self, model: nn.Module, inputs: dict[str, Any], labels_BT: Tensor, scale_BT: Tensor | None
    ) -> tuple[Any, losses.Sums]:
        """The model's outputs and the sums of their loss, through logits that are all there at once."""
        known = self.known
        positions_K = losses.supervised_positions(labels_BT) if known is None else known.kept_K
        if self._keeps_positions and not self._wants_all_logits:
            outputs = model(**inputs, logits_to_keep=positions_K)
            logits_BKV = outputs.logits
        else:
            outputs = model(**inputs)
            logits_BKV = outputs.logits[:, -labels_BT.shape[1] :][:, positions_K]
        targets_BK = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORED)[:, positions_K].to(logits_BKV.device)
        weights_BK = None if scale_BT is None else F.pad(scale_BT[:, 1:], (0, 1))[:, positions_K].to(logits_BKV.device)
        places = known and (known.rows_N, known.numbers_N)
        return outputs, losses.sum_losses(logits_BKV, targets_BK, self.token_loss, weights_BK, places)

    def _balance_loss(self, outputs: Any) -> Tensor | float:
        """What a mixture of experts that routes unevenly pays, when its config asks for that."""
        balance = outputs.get("aux_loss")
        if balance is None or self._evaluating:
            return 0.0
        base: Any = saving.base_of(self.model)
        return base.config.router_aux_loss_coef * balance / self.current_gradient_accumulation_steps

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient's norm; called just before the optimiser steps, so nothing that is not finite gets further."""
        taken = self.args.galore_config is not None and self.args.galore_config.optim_per_parameter
        if taken and self._galore is not None:
            norm = self._galore.take_norm()
        else:
            norm = super()._get_grad_norm(model, grad_norm)
        scaled = self.accelerator.scaler is not None  # the fp16 scaler skips steps whose gradient overflows
        self._judge(self._tally.loss, None if scaled else norm)
        return norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Operations of one batch, forward and backward: 6 for each weight, without embeddings, and token."""
        if self._ops_per_token is None:
            base = saving.base_of(self.model)
            sized = isinstance(base, PreTrainedModel)
            self._ops_per_token = 6 * base.num_parameters(exclude_embeddings=True) if sized else 0
        return self._ops_per_token * inputs["input_ids"].numel()

    # Evaluation and logs

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Evaluate one batch; logits are made at all positions only when they are asked for."""
        if self.stops.agree():
            raise StopEvaluation
        self._wants_all_logits = not prediction_loss_only
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        finally:
            self._wants_all_logits = False

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Evaluate; loss and accuracy are over all supervised tokens, however they fall into batches.

        With `predict_with_generate` the rows are answered too.

        Training goes on as if it had not been: its random state is put back.
        """
        of_training, self._tally, self._evaluating = self._tally, Tally(self.args.device), True
        try:
            gpus = [self.args.device] if self.args.device.type == "cuda" else []
            with self.clock.pause(), torch.random.fork_rng(gpus):
                output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
                told = self._predict(dataloader.dataset) if self.args.predict_with_generate else {}
            totals = self._tally.reduced(self.accelerator)
        finally:
            self._tally, self._evaluating = of_training, False
        if totals["tokens"] and output.metrics is not None:
            loss = totals["loss"] / (totals["weight"] or 1.0)
            if not math.isfinite(loss):
                self._stop("the evaluation loss", self.state.global_step)
            output.metrics[f"{metric_key_prefix}_loss"] = loss
            if self.tells_accuracy:
                output.metrics[f"{metric_key_prefix}_acc"] = self._accuracy(totals)
        if output.metrics is not None:
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in told.items()})
        return output

    def _predict(self, rows: Any) -> dict[str, float]:
        """What the model answers to the rows of an evaluation, measured; each process answers its share."""
        started, template = time.perf_counter(), self.template
        assert template is not None, "checked when the trainer was made"
        with self.heartbeat.pause():
            sums = predicting.predict(
                self.accelerator.unwrap_model(self.model),
                template,
                rows,
                cast(Any, self.args.generation_config),
                slots=self.args.eval_batch_size,
                seed=self.args.seed,
                share=self.share,
            )
        total = torch.tensor(sums, dtype=self._tally.sums.dtype, device=self.args.device)
        if self.args.world_size > 1:
            total = cast(Tensor, self.accelerator.reduce(total, "sum"))
        return predicting.means(total.tolist(), started)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log `logs`; a training line also gets accuracy, memory and speed since the line before."""
        if "loss" in logs:
            totals = self._count_padding()
            self.padding.keep()
            self._tally = Tally(self.args.device, len(self.padding.names))
            seconds, steps = self.clock.lap(self.state.global_step)
            accuracy = {"acc": self._accuracy(totals)} if totals["tokens"] and self.tells_accuracy else {}
            speed = {STEP_SPEED: steps / seconds, TOKEN_SPEED: totals["inputs"] / seconds}
            logs = {"loss": logs["loss"], **accuracy, **logs, MEMORY: memory_gib(), **speed}
        super().log(logs, start_time)

    def _count_padding(self) -> dict[str, Any]:
        totals = self._tally.reduced(self.accelerator)
        self.padding.count(totals)
        return totals

    def _accuracy(self, totals: dict[str, Any]) -> float:
        if self.args.acc_strategy == "sentence":
            return totals["correct_rows"] / max(totals["rows"], 1)
        return totals["correct"] / max(totals["tokens"], 1)


def _own_arguments(args: TrainingArguments | None, several_sets: bool) -> OwnTrainingArguments:
    """`args` as ours; the best checkpoint is the one with the lowest loss when nobody says otherwise."""
    if args is None:
        args = Seq2SeqTrainingArguments(output_dir="output")
    if not isinstance(args, OwnTrainingArguments):
        args = Seq2SeqTrainingArguments(**{f.name: getattr(args, f.name) for f in fields(args) if f.init})
    check_steps(args)
    if args.lisa_activated_layers and args.world_size > 1:
        args.ddp_find_unused_parameters = True  # frozen layers get no gradient
    if args.world_size != dist.world_size():
        raise ConfigError(
            "CONFIG-03",
            f"{dist.world_size()} processes were started, but they do not train together",
            why="each would train alone on all rows",
            fix="on CPUs: use_cpu=True",
        )
    if args.metric_for_best_model is None and args.eval_strategy != "no" and not several_sets:
        by_answers = args.predict_with_generate
        args.metric_for_best_model, args.greater_is_better = "rouge-l" if by_answers else "loss", by_answers
    return args


def _divisor(weight: Tensor) -> Tensor:
    """A sum of weights to divide by: 1 for nothing."""
    return torch.where(weight > 0, weight, torch.ones_like(weight))


def _takes_positions(model: nn.Module) -> bool:
    """Whether the model can make logits at chosen positions only."""
    base = saving.base_of(model)
    prompts = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
    native = isinstance(base, PreTrainedModel) and type(base).__module__.startswith("transformers.")
    return native and not prompts and "logits_to_keep" in inspect.signature(base.forward).parameters
