"""The trainer of a model that several processes hold together: they get the same rows, and write one checkpoint.

Checkpoints are those of one process: whole weights, and the whole state of the optimiser.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from swift.errors import ConfigError
from swift.parallel.cuts import Cut, cut_of, made_whole, norm_of_gradients
from swift.parallel.groups import Group
from swift.parallel.load import read_part
from swift.parallel.plan import group_of
from swift.trainers import saving
from swift.trainers.trainer import Seq2SeqTrainer


class TensorParallelTrainer(Seq2SeqTrainer):
    """Trains a model that `swift.parallel.load_part` gave, whole or with LoRA; else as `Seq2SeqTrainer`.

    Where there are more processes than hold one model, the models get different rows, and the loss of a step is over
    all of them.
    """

    group: Group

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        group = group_of(saving.base_of(model))
        assert group is not None, "the model is whole"
        self.group = group
        super().__init__(model, *args, **kwargs)
        if self.compute_metrics is not None:
            what = "metrics of all predictions cannot be had of a model that several processes hold"
            raise ConfigError("CONFIG-03", what, fix="swift infer on the checkpoint")

    @property
    def share(self) -> tuple[int, int]:
        """The batches of a step are dealt to the models, not to the processes."""
        return self.group.replicas, self.group.replica

    def get_tp_size(self) -> int:
        """How many processes hold a model; transformers counts rows with it."""
        return self.group.degree

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator, which deals rows to models, and wraps a model only where there are several."""
        super().create_accelerator_and_postprocess()
        plain = self.accelerator.prepare_model

        def prepare_model(model: nn.Module, device_placement: Any = None, evaluation_mode: bool = False) -> nn.Module:
            placed = plain(model, device_placement=device_placement, evaluation_mode=True)
            return placed if evaluation_mode or self.group.replicas == 1 else self._wrapped(placed)

        self.accelerator.prepare_model = prepare_model  # type: ignore[method-assign]
        self.accelerator.prepare_data_loader = self._deal  # type: ignore[method-assign]

    def _wrapped(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over those that hold the same part of other models."""
        handler = self.accelerator.ddp_handler
        return DistributedDataParallel(
            model, process_group=self.group.alike, **({} if handler is None else handler.to_kwargs())
        )

    def _deal(self, loader: DataLoader, device_placement: Any = None, slice_fn_for_dispatch: Any = None) -> DataLoader:
        """The loader of this process's share of the batches."""
        accelerator, (shares, own) = self.accelerator, self.share
        dealt = prepare_data_loader(
            loader,
            accelerator.device,
            num_processes=shares,
            process_index=own,
            put_on_device=accelerator.device_placement if device_placement is None else device_placement,
            rng_types=[*(accelerator.rng_types or ())],
            dispatch_batches=False,
            even_batches=accelerator.even_batches,
            use_seedable_sampler=accelerator.use_seedable_sampler,
            data_seed=accelerator.dataloader_config.data_seed,
            non_blocking=accelerator.non_blocking,
        )
        accelerator._dataloaders.append(dealt)
        return dealt

    def _count_padding(self) -> dict[str, Any]:
        totals = self._tally.reduced(self.accelerator, copies=self.group.degree)
        self.padding.count(totals)
        return totals

    # Gradients

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm = norm_of_gradients(model.parameters(), self.group)
        factor = torch.clamp(self.args.max_grad_norm / (norm + 1e-6), max=1.0)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor.to(parameter.grad.dtype))
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        known = norm_of_gradients(model.parameters(), self.group) if grad_norm is None else grad_norm
        return super()._get_grad_norm(model, known)

    # Checkpoints

    @property
    def _run(self) -> dict[str, Any]:
        return {**super()._run, "tensor_parallel_size": self.group.degree}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights as one process would; all of them take part."""
        with made_whole(self._saved(), keep=self.args.should_save):
            super().save_model(output_dir, _internal_call)

    def _saved(self) -> Iterator[Tensor]:
        """The parameters that a checkpoint has: all, or those of an adapter."""
        tuned = isinstance(self.model, PeftModel)
        yield from (p for p in self.model.parameters() if p.requires_grad or not tuned)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        optimizer: Any = self.optimizer
        state = optimizer.state_dict()
        whole = {number: {key: cut.whole(value) if cut else value for key, value, cut in entries}
                 for number, entries in self._entries(state)}  # fmt: skip
        if self.args.should_save:
            torch.save({**state, "state": whole}, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _entries(self, state: dict[str, Any]) -> Iterator[tuple[int, list[tuple[str, Any, Cut | None]]]]:
        """What an optimiser's state has for each parameter, and how each of it is cut."""
        optimizer: Any = self.optimizer
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, values in state["state"].items():
            cut = cut_of(parameters[number])
            yield (
                number,
                [
                    (key, value, cut if isinstance(value, Tensor) and value.ndim else None)
                    for key, value in values.items()
                ],
            )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimiser; of a whole state that is loaded it takes this process's part."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if new:
            optimizer.register_load_state_dict_pre_hook(self._own_part)
        return optimizer

    def _own_part(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        parts = {number: {key: cut.part(value) if cut else value for key, value, cut in entries}
                 for number, entries in self._entries(state)}  # fmt: skip
        return {**state, "state": parts}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if isinstance(self.model, PeftModel):
            with made_whole(self._saved(), written=True):
                super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            read_part(self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


def trainer_of(model: nn.Module) -> type[Seq2SeqTrainer]:
    """The trainer for a model: whole, or held by several processes."""
    return Seq2SeqTrainer if group_of(saving.base_of(model)) is None else TensorParallelTrainer
