"""The trainer of heads: the road of `Seq2SeqTrainer` with losses of rows in place of tokens.

The loss of an optimiser step is the sum over all its units (rows, pairs, or the documents of a reranker), of every
process and every accumulated batch, divided by their number. The negatives of InfoNCE are the documents of one batch
of all processes: two processes with 8 rows each learn what one with 16 learns; accumulated batches do not see each
other.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from swift.heads import files
from swift.heads.kinds import Kind, Seen, wide
from swift.trainers import saving
from swift.trainers.loss import Sums, cross_entropy
from swift.trainers.trainer import Seq2SeqTrainer

INPUTS = ("input_ids", "attention_mask")


class HeadTrainer(Seq2SeqTrainer):
    """Trains a model with a head, whole or through a tuner.

    Args:
        args: as those of `Seq2SeqTrainer`, whose data sets are `Groups`.
        kind: what is read of rows and learnt of them.
        head: what checkpoints say about it.
        options: the other arguments of `Seq2SeqTrainer`.
    """

    places_batches = False

    def __init__(self, *args: Any, kind: Kind, head: files.Head, **options: Any) -> None:
        self.kind, self.head = kind, head
        self._seen: list[Seen] = []
        super().__init__(*args, compute_loss_func=cross_entropy, **options)
        self.tells_accuracy = kind.can_be_right

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*(self._signature_columns or []), "counts", "weights"]

    @cached_property
    def _run(self) -> dict[str, Any]:
        objective = {f"objective_{name}": value for name, value in self.kind.settings().items()}
        return {**super()._run, **{f"head_{name}": value for name, value in asdict(self.head).items()}, **objective}

    # The loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """How many units an optimiser step has, over all processes."""
        if not batch_samples:
            return None
        self._mask_repeats(batch_samples[-1])
        count = torch.stack([self.kind.weights(batch).sum() for batch in batch_samples]).sum().to(device)
        if self.args.world_size > 1:
            count = cast(Tensor, self.accelerator.reduce(count, "sum"))
        return count.clamp_min(1)

    def _mask_repeats(self, batch: dict[str, Tensor]) -> None:
        """Let rows weigh nothing that fill up the last batches of an epoch so that all processes have as many."""
        rows = len(batch["weights"])
        real = self._real_rows(rows)
        if real < rows:
            batch["weights"] = (torch.arange(rows, device=batch["weights"].device) < real).to(batch["weights"])

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This batch's share of the step's loss, times the number of processes: DDP averages over them."""
        outputs = model(**{name: inputs[name] for name in INPUTS})
        scores = self.kind.scores(outputs, inputs)
        weights_U = self.kind.weights(inputs).to(scores)
        total, count = (self.kind.losses(scores, inputs) * weights_U).sum(), weights_U.sum()
        right = self._right(scores, inputs, weights_U)
        self._tally.add(Sums(total, count, right, count, right, count), inputs)
        if self._evaluating:
            self._keep(scores, inputs)
        divisor = count.clamp_min(1) if num_items_in_batch is None else num_items_in_batch
        loss = total / divisor * self.accelerator.num_processes + self._balance_loss(outputs)
        if self.ranks is not None and not self._evaluating:
            loss = loss + self.ranks.orthogonality() / self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _right(self, scores: Tensor, batch: dict[str, Tensor], weights_U: Tensor) -> Tensor:
        """How many units the model has right, 0 where that is no question."""
        if not self.kind.can_be_right:
            return weights_U.new_zeros(())
        return (self.kind.hits(scores, batch).to(weights_U) * weights_U).sum()

    # Evaluation

    def _keep(self, scores: Tensor, batch: dict[str, Tensor]) -> None:
        """Keep what metrics are made of, of rows that are not there a second time."""
        real_R, counts_R = batch["weights"] > 0, batch["counts"]
        real_S = torch.repeat_interleave(real_R, counts_R)
        labels = batch["labels"]
        of_texts = len(labels) == len(real_S)
        labels = labels[real_S] if of_texts else labels.reshape(len(real_R), -1)[real_R].flatten()
        kept = (wide(scores[real_S]), labels, counts_R[real_R])
        self._seen.append(tuple(x.detach().cpu().numpy() for x in kept))  # type: ignore[arg-type]

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Evaluate: the loss over all units, and what the kind says besides."""
        self._seen = []
        try:
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
            seen = self._of_all(self._seen)
        finally:
            self._seen = []
        if output.metrics is not None:
            told = self.kind.metrics([one for one in seen if len(one[2])])
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in told.items()})
        return output

    def _of_all(self, seen: list[Seen]) -> list[Seen]:
        """What all processes kept."""
        if self.args.world_size == 1:
            return seen
        parts: list[Any] = [None] * self.args.world_size
        torch.distributed.all_gather_object(parts, seen)
        return [one for part in parts for one in part]

    # Checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            directory = Path(output_dir or self.args.output_dir)
            self.head.write(directory)
            model: Any = self.accelerator.unwrap_model(self.model)
            base: Any = saving.base_of(model)
            whole = base is model
            if self.head.task_type == "embedding" and whole:
                limit = self.template.max_length if self.template is not None else None
                files.write_recipe(self.head, directory, base.config.get_text_config().hidden_size, limit)
