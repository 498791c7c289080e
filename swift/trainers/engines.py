"""What holds the weights of a model that several processes share, and how they are saved: DeepSpeed or FSDP2.

Both sum gradients over the processes and divide by their number, as DDP does, so the trainer's loss is exact in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import transformers
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.training_args import OptimizerNames

from swift import storage
from swift.arguments.engines import read_sharding
from swift.arguments.sft import SftArguments
from swift.errors import ConfigError
from swift.log import get_logger
from swift.peft.wrapper import Wrapper
from swift.trainers import saving, sharded, zero
from swift.trainers.arguments import OwnTrainingArguments
from swift.tuners.model import SwiftModel

logger = get_logger()
FSDP, DEEPSPEED = "fsdp", "deepspeed"
SINGLE_NUMBERS = ("adamw_torch", "adamw_torch_fused", "sgd")
"""Optimisers that treat each number by itself, so that a shard is stepped as the whole would be."""


class EngineTrainer(transformers.Trainer):
    """Transformers' trainer with a model whose weights may lie in parts, one in each process."""

    args: OwnTrainingArguments
    model: Any
    model_wrapped: Any
    lr_scheduler: Any
    sft_args: SftArguments | None = None

    @property
    def engine(self) -> str | None:
        """What shares the weights, None where each process has them all."""
        if self.args.sharding:
            return FSDP
        return DEEPSPEED if self.is_deepspeed_enabled else None

    @property
    def engine_fact(self) -> str | None:
        """The engine as a checkpoint's manifest has it."""
        return f"{DEEPSPEED}-zero{self._zero_stage}" if self.engine == DEEPSPEED else self.engine

    @property
    def _zero_stage(self) -> int:
        return zero.stage_of(self.args.hf_deepspeed_config.config) if self.engine == DEEPSPEED else 0

    @property
    def shards_only(self) -> bool:
        """Whether a checkpoint has the weights in shards alone: `swift export --from_sharded` puts them together."""
        return self.engine == FSDP and not self._tuned

    @property
    def _tuned(self) -> bool:
        return isinstance(self.model, (PeftModel, SwiftModel, Wrapper))

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator; a model in shards is not DDP's to wrap."""
        super().create_accelerator_and_postprocess()
        if self.engine == FSDP:
            plain = self.accelerator.prepare_model

            def prepare(model: nn.Module, device_placement: Any = None, evaluation_mode: bool = False) -> Any:
                return plain(model, device_placement=False, evaluation_mode=True)

            self.accelerator.prepare_model = prepare  # type: ignore[method-assign]

    def start_engine(self) -> None:
        """Cut the model into shards where that is asked for; called once it has its tuners.

        Raises:
            ConfigError: what trains cannot be cut.
        """
        if self.engine is None:
            assert self.sft_args is None or not self.sft_args.deepspeed, "DeepSpeed was asked for and is not there"
            return
        check_engine(self.args, self.model, self.engine_fact)
        how = read_sharding(self.args.sharding)
        if how is not None:
            precision = torch.bfloat16 if self.args.bf16 else None
            sharded.shard(self.model, how, self.args.device, precision)
            note = "" if self.args.world_size > 1 else ", which saves nothing"
            logger.info(f"fsdp: shards of every parameter: {self.args.world_size}{note}")

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        if self.engine != DEEPSPEED:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        with zero.told_as_said():
            ready = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is None:
            return ready
        self._load_deepspeed(resume_from_checkpoint)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return ready

    def _load_deepspeed(self, directory: str) -> None:
        """Weights, and the optimiser's state, from DeepSpeed's own files."""
        self.model_wrapped.load_checkpoint(directory, load_module_strict=not self._tuned)

    # Gradients

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        if self.engine == FSDP:
            return sharded.clip(self.model, self.args.max_grad_norm)
        return super()._clip_grad_norm(model)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        if self.engine == FSDP:
            return sharded.clip(self.model, math.inf) if grad_norm is None else grad_norm
        return super()._get_grad_norm(model, grad_norm)

    # Checkpoints

    def trained_shares(self) -> Iterator[tuple[str, Tensor]]:
        """What is trained, by name; of a shared model a number each, NaN where any process holds what is not finite."""
        if self.engine is None:
            yield from ((name, tensor) for name, tensor in self.model.named_parameters() if tensor.requires_grad)
            return
        shares = list((sharded.shares if self.engine == FSDP else zero.shares)(self.model))
        sound = torch.stack([torch.isfinite(tensor).all() for _, tensor in shares]).to(self.args.device, torch.float32)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(sound, torch.distributed.ReduceOp.MIN)
        yield from zip([name for name, _ in shares], torch.where(sound > 0, sound, math.nan), strict=True)

    def whole_weights(self) -> dict[str, Tensor]:
        """What is trained, whole, in the main process; {} in the others. All of them have to ask."""
        if self._zero_stage == 3:
            return zero.gather(self.model, self.args.should_save, everything=False)
        return sharded.gather(self.model, self.args.should_save)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights: a tuner's, or the whole model's, as ordinary files; those of FSDP in shards.

        All processes take part.
        """
        directory = output_dir or self.args.output_dir
        if self.shards_only:
            sharded.save_weights(self.model, Path(directory), everything=True)
            self._save(directory)
        elif self.engine == FSDP:
            self._save(directory, state_dict=self._as_saved(self.whole_weights()))
        elif self._zero_stage == 3:
            whole = zero.gather(self.model, self.args.should_save, everything=not self._tuned)
            self._save(directory, state_dict=self._as_saved(whole))
        elif self.engine == DEEPSPEED:
            self._save(directory)
        else:
            super().save_model(output_dir, _internal_call)

    def _as_saved(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights under the names of the model's state dict: a SwiftModel's are those of its base."""
        prefix = "base_model." if isinstance(self.model, SwiftModel) else ""
        return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.engine == FSDP:
            directory = Path(output_dir)
            if self._tuned:
                sharded.save_weights(self.model, directory, everything=False)
            sharded.save_optimizer(self.model, self._own_optimizer, directory)
        elif self.engine == DEEPSPEED:
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=self._tuned)
        else:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.engine == FSDP and checkpoint is not None:
            sharded.load_optimizer(self.model, self._own_optimizer, Path(checkpoint))
            state = torch.load(Path(checkpoint) / "scheduler.pt", weights_only=True)
            self.lr_scheduler.load_state_dict(state)
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.engine == FSDP:
            sharded.load_weights(self.model, Path(resume_from_checkpoint), everything=not self._tuned)
        elif self.engine == DEEPSPEED:
            self._load_deepspeed(resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    @property
    def offloaded(self) -> bool:
        """Whether the weights that the optimiser steps lie in main memory, away from the device."""
        how = read_sharding(self.args.sharding)
        return how is not None and how.offload

    @property
    def _own_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser under accelerate's wrapping."""
        return self.optimizer.optimizer  # type: ignore[union-attr]


def check_engine(args: OwnTrainingArguments, model: nn.Module, engine: str | None) -> None:
    """Make sure that what trains can be shared by an engine.

    Raises:
        ConfigError: what it needs cannot be had of parts of weights, or the processes are not a group.
    """
    what = "--fsdp" if engine == FSDP else "--deepspeed"
    own_optimizer = args.deepspeed is not None and "optimizer" in zero.read_config(args.deepspeed)
    base, optim = saving.base_of(model), OptimizerNames(args.optim).value
    reasons = {
        "--use_galore projects whole gradients": args.galore_config is not None,
        "--optim muon looks at whole matrices": args.own_optim is not None,
        "--lisa_activated_layers changes what trains": bool(args.lisa_activated_layers),
        f"--optim {optim} is not one of {', '.join(SINGLE_NUMBERS)}": not own_optimizer and optim not in SINGLE_NUMBERS,
        "adalora ranks whole matrices by their gradients": "adalora" in _kinds(model),
        "a tuner of swift.peft saves itself": isinstance(model, Wrapper),
        "a quantised base cannot be cut into shards": (engine == FSDP or "zero3" in str(engine))
        and isinstance(base, PreTrainedModel)
        and base.config.to_dict().get("quantization_config") is not None,
        "fp16 needs a loss scale that knows of shards; --dtype bf16": engine == FSDP and args.fp16,
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise ConfigError(
            "CONFIG-02", f"{what}: {'; '.join(found)}", fix=f"drop one of the two, or train without {what}"
        )
    if engine == FSDP and not torch.distributed.is_initialized():
        raise ConfigError("CONFIG-03", "--fsdp needs a process group", fix="NPROC_PER_NODE=2 swift sft …")


def _kinds(model: nn.Module) -> list[str]:
    configs = model.peft_config.values() if isinstance(model, PeftModel) else ()
    configs = model.adapters.values() if isinstance(model, SwiftModel) else configs
    return [str(vars(config).get("peft_type", "")).rpartition(".")[2].lower() for config in configs]


def check_same_engine(directory: Path, engine: str | None, world_size: int) -> None:
    """Refuse to go on from a checkpoint whose optimiser was saved by another engine, or cut for other processes.

    Raises:
        ConfigError: it was.
    """
    manifest = storage.read_manifest(directory)
    then, processes = manifest.get("engine"), manifest.get("run", {}).get("world_size")
    fix = "start anew with its weights: --resume_only_model true for adapters, --model_id_or_path for a whole model"
    if then != engine:
        said = f"{then or 'a run without engine'} wrote it, this one has {engine or 'none'}"
        raise ConfigError("CONFIG-02", f"{directory} cannot be gone on from: {said}", fix=fix)
    if engine is not None and engine.startswith(DEEPSPEED) and processes != world_size:
        why = f"DeepSpeed cut the optimiser's state for {processes} processes, and there are {world_size}"
        fix = f"{processes} processes; or {fix}"
        raise ConfigError("CONFIG-02", f"{directory} cannot be gone on from: {why}", fix=fix)
