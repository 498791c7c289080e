"""Transformers' trainer with checkpoints that are whole or absent, and a resume that is exact or refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import TrainOutput

from swift import checkpoint, storage
from swift.datasets.stream import Stream
from swift.errors import DataError
from swift.log import get_logger
from swift.peft.lora import LoRAModel
from swift.peft.prefix import PrefixModelForCausalLM
from swift.trainers import saving
from swift.trainers.adalora import Ranks
from swift.trainers.engines import EngineTrainer, check_same_engine
from swift.trainers.sameness import check_same_run, facts_of, progress_of, versions
from swift.trainers.stopping import StopEvaluation, Stops
from swift.trainers.streaming import examples_of, go_on, without_draws, write_state
from swift.trainers.tally import Clock
from swift.tuners.model import SwiftModel

if TYPE_CHECKING:
    from swift.templates.template import Template

logger = get_logger()


class CommittingTrainer(EngineTrainer):
    """Writes, keeps and reads checkpoints by the rules of `swift.checkpoint`."""

    template: Template | None = None
    clock: Clock
    config_use_cache: bool | None = None
    ranks: Ranks | None = None
    stops: Stops
    evaluation_due = False  # whether the step's evaluation was given up

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
            ConfigError: going on could not be exact, because the run differs from the checkpoint's, and
                `allow_inexact_resume` is off.
            InternalError: the loss or a gradient is not finite; nothing of it was saved.
            OutputError: another run writes into the same directory.
            KeyboardInterrupt: SIGINT came; the step at hand was finished and saved, or the signal came twice.
            SystemExit: SIGTERM or SIGUSR1 came, with 143; the step at hand was finished and saved.
        """
        with storage.held(self.args.output_dir) if self.is_world_process_zero() else nullcontext():
            return self._train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _train(self, resume_from_checkpoint: Any, trial: Any, ignore_keys_for_eval: list[str] | None) -> TrainOutput:
        found, step = None, 0
        if self.is_world_process_zero():
            storage.sweep(self.args.output_dir)
            fast = self.args.resume_verify == "fast"
            found = checkpoint.resolve(resume_from_checkpoint, self.args.output_dir, fast=fast)
        found = self._from_main(found)
        if found is not None:
            tuned = isinstance(self.model, (PeftModel, SwiftModel))
            check_same_engine(found, self.engine_fact, self.args.world_size)
            check_same_run(
                found,
                self._run,
                tuned=tuned,
                data_too=not self.args.ignore_data_skip,
                options=self.sft_args,
                model=self.model,
                allow=self.args.allow_inexact_resume,
            )
            manifest = storage.read_manifest(found)  # not its name, which may be any
            step, self.evaluation_due = int(manifest["step"]), bool(manifest.get("evaluation_due"))
            logger.info("going on from %s: %s", found, progress_of(found))
        self.clock = Clock(step)
        with self.stops.listening(), self._stream_goes_on(found):
            return super().train(str(found) if found else None, trial, ignore_keys_for_eval)

    @contextmanager
    def _stream_goes_on(self, found: Path | None) -> Iterator[None]:
        """Let a stream of rows find its own place, where others are read again up to it."""
        skips = self.args.ignore_data_skip
        if isinstance(self.train_dataset, Stream) and found is not None:
            if skips:
                self.train_dataset.begun = int(storage.read_manifest(found)["step"]), 0
            else:
                go_on(self.train_dataset, found)
            self.args.ignore_data_skip = True
        try:
            yield
        finally:
            self.args.ignore_data_skip = skips

    def get_train_dataloader(self) -> DataLoader:
        """The batches of training."""
        loader = super().get_train_dataloader()
        return without_draws(loader) if isinstance(self.train_dataset, Stream) else loader

    def _facts(self) -> dict[str, Any]:
        """What a checkpoint's manifest says about the run."""
        base = saving.base_of(self.model)
        return {
            "step": self.state.global_step,
            **({"engine": self.engine_fact} if self.engine else {}),
            **({"evaluation_due": True} if self.evaluation_due else {}),
            "run": {
                **self._run,
                "model": base.name_or_path if isinstance(base, PreTrainedModel) else type(base).__name__,
                "template": self.template.name if self.template is not None else None,
            },
            "versions": versions(),
        }

    @cached_property
    def _run(self) -> dict[str, Any]:
        """What decides the numbers of this run."""
        return facts_of(self.args, self.train_dataset, self.args.world_size)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.evaluation_due:
            self._make_up_for_evaluation()
        # Gone on from its last step, or from where it stopped early, a run is over; transformers looks only after one
        # more step.
        if self.control.should_training_stop or 0 < self.state.max_steps <= self.state.global_step:
            logger.info("step %s of %s: nothing is left to train", self.state.global_step, self.state.max_steps)
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _make_up_for_evaluation(self) -> None:
        """Evaluate the checkpoint that the run goes on from, because a signal came in its step's evaluation."""
        metrics = self._evaluate(None, None)
        self.evaluation_due = False
        self._determine_best_metric(metrics=metrics, trial=None)
        self._note_best(checkpoint.directory_of(self.args.output_dir, self.state.global_step))

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        try:
            return super()._evaluate(*args, **kwargs)
        except StopEvaluation:
            if not self.evaluation_due:  # else the checkpoint is there, and the random state is not yet its own
                self.evaluation_due = True
                self._save_checkpoint(self.model, None)
            self.stops.end()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target = model if model is not None else self.model
        if self.engine is not None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        if isinstance(target, SwiftModel):
            saving.load_adapters(target, Path(resume_from_checkpoint))
            return
        if isinstance(target, LoRAModel | PrefixModelForCausalLM):
            target.load_pretrained(Path(resume_from_checkpoint))
            return
        if saving.read_encoder(target, Path(resume_from_checkpoint)):
            return
        if isinstance(target, PeftModel):
            saving.check_adapter_fits(target, Path(resume_from_checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _nothing_runs(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _nothing_runs(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        if self.ranks is not None and checkpoint is not None:
            self.ranks.load(Path(checkpoint))

    def _load_best_model(self) -> None:
        if self.engine is not None or isinstance(self.model, SwiftModel | LoRAModel | PrefixModelForCausalLM):
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self.clock.pause():
            self.store_flos()
            final = checkpoint.directory_of(self.args.output_dir, self.state.global_step)
            saved = checkpoint.committed(self.args.output_dir)
            checkpoint.check_finite(self.trained_shares(), saved[-1] if saved else None)
            self._note_best(final)
            with self._stage(final) as stage:
                self._write_checkpoint(stage)
            if self.args.should_save:
                keep = [final, self.state.best_model_checkpoint]
                checkpoint.rotate(self.args.output_dir, self.args.save_total_limit, keep)
        if self.stops.agree():
            self.accelerator.wait_for_everyone()
            self.stops.end()

    def _write_checkpoint(self, stage: Path) -> None:
        self.save_model(str(stage), _internal_call=True)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(stage))
            self._save_scaler(str(stage))
            self._save_rng_state(str(stage))
            if self.args.should_save:
                model: Any = self.accelerator.unwrap_model(self.model)
                saving.write_encoder(model, stage)
            if self.ranks is not None and self.args.should_save:
                self.ranks.save(stage)
            if isinstance(self.train_dataset, Stream) and self.args.should_save:
                examples = examples_of(self.args, self.state.global_step, self.train_dataset.begun)
                write_state(self.train_dataset, examples, stage)
        if self.args.should_save:
            stateful = [
                cb for cb in [*self.callback_handler.callbacks, self.control] if isinstance(cb, ExportableState)
            ]
            self.state.stateful_callbacks = stateful  # type: ignore[assignment]
            self.state.__post_init__()
            self.state.save_to_json(str(stage / "trainer_state.json"))

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
        """What the main process has for `value`, in all of them."""
        return broadcast_object_list([value])[0] if self.args.world_size > 1 else value

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
        model: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        with _use_cache(model, self.config_use_cache):
            if self.shards_only:
                saving.write_config(model, directory)
            else:
                saving.write_weights(model, directory, state_dict)
        saving.write_side_files(
            model,
            directory,
            sft_args=self.sft_args,
            stop_ids=self.template.stop_ids if self.template is not None else (),
            copied=self.args.additional_saved_files,
        )
        words = self.sft_args.new_special_tokens if self.sft_args is not None else []
        if self.processing_class is not None and (words or not isinstance(model, (PeftModel, SwiftModel))):
            self.processing_class.save_pretrained(str(directory))
        elif self.processing_class is not None:
            saving.write_chat_template(directory, self.processing_class)
        if words and self.processing_class is not None:
            saving.write_new_tokens(model, directory, self.processing_class, words)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        # With a limit of 1 transformers deletes the newest checkpoint here when another is the best: we keep both.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit


@contextmanager
def _nothing_runs(directory: str | None) -> Iterator[None]:
    """Say in plain words that a state was not read because it is more than tensors."""
    try:
        yield
    except UnpicklingError as error:
        raise DataError(
            "CKPT-01",
            f"{directory} cannot be gone on from: its optimiser, schedule or random state is damaged or holds code",
            why=f"nothing of a file is run: {str(error).split('Please file')[0].strip()}",
            fix="take another checkpoint",
        ) from error


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
