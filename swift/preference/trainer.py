"""The trainer of preferences: the road of `Seq2SeqTrainer` with losses of whole answers.

A batch goes through the model once, chosen and rejected answers together. The loss of an optimiser step is the sum over
all its rows, of every process and every accumulated batch, divided by their number; the cross-entropy that may be added
is divided by the tokens of all its chosen answers. Letters in names: P rows, A answers, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from transformers.trainer_utils import EvalLoopOutput

from swift import dist
from swift.errors import DataError
from swift.preference import reference as references
from swift.preference.logps import HeadLogProbs, ask
from swift.preference.losses import PAIR_LOSSES, SINGLE_LOSSES, Pairs, Settings
from swift.preference.reference import Reference
from swift.preference.rows import PreferenceRows
from swift.preference.scores import Scores, Totals
from swift.trainers import saving
from swift.trainers.engines import DEEPSPEED
from swift.trainers.head import HeadLoss, find_head_loss
from swift.trainers.loss import Sums, cross_entropy
from swift.trainers.stopping import StopEvaluation
from swift.trainers.trainer import Seq2SeqTrainer


@dataclass(frozen=True)
class Method:
    """What is learnt from preferences.

    Attributes:
        name: dpo, orpo, simpo, cpo or kto.
        loss: the name of its loss.
        settings: its numbers.
    """

    name: str
    loss: str
    settings: Settings

    @property
    def single(self) -> bool:
        """Whether rows are single answers."""
        return self.name == "kto"

    @property
    def needs_reference(self) -> bool:
        """Whether the loss looks at a reference."""
        return self.single or PAIR_LOSSES[self.name][self.loss].reference

    @property
    def means(self) -> bool:
        """Whether rewards are of the mean log-probability of a token."""
        return not self.single and PAIR_LOSSES[self.name][self.loss].means and not self.needs_reference

    @property
    def needs_divergence(self) -> bool:
        """Whether answers to other prompts are looked at."""
        return self.loss == "kto"

    def losses(self, scores: Scores, divergence: Tensor | None = None) -> Tensor:
        """The loss of every row, without cross-entropy."""
        if self.single:
            assert scores.good_P is not None
            kl = scores.divergence if divergence is None else divergence
            return SINGLE_LOSSES[self.loss](scores.ratios_A, scores.good_P, kl.clamp(min=0), self.settings)
        chosen_P, rejected_P = scores.logps_A.chunk(2)
        chosen_tokens_P, rejected_tokens_P = scores.tokens_A.chunk(2)
        known = scores.reference_A.chunk(2) if scores.reference_A is not None else (None, None)
        pairs = Pairs(chosen_P, rejected_P, chosen_tokens_P, rejected_tokens_P, *known)
        return PAIR_LOSSES[self.name][self.loss].loss(pairs, self.settings)

    def rewards(self, scores: Scores) -> Tensor:
        """What every answer is worth: beta times its log-probability, to the reference's where there is one."""
        logps_A = scores.logps_A.detach()
        if self.needs_reference:
            logps_A = scores.ratios_A.detach()
        elif self.means:
            logps_A = logps_A / scores.tokens_A.clamp(min=1)
        return self.settings.beta * logps_A


class PreferenceTrainer(Seq2SeqTrainer):
    """Trains a causal language model, whole or through a tuner, on preferences.

    Args:
        args: as those of `Seq2SeqTrainer`, whose data sets are `PreferenceRows` and whose collator is a `Collator`.
        method: what is learnt from them.
        reference: what changes are measured against; None where nothing is.
        options: the other arguments of `Seq2SeqTrainer`.
    """

    places_batches = False

    def __init__(self, *args: Any, method: Method, reference: Reference | None = None, **options: Any) -> None:
        self.method, self.reference = method, reference
        self._divergence: Tensor | None = None
        self._evaluated: list[Scores] = []
        super().__init__(*args, compute_loss_func=cross_entropy, **options)
        self.label_names = ["labels"]
        self._totals = Totals(self.args.device)
        if reference is not None:
            reference.place(self.args.device)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*(self._signature_columns or []), "rejected", "partner", "reference"]

    def _training_collator(self) -> Any:
        return self.data_collator

    @cached_property
    def _run(self) -> dict[str, Any]:
        said = {"rlhf_type": self.method.name, "loss_type": self.method.loss, **asdict(self.method.settings)}
        return {**super()._run, **said, "reference": self.reference and self.reference.told()}

    # What the model says

    @cached_property
    def _logps(self) -> HeadLogProbs | None:
        """Log-probabilities in chunks, where the model is of the kind."""
        head = self._head_loss
        return None if head is None else HeadLogProbs.of(head)

    @cached_property
    def _reference_logps(self) -> HeadLogProbs | None:
        """The same of a reference of its own."""
        assert self.reference is not None
        if self.reference.model is None or self._logps is None:
            return self._logps
        found = find_head_loss(saving.base_of(self.reference.model), cross_entropy)
        return HeadLogProbs.of(found) if isinstance(found, HeadLoss) else None

    def _say(self, model: Any, batch: Mapping[str, Any], logps: HeadLogProbs | None) -> tuple[Scores, Any]:
        """What a model says of a batch, and its own outputs."""
        logps_N, right_N, outputs = ask(model, batch, logps)
        return Scores.of(logps_N, right_N, batch), outputs

    @torch.no_grad()
    def _reference_says(self, batch: Mapping[str, Any]) -> Tensor:
        """The reference's log-probabilities of a batch's answers."""
        assert self.reference is not None
        policy: Any = self.accelerator.unwrap_model(self.model)
        with self.reference.of(policy) as model, self.compute_loss_context_manager():
            return self._say(model, batch, self._reference_logps)[0].logps_A

    def _known(self, batch: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        """What the reference says of the answers, and of those to other prompts."""
        if self.reference is None:
            return None, None
        if "reference" in batch:
            answers = batch["answers"]
            return batch["reference"][:answers], batch["reference"][answers:]
        return self._reference_says(batch), None

    @torch.no_grad()
    def _diverges(self, batch: Mapping[str, Any]) -> Tensor:
        """How much likelier than to the reference answers to other prompts are; shape P."""
        policy: Any = self.accelerator.unwrap_model(self.model)
        training = policy.training
        policy.eval()
        try:
            with self.compute_loss_context_manager():
                said_P = self._say(policy, batch["kl"], self._logps)[0].logps_A
        finally:
            policy.train(training)
        known_P = batch["reference"][batch["answers"] :] if "reference" in batch else self._reference_says(batch["kl"])
        return said_P - known_P

    # The loss

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """Rows of an optimiser step and tokens of their chosen answers, over all processes."""
        if not batch_samples:
            return None
        self._mask_repeats(batch_samples[-1])
        sums = torch.zeros(3, dtype=self._tally.sums.dtype, device=device)
        for batch in batch_samples:
            weight_P = batch["weight"].to(sums)
            tokens_A = torch.bincount(batch["answer"], minlength=batch["answers"])[: len(weight_P)]
            sums[0] += weight_P.sum()
            sums[1] += (tokens_A.to(sums) * weight_P).sum()
            if self.method.needs_divergence:
                sums[2] += (self._diverges(batch).to(sums) * weight_P).sum()
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, "sum")
        assert isinstance(sums, Tensor)
        if sums[0] == 0:
            raise DataError("DATA-05", f"step {self.state.global_step + 1}: it has no row to learn")
        self._divergence = (sums[2] / sums[0]).float()
        return sums[:2].float()

    def _mask_repeats(self, batch: dict[str, Tensor]) -> None:
        """Take the loss off rows that fill up the last batches of an epoch so that all processes have as many."""
        rows = len(batch["weight"])
        real = self._real_rows(rows)
        if real < rows:
            batch["weight"] = (torch.arange(rows, device=batch["weight"].device) < real).to(batch["weight"])

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This batch's share of the step's loss, times the number of processes: DDP averages over them."""
        known_A, _ = self._known(inputs)  # first, so that it takes its memory before the graph is there
        scores, outputs = self._say(model, inputs, self._logps)
        scores = replace(scores, reference_A=known_A)
        if self._evaluating and self.method.needs_divergence:
            scores = replace(scores, divergence_P=self._diverges(inputs))
        if not isinstance(num_items_in_batch, Tensor):
            num_items_in_batch = torch.stack([scores.weight_P.sum(), scores.chosen_tokens]).clamp(min=1)
        divergence = None if self._evaluating else self._divergence
        loss, cross = self._sum(scores, divergence)
        s = self.method.settings
        whole = s.share * loss / num_items_in_batch[0] + s.nll * cross / num_items_in_batch[1]
        self._count(scores, inputs, whole.detach() * num_items_in_batch[1], divergence)
        whole = whole * self.accelerator.num_processes + self._balance_loss(outputs)
        if self._logps is not None and self.engine == DEEPSPEED:
            whole = whole + 0.0 * outputs.logits.sum()  # ZeRO-3 follows outputs back, as DDP does
        if self.ranks is not None and not self._evaluating:
            whole = whole + self.ranks.orthogonality() / self.current_gradient_accumulation_steps
        return (whole, outputs) if return_outputs else whole

    def _sum(self, scores: Scores, divergence: Tensor | None) -> tuple[Tensor, Tensor]:
        """The summed loss of the rows of a batch, and the summed cross-entropy of their chosen answers."""
        losses_P = self.method.losses(scores, divergence)
        chosen_P = scores.logps_A[: len(scores.weight_P)]
        return (losses_P * scores.weight_P).sum(), -(chosen_P * scores.weight_P).sum()

    def _count(self, scores: Scores, inputs: Mapping[str, Any], loss: Tensor, divergence: Tensor | None) -> None:
        """Enter a batch into what the next line of the log tells."""
        zero = torch.zeros((), device=loss.device)
        tokens, right = scores.chosen_tokens, scores.right_A[: len(scores.weight_P)].sum()
        sums = Sums(loss.detach(), tokens, right, zero, zero, tokens)
        self._tally.add(sums, {"input_ids": inputs["input_ids"], "attention_mask": inputs["real"]})
        if self._evaluating:
            self._evaluated.append(scores.detached())
        else:
            self._totals.add(scores.detached(), self.method.rewards(scores), divergence)

    # Evaluation and logs

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Evaluate one batch; what it comes to is told when all have been."""
        if self.stops.agree():
            raise StopEvaluation
        inputs = self._prepare_inputs(inputs)  # type: ignore[assignment]
        self._mask_repeats(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """Evaluate; loss and metrics are over all rows at once, however they fall into batches."""
        self._evaluated = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        seen = self._evaluated
        if dist.world_size() > 1 and torch.distributed.is_initialized():
            gathered: list[Any] = [None] * dist.world_size()
            torch.distributed.all_gather_object(gathered, [scores.on_cpu() for scores in seen])
            seen = [scores for part in gathered for scores in part]
        if seen and output.metrics is not None:
            found = self._of_all(Scores.joined(seen))
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output

    def _of_all(self, scores: Scores) -> dict[str, float]:
        """Loss and metrics of rows."""
        divergence = scores.divergence if self.method.needs_divergence else None
        loss, cross = self._sum(scores, divergence)
        s, rows = self.method.settings, scores.weight_P.sum()
        totals = Totals(loss.device)
        totals.add(scores, self.method.rewards(scores), divergence)
        whole = s.share * loss / rows + s.nll * cross / scores.chosen_tokens
        return {"loss": float(whole), **totals.means(self.method)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; a training line also gets rewards and log-probabilities since the line before."""
        if "loss" in logs:
            if self.args.world_size > 1:
                self._totals.sums = self.accelerator.reduce(self._totals.sums, "sum")  # type: ignore[assignment]
            logs = {"loss": logs["loss"], **self._totals.means(self.method), **logs}
            self._totals = Totals(self.args.device)
        super().log(logs, start_time)

    # The reference beforehand

    def know_reference(self, size: int) -> None:
        """Let every row know what the reference says of it, from the disk or computed now.

        Args:
            size: rows at a time.
        """
        assert self.reference is not None
        policy: Any = self.accelerator.unwrap_model(self.model)
        model = self.reference.model or policy
        sets = [rows for rows in (self.train_dataset, self.eval_dataset) if isinstance(rows, PreferenceRows)]
        for rows in sets:
            key = references.key_of(model, rows)
            values = self._from_main(references.read(key, rows) if self.is_world_process_zero() else None)
            if values is None:
                values = references.together(self._ask(rows, size))
                if self.is_world_process_zero():
                    references.keep(key, values[rows.order])
            else:
                references.logger.info(f"reference log-probabilities: {references.place_of(key)}")
            rows.reference = values

    def _ask(self, rows: PreferenceRows, size: int) -> Any:
        """What the reference says of this process's share of the rows."""
        values = np.zeros((len(rows.rows), 2), np.float32)
        collate: Any = self.data_collator
        for places in references.batches(rows, size):
            batch: Any = self._prepare_inputs(collate([rows.row(k) for k in places.tolist()]))
            columns = [self._reference_says(batch)]
            columns += [self._reference_says(batch["kl"])] if "kl" in batch else []
            said = torch.cat(columns).reshape(-1, len(places)).T
            values[places, : said.shape[1]] = said.float().cpu().numpy()
        return values
