"""The trainer: transformers' loop with a loss, checkpoints and a resume that are exact.

Letters in names: B rows, T tokens, K kept positions, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
import transformers
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, has_length

from swift import checkpoint, storage
from swift._version import __version__
from swift.arguments.sft import SftArguments
from swift.errors import ConfigError, DataError, InternalError
from swift.log import get_logger
from swift.templates.template import Template
from swift.trainers import saving
from swift.trainers.arguments import OwnTrainingArguments, Seq2SeqTrainingArguments
from swift.trainers.callbacks import EarlyStopping, LogFile, LogWithSaves, find_callbacks
from swift.trainers.loss import (
    IGNORED,
    Sums,
    TokenLoss,
    find_loss,
    num_supervised,
    smoothed,
    sum_losses,
    supervised_positions,
)
from swift.trainers.metrics import compute_metrics as metrics_named
from swift.trainers.metrics import likeliest
from swift.trainers.progress import MEMORY, STEP_SPEED, TOKEN_SPEED, progress
from swift.tuners import SwiftModel

logger = get_logger()
LOG_FILE = "logging.jsonl"
EXACT = ("world_size", "per_device_train_batch_size", "gradient_accumulation_steps", "rows", "seed")
GIB = 2**30


class Seq2SeqTrainer(transformers.Trainer):
    """Trains a causal language model, whole or through a tuner.

    The loss of an optimiser step is the sum over all its supervised tokens, of every process and every accumulated
    batch, divided by their number. Checkpoints appear whole or not at all, and going on from one is exact.

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
        named = metrics_named(own.metric_names)
        if compute_metrics is None and named is not None:
            compute_metrics = named
            options.setdefault("preprocess_logits_for_metrics", likeliest)
        self._config_use_cache = model.config.use_cache if isinstance(model, PreTrainedModel) else None
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
        self.args: OwnTrainingArguments = own
        self.model_accepts_loss_kwargs = True
        self.sft_args, self.template = sft_args, template
        epsilon = own.label_smoothing_factor
        self.token_loss = compute_loss_func or (smoothed(epsilon) if epsilon else find_loss(own.loss_name))
        self._tally = Tally(own.device)
        self._keeps_positions = _takes_positions(self.model)
        self._wants_all_logits = False
        self._last_log = (time.monotonic(), 0)
        self._set_up_callbacks(own)

    def _set_up_callbacks(self, args: OwnTrainingArguments) -> None:
        for kind in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
            self.remove_callback(kind)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback.logging_dir = args.logging_dir or str(Path(args.output_dir) / "runs")
        self.add_callback(LogWithSaves())
        self.add_callback(LogFile(Path(args.output_dir) / LOG_FILE))
        self.add_callback(progress(args.disable_tqdm))
        if args.early_stopping_patience:
            self.add_callback(EarlyStopping(args.early_stopping_patience))
        for callback in find_callbacks(args.callback_names):
            self.add_callback(callback)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, by the name that transformers once used."""
        return self.processing_class

    # Training, and going on

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train, from the start or on from a checkpoint.

        Args:
            resume_from_checkpoint: a checkpoint; "auto" or True for the newest whole one of the output directory.
            trial: see transformers.
            ignore_keys_for_eval: see transformers.

        Raises:
            DataError: the checkpoint is incomplete, damaged, or does not fit the model.
            ConfigError: going on could not be exact, because the run differs from the checkpoint's.
            InternalError: the loss or a gradient is not finite; nothing of it was saved.
        """
        found = None
        if self.is_world_process_zero():
            storage.sweep(self.args.output_dir)
            found = checkpoint.resolve(resume_from_checkpoint, self.args.output_dir)
            if found is not None:
                self._check_same_run(found)
        found = self._from_main(found)
        self._last_log = (time.monotonic(), 0)
        return super().train(str(found) if found else None, trial, ignore_keys_for_eval)

    def _check_same_run(self, directory: Path) -> None:
        then, now = storage.read_manifest(directory).get("run", {}), self._facts()["run"]
        names = EXACT[:1] if self.args.ignore_data_skip else EXACT
        differing = [f"{name} was {then[name]}, is {now[name]}" for name in names if then.get(name) != now[name]]
        if differing:
            raise ConfigError(
                "CONFIG-02",
                f"going on from {directory} would not be exact: {'; '.join(differing)}",
                fix="use the same values, or take its weights alone with --resume_only_model true",
            )
        logger.info("going on from %s", directory)

    def _facts(self) -> dict[str, Any]:
        """What a checkpoint's manifest says about the run."""
        args, base = self.args, saving.base_of(self.model)
        return {
            "step": self.state.global_step,
            "run": {
                "world_size": args.world_size,
                "per_device_train_batch_size": args.per_device_train_batch_size,
                "gradient_accumulation_steps": args.gradient_accumulation_steps,
                "rows": len(self.train_dataset) if has_length(self.train_dataset) else None,
                "seed": args.seed,
                "model": base.name_or_path if isinstance(base, PreTrainedModel) else type(base).__name__,
                "template": self.template.name if self.template is not None else None,
            },
            "versions": {
                "swift": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
            },
        }

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = model if model is not None else self.model
        if isinstance(target, SwiftModel):
            target.load_adapters(resume_from_checkpoint)
            return
        if isinstance(target, PeftModel):
            saving.check_adapter_fits(target, Path(resume_from_checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if isinstance(self.model, SwiftModel):
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            parameters = inspect.signature(saving.base_of(self.model).forward).parameters
            self._signature_columns = [*parameters, "label", "label_ids", *self.label_names]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimiser, with the parameter groups that the tuners ask for."""
        tuned = self.model if model is None else model
        if self.optimizer is None and isinstance(tuned, SwiftModel):
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, tuned)
            groups = tuned.create_optimizer_param_groups(
                lr=self.args.learning_rate, weight_decay=self.args.weight_decay
            )
            self.optimizer = kind(groups, **options)
        return super().create_optimizer(model)

    # The loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """How many supervised tokens an optimiser step has, over all processes."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        self._mask_repeats(batch_samples[-1])
        count = torch.stack([num_supervised(batch["labels"]).to(device) for batch in batch_samples]).sum()
        if self.args.world_size > 1:
            count = self.accelerator.reduce(count, "sum")
        if count == 0 and self.model.training:
            raise DataError(
                "DATA-05",
                f"step {self.state.global_step + 1}: none of its rows has a token to learn",
                fix="drop rows whose answer is empty or cut off",
            )
        return count.clamp_min(1)

    def _mask_repeats(self, batch: dict[str, Tensor]) -> None:
        """Take the loss off the rows that fill up the last batches of an epoch so that all processes have as many."""
        progress_of = self.accelerator.gradient_state
        if self.args.world_size < 2 or self.args.dataloader_drop_last or not progress_of.end_of_dataloader:
            return
        dataset, rows = progress_of.active_dataloader.dataset, len(batch["labels"])
        remainder = len(dataset) % (rows * self.args.world_size) if has_length(dataset) else 0
        if remainder:
            real = min(max(remainder - rows * self.args.process_index, 0), rows)
            is_repeat_B1 = (torch.arange(rows, device=batch["labels"].device) >= real)[:, None]
            batch["labels"] = batch["labels"].masked_fill(is_repeat_B1, IGNORED)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This batch's share of the step's loss, times the number of processes: DDP averages over them."""
        labels_BT = inputs["labels"]
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        positions_K = supervised_positions(labels_BT)
        if self._keeps_positions and not self._wants_all_logits:
            outputs = model(**inputs, logits_to_keep=positions_K)
            logits_BKV = outputs.logits
        else:
            outputs = model(**inputs)
            logits_BKV = outputs.logits[:, -labels_BT.shape[1] :][:, positions_K]
        targets_BK = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORED)[:, positions_K].to(logits_BKV.device)
        sums = sum_losses(logits_BKV, targets_BK, self.token_loss)
        self._tally.add(sums, inputs)
        count = sums.tokens.clamp_min(1) if num_items_in_batch is None else num_items_in_batch
        loss = sums.loss / count * self.accelerator.num_processes + self._balance_loss(outputs)
        return (loss, outputs) if return_outputs else loss

    def _balance_loss(self, outputs: Any) -> Tensor | float:
        """What a mixture of experts that routes unevenly pays, when its config asks for that."""
        balance = outputs.get("aux_loss")
        if balance is None:
            return 0.0
        return (
            saving.base_of(self.model).config.router_aux_loss_coef * balance / self.current_gradient_accumulation_steps
        )

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient's norm; called just before the optimiser steps, so nothing that is not finite gets further."""
        norm = super()._get_grad_norm(model, grad_norm)
        scaled = self.accelerator.scaler is not None  # the fp16 scaler skips steps whose gradient overflows
        if not math.isfinite(self._tally.loss):
            self._stop("the loss")
        if norm is not None and not scaled and not math.isfinite(norm):
            self._stop("the gradient")
        return norm

    def _stop(self, what: str) -> None:
        saved = checkpoint.committed(self.args.output_dir)
        good = f"the last good checkpoint is {saved[-1]}; " if saved else ""
        raise InternalError(
            "RUN-01",
            f"step {self.state.global_step + 1}: {what} is not finite; training stops before the weights take it in",
            fix=f"{good}lower --learning_rate, or use --dtype bf16 or fp32",
        )

    # Evaluation and logs

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Evaluate one batch; logits are made at all positions only when they are asked for."""
        self._wants_all_logits = not prediction_loss_only
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        finally:
            self._wants_all_logits = False

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Evaluate; loss and accuracy are over all supervised tokens, however they fall into batches."""
        of_training, self._tally = self._tally, Tally(self.args.device)
        try:
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            totals = self._tally.reduced(self)
        finally:
            self._tally = of_training
        if totals["tokens"]:
            loss = totals["loss"] / totals["tokens"]
            if not math.isfinite(loss):
                self._stop("the evaluation loss")
            output.metrics[f"{metric_key_prefix}_loss"] = loss
            output.metrics[f"{metric_key_prefix}_acc"] = self._accuracy(totals)
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log `logs`; a training line also gets accuracy, memory and speed since the line before."""
        if "loss" in logs:
            totals = self._tally.reduced(self)
            self._tally = Tally(self.args.device)
            then, step = self._last_log
            self._last_log = now, here = time.monotonic(), self.state.global_step
            seconds = max(now - then, 1e-9)
            accuracy = {"acc": self._accuracy(totals)} if totals["tokens"] else {}
            speed = {STEP_SPEED: (here - step) / seconds, TOKEN_SPEED: totals["inputs"] / seconds}
            logs = {"loss": logs["loss"], **accuracy, **logs, MEMORY: _memory_gib(), **speed}
        super().log(logs, start_time)

    def _accuracy(self, totals: dict[str, float]) -> float:
        if self.args.acc_strategy == "sentence":
            return totals["correct_rows"] / max(totals["rows"], 1)
        return totals["correct"] / max(totals["tokens"], 1)

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.store_flos()
        final = checkpoint.directory_of(self.args.output_dir, self.state.global_step)
        trained = ((name, tensor) for name, tensor in self.model.named_parameters() if tensor.requires_grad)
        saved = checkpoint.committed(self.args.output_dir)
        checkpoint.check_finite(trained, saved[-1] if saved else None)
        self._note_best(final)
        with self._stage(final) as stage:
            self.save_model(str(stage), _internal_call=True)
            if not self.args.save_only_model:
                self._save_optimizer_and_scheduler(str(stage))
                self._save_scaler(str(stage))
                self._save_rng_state(str(stage))
            if self.args.should_save:
                self._write_state(stage)
        if self.args.should_save:
            checkpoint.rotate(self.args.output_dir, self.args.save_total_limit, [self.state.best_model_checkpoint])

    @contextmanager
    def _stage(self, final: Path) -> Iterator[Path]:
        """The directory in which all processes write a checkpoint; the main one commits it when all have."""
        if self.is_world_process_zero():
            with checkpoint.save(final, self._facts()) as stage:
                yield self._from_main(stage)
                self.accelerator.wait_for_everyone()
        else:
            yield self._from_main(None)
            self.accelerator.wait_for_everyone()
        self.accelerator.wait_for_everyone()

    def _from_main(self, value: Any) -> Any:
        return broadcast_object_list([value])[0] if self.args.world_size > 1 else value

    def _write_state(self, stage: Path) -> None:
        stateful = [cb for cb in [*self.callback_handler.callbacks, self.control] if isinstance(cb, ExportableState)]
        self.state.stateful_callbacks = stateful  # type: ignore[assignment]
        self.state.__post_init__()
        self.state.save_to_json(str(stage / "trainer_state.json"))

    def _note_best(self, final: Path) -> None:
        """Remember `final` as the best checkpoint when its step's evaluation beats that of the best one so far."""
        best = self.state.best_model_checkpoint
        new, old = self._metric_at(self.state.global_step), self._metric_at(checkpoint.step_of(best) if best else None)
        if new is not None and (old is None or (new > old if self.args.greater_is_better else new < old)):
            self.state.best_model_checkpoint = str(final)

    def _metric_at(self, step: int | None) -> float | None:
        key = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        values = [entry[key] for entry in self.state.log_history if entry.get("step") == step and key in entry]
        return values[-1] if values else None

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        directory = Path(output_dir or self.args.output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        with _use_cache(model, self._config_use_cache):
            saving.write_weights(model, directory, state_dict)
        saving.write_side_files(
            model,
            directory,
            sft_args=self.sft_args,
            stop_ids=self.template.stop_ids if self.template is not None else (),
            copied=self.args.additional_saved_files,
        )
        if self.processing_class is not None and not isinstance(model, (PeftModel, SwiftModel)):
            self.processing_class.save_pretrained(str(directory))

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        # With a limit of 1 transformers deletes the newest checkpoint here when another is the best: we keep both.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit


class Tally:
    """Running sums over batches, kept on the device so that adding to them waits for nothing."""

    NAMES = ("loss", "tokens", "correct", "rows", "correct_rows", "inputs")

    def __init__(self, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(len(self.NAMES), dtype=wide, device=device)

    def add(self, sums: Sums, inputs: dict[str, Any]) -> None:
        """Add a batch: its sums, and how many tokens went into the model."""
        mask = inputs.get("attention_mask")
        count = mask.sum() if mask is not None else torch.tensor(inputs["input_ids"].numel())
        new = [sums.loss.detach(), sums.tokens, sums.correct, sums.rows, sums.correct_rows, count]
        self.sums += torch.stack([value.to(self.sums) for value in new])

    @property
    def loss(self) -> float:
        """The summed loss of this process."""
        return float(self.sums[0])

    def reduced(self, trainer: Seq2SeqTrainer) -> dict[str, float]:
        """The sums over all processes, by name."""
        sums = trainer.accelerator.reduce(self.sums, "sum") if trainer.args.world_size > 1 else self.sums
        return dict(zip(self.NAMES, sums.tolist(), strict=True))


def _own_arguments(args: TrainingArguments | None, several_sets: bool) -> OwnTrainingArguments:
    """`args` as ours; the best checkpoint is the one with the lowest loss when nobody says otherwise."""
    if args is None:
        args = Seq2SeqTrainingArguments(output_dir="output")
    if not isinstance(args, OwnTrainingArguments):
        args = Seq2SeqTrainingArguments(**{f.name: getattr(args, f.name) for f in fields(args) if f.init})
    if args.predict_with_generate:
        raise ConfigError("CONFIG-02", "predict_with_generate is not there yet", fix="swift infer on the checkpoint")
    if args.metric_for_best_model is None and args.eval_strategy != "no" and not several_sets:
        args.metric_for_best_model, args.greater_is_better = "loss", False
    return args


def _takes_positions(model: nn.Module) -> bool:
    """Whether the model can make logits at chosen positions only."""
    base = saving.base_of(model)
    prompts = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
    native = isinstance(base, PreTrainedModel) and type(base).__module__.startswith("transformers.")
    return native and not prompts and "logits_to_keep" in inspect.signature(base.forward).parameters


@contextmanager
def _use_cache(model: nn.Module, value: bool | None) -> Iterator[None]:
    """Save `model` with the cache setting it came with: training turns it off, which is nothing to keep."""
    if value is None or not isinstance(model, PreTrainedModel):
        yield
        return
    in_training, model.config.use_cache = model.config.use_cache, value
    try:
        yield
    finally:
        model.config.use_cache = in_training


def _memory_gib() -> float:
    """The most memory in use so far, in GiB: of the GPUs, else of the process."""
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())  # needs-cuda
        return sum(torch.cuda.max_memory_reserved(device) for device in devices) / GIB  # needs-cuda
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
