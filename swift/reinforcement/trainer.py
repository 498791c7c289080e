"""The trainer of answers with rewards: the road of `Seq2SeqTrainer`, on what the model itself writes.

At the beginning of a step the model answers all its prompts, so many times each; the answers are rewarded, compared
within their group, and learnt. A row of a batch is a prompt, and its answers go through the model together. The loss is
divided by what the whole step has, of every process and every accumulated batch. Letters in names: A answers, F reward
functions, P prompts, G answers to each, N tokens of all answers, T those of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import GenerationConfig
from transformers.trainer_utils import EvalLoopOutput

from swift.datasets.prompts import Prompts
from swift.errors import DataError
from swift.log import get_logger
from swift.preference.batches import Collator
from swift.preference.logps import HeadLogProbs, ask
from swift.preference.reference import Reference
from swift.reinforcement import written
from swift.reinforcement.advantages import alike, leave_one_out, relative_to_group, spread
from swift.reinforcement.loss import Table, counts_of, losses, share_of_step
from swift.reinforcement.measures import Measures
from swift.reinforcement.method import Method
from swift.reinforcement.order import Windows
from swift.reinforcement.rewards import Answer, Reward, scores, totals, warn_of_none
from swift.reinforcement.rollout import answering, write_answers
from swift.reinforcement.written import Batch
from swift.trainers import saving
from swift.trainers.head import HeadLoss, find_head_loss
from swift.trainers.loss import IGNORED, Sums, cross_entropy
from swift.trainers.trainer import Seq2SeqTrainer

logger = get_logger()


class ReinforcementTrainer(Seq2SeqTrainer):
    """Trains a causal language model, whole or through a tuner, on answers of its own.

    Args:
        args: as those of `Seq2SeqTrainer`, whose data sets are `Prompts` and whose collator is `collate`.
        method: how is learnt.
        rewards: what answers are worth.
        reference: what changes are measured against; None where nothing is.
        pad_id: fills up answers of a batch.
        options: the other arguments of `Seq2SeqTrainer`.
    """

    places_batches = False

    def __init__(
        self,
        *args: Any,
        method: Method,
        rewards: Sequence[Reward],
        reference: Reference | None = None,
        pad_id: int = 0,
        **options: Any,
    ) -> None:
        self.method, self.rewards, self.reference = method, list(rewards), reference
        self._written: list[Batch] | None = None
        super().__init__(*args, compute_loss_func=cross_entropy, **options)
        self.tells_accuracy = False
        self.label_names = ["labels"]
        self._collator = Collator(pad_id, self.args.padding_free)
        self._measures = self._new_measures()
        train: Any = self.train_dataset
        self._columns = train.names if isinstance(train, Prompts) else []
        if self.args.metric_for_best_model == "loss":
            self.args.metric_for_best_model, self.args.greater_is_better = "reward", True
        if reference is not None:
            reference.place(self.args.device)

    def _new_measures(self) -> Measures:
        return Measures(self.args.device, [reward.name for reward in self.rewards])

    def _training_collator(self) -> Any:
        return self.data_collator

    @cached_property
    def _run(self) -> dict[str, Any]:
        told = {f"rl_{name}": value for name, value in self.method.told().items()}
        worth = [reward.told() for reward in self.rewards]
        return {**super()._run, **told, "rewards": worth, "reference": self.reference and self.reference.told()}

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        window = self.args.train_batch_size * self.share[0] * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = Windows(len(rows), window, self.method.iterations, seed)
        if sampler.left_out:
            logger.warning(
                f"--num_iterations {self.method.iterations}: {sampler.left_out} of {len(rows)} prompts, other ones in "
                "each epoch, fill no step and are not drawn"
            )
        self._sampler = sampler  # type: ignore[assignment]
        return sampler

    def _real_rows(self, rows: int) -> int:
        return rows if self.method.iterations > 1 else super()._real_rows(rows)

    # Answers

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """Answers, tokens to learn and batches of an optimiser step, over all processes, once it has its answers."""
        if not batch_samples:
            return None
        last = batch_samples[-1]
        real = self._real_rows(len(last["weight"]))
        last["weight"] = (torch.arange(len(last["weight"]), device=device) < real).float()
        if self._written is None or self.state.global_step % self.method.iterations == 0:
            with self.heartbeat.pause():
                self._written = self._write(batch_samples)
                self.accelerator.wait_for_everyone()
        counts = torch.zeros(3, dtype=self._tally.sums.dtype, device=device)
        for batch, laid in zip(batch_samples, self._written, strict=True):
            batch.update(self._prepare_inputs(laid))
            weight_A = batch["answer_weight"].to(counts)
            learnt_A = torch.bincount(batch["answer"], batch["counts"], minlength=len(weight_A)).to(counts)
            counts += counts_of(learnt_A, weight_A)
        if self.args.world_size > 1:
            counts = cast(Tensor, self.accelerator.reduce(counts, "sum"))
        if counts[0] == 0:
            raise DataError("DATA-05", f"step {self.state.global_step + 1}: it has no prompt")
        return counts.float()

    def _write(self, batches: Sequence[Batch]) -> list[Batch]:
        """Let the model answer the prompts of a step; what there is to learn of them, batch by batch."""
        policy: Any = self.accelerator.unwrap_model(self.model)
        prompts = [prompt for batch in batches for prompt in batch["prompts"]]
        assert self.template is not None
        count, step = self.method.answers, self.state.global_step // self.method.iterations
        answers = write_answers(policy, self.template, prompts, self.method.sampling, count, self.args.seed, step)
        scores_AF = scores(self.rewards, answers, self._columns)
        warn_of_none(scores_AF, answers)
        weight_A = torch.cat([batch["weight"].cpu() for batch in batches]).repeat_interleave(count).double()
        rewards_A = totals(scores_AF, torch.tensor([reward.weight for reward in self.rewards], dtype=torch.float64))
        self._measures.add_answers(answers, weight_A)
        self._measures.add_rewards(scores_AF, rewards_A, weight_A)
        laid = [self._laid(part) for part in self._parts(batches, answers)]
        self._deal(laid, "answer_weight", weight_A)
        groups_PG, real_P = rewards_A.reshape(-1, count), weight_A[::count]
        self._measures.add(groups=real_P.sum(), alike=(alike(groups_PG) * real_P).sum())
        penalty_A = self._ask(laid)
        if self.method.in_rewards and penalty_A is not None:
            rewards_A = rewards_A - self.method.settings.beta * penalty_A.double().cpu()
        self._deal(laid, "advantages", self._advantages(rewards_A, weight_A))
        return laid

    def _deal(self, laid: Sequence[Batch], name: str, values_A: Tensor) -> None:
        """Give every batch what is its answers'."""
        for batch, part in zip(laid, values_A.float().split([each["answers"] for each in laid]), strict=True):
            batch[name] = part.clone()

    def _parts(self, batches: Sequence[Batch], answers: list[Answer]) -> Iterator[list[Answer]]:
        """The answers to the prompts of each batch."""
        start = 0
        for batch in batches:
            end = start + len(batch["prompts"]) * self.method.answers
            yield answers[start:end]
            start = end

    def _laid(self, answers: Sequence[Answer]) -> Batch:
        """The model's inputs of these answers, and which tokens it is to predict."""
        rows = []
        for answer in answers:
            prompt = answer.prompt.ids.tolist()
            labels = [IGNORED] * len(prompt) + answer.ids
            rows.append({"input_ids": prompt + answer.ids, "labels": labels, "rejected": [0] * len(labels)})
        batch = self._collator(rows)
        del batch["weight"], batch["good"]
        cut = torch.tensor([answer.truncated and self.method.masks_truncated for answer in answers])
        return {**batch, "counts": (~cut)[batch["answer"]].float()}

    @torch.no_grad()
    def _ask(self, laid: Sequence[Batch]) -> Tensor | None:
        """Note what model and reference say of answers, where it is needed; the divergence of each, with a reference.

        The divergence is the sum of what the log-probabilities of an answer's tokens differ by.
        """
        several = self.method.iterations > 1
        policy: Any = self.accelerator.unwrap_model(self.model)
        penalties: list[Tensor] = []
        for batch in laid:
            here: Any = self._prepare_inputs(batch)
            now_N = None
            if several or (self.reference is not None and self.method.in_rewards):
                with answering(policy), self.compute_loss_context_manager():
                    now_N = self._say(policy, here, self._logps)[0]
            if several and now_N is not None:
                batch["old"] = now_N.cpu()
            if self.reference is None:
                continue
            with self.reference.of(policy) as model, self.compute_loss_context_manager():
                known_N = self._say(model, here, self._reference_logps)[0]
            if self.method.in_rewards:
                assert now_N is not None
                table = Table.of(here["answer"], here["answers"])
                differs_A = table.put((now_N - known_N) * here["counts"]).sum(1)
                counted_A = table.put(here["counts"]).sum(1) * here["answer_weight"]
                penalties.append(differs_A)
                self._measures.add(divergence=(differs_A * here["answer_weight"]).sum(), measured=counted_A.sum())
            else:
                batch["reference"] = known_N.cpu()
        return torch.cat(penalties) if penalties else None

    def _advantages(self, rewards_A: Tensor, weight_A: Tensor) -> Tensor:
        """How much better than its group every answer is, in float64."""
        rewards_PG = rewards_A.reshape(-1, self.method.answers)
        if self.method.in_rewards:
            return leave_one_out(rewards_PG).flatten()
        of_step = self._spread_of_step(rewards_A[weight_A > 0]) if self.method.scale == "batch" else None
        return relative_to_group(rewards_PG, self.method.scale, of_step).flatten()

    def _spread_of_step(self, rewards_A: Tensor) -> Tensor:
        """The spread of the rewards of all processes."""
        if self.args.world_size > 1:
            parts: list[Any] = [None] * self.args.world_size
            torch.distributed.all_gather_object(parts, rewards_A)
            rewards_A = torch.cat(parts)
        return spread(rewards_A)

    # What the model says

    @cached_property
    def _logps(self) -> HeadLogProbs | None:
        """Log-probabilities in chunks, where the model is of the kind."""
        return self._in_chunks(self._head_loss)

    @cached_property
    def _reference_logps(self) -> HeadLogProbs | None:
        """The same of a reference of its own."""
        assert self.reference is not None
        if self.reference.model is None or self._logps is None:
            return self._logps
        found = find_head_loss(saving.base_of(self.reference.model), cross_entropy)
        return self._in_chunks(found if isinstance(found, HeadLoss) else None)

    def _in_chunks(self, found: HeadLoss | None) -> HeadLogProbs | None:
        if found is None:
            return None
        heat, cap = self.method.temperature, found.rule.cap
        rule = replace(found.rule, scale=found.rule.scale / heat, cap=None if cap is None else cap / heat)
        return HeadLogProbs(found.head, rule)

    def _say(self, model: Any, batch: Mapping[str, Any], logps: HeadLogProbs | None) -> tuple[Tensor, Any]:
        """The log-probability of every token of a batch's answers, at the temperature; and the model's own outputs."""
        logps_N, _, outputs = ask(model, batch, logps, self.method.temperature)
        return logps_N, outputs

    # The loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This batch's share of the step's loss, times the number of processes: DDP averages over them."""
        assert isinstance(num_items_in_batch, Tensor), "a step begins with its answers"
        logps_N, outputs = self._say(model, inputs, self._logps)
        table, weight_A = Table.of(inputs["answer"], inputs["answers"]), inputs["answer_weight"]
        old_N, known_N = inputs.get("old", logps_N.detach()), inputs.get("reference")
        mask_AT = table.put(inputs["counts"].to(logps_N))
        found = losses(
            table.put(logps_N),
            table.put(old_N.to(logps_N)),
            None if known_N is None else table.put(known_N.to(logps_N)),
            mask_AT,
            inputs["advantages"].to(logps_N),
            self.method.settings,
        )
        loss = share_of_step(found, mask_AT, weight_A, num_items_in_batch, self.method.settings)
        with torch.no_grad():
            self._count(loss, logps_N, found, mask_AT * weight_A[:, None], inputs, num_items_in_batch)
        loss = loss * self.accelerator.num_processes + self._balance_loss(outputs)
        if self.ranks is not None:
            loss = loss + self.ranks.orthogonality() / self.current_gradient_accumulation_steps
        return (loss, outputs) if return_outputs else loss

    def _count(
        self, loss: Tensor, logps_N: Tensor, found: Any, mask_AT: Tensor, inputs: Mapping[str, Any], counts: Tensor
    ) -> None:
        """Enter a batch into what the next line of the log tells."""
        zero, tokens = torch.zeros((), device=loss.device), mask_AT.sum()
        sums = Sums(loss.detach() * counts[1], tokens, zero, zero, zero, tokens)
        self._tally.add(sums, {"input_ids": inputs["input_ids"], "attention_mask": inputs["real"]})
        table = Table.of(inputs["answer"], inputs["answers"])
        self._measures.add(learnt=tokens, surprise=-(table.put(logps_N) * mask_AT).sum())
        if found.divergence_AT is not None:
            self._measures.add(divergence=(found.divergence_AT * mask_AT).sum(), measured=tokens)
        units_AT = mask_AT if found.clipped_AT.shape == mask_AT.shape else mask_AT.amax(1, keepdim=True)
        self._measures.add(units=units_AT.sum(), clipped=(found.clipped_AT * units_AT).sum())

    # Evaluation and logs

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Evaluate: what the likeliest answer to every prompt is worth."""
        rows: Any = dataloader.dataset
        policy: Any = self.accelerator.unwrap_model(self.model)
        processes, own = self.share
        prompts = [rows[k] for k in range(own, len(rows), processes)]
        assert self.template is not None
        said = GenerationConfig(max_new_tokens=self.method.sampling.max_new_tokens, do_sample=False)
        measures = self._new_measures()
        with self.clock.pause(), self.heartbeat.pause():
            answers = write_answers(policy, self.template, prompts, said, 1, self.args.seed, 0)
            if answers:
                weight_A = torch.ones(len(answers), dtype=torch.float64)
                scores_AF = scores(self.rewards, answers, list(dict.fromkeys([*self._columns, *rows.names])))
                weights_F = torch.tensor([reward.weight for reward in self.rewards], dtype=torch.float64)
                measures.add_answers(answers, weight_A)
                measures.add_rewards(scores_AF, totals(scores_AF, weights_F), weight_A)
            found = self._of_all(measures)  # in the pause: faster processes wait here
        if "reward" not in found:
            what = f"evaluation: no reward function applies to any of its {len(rows)} rows"
            fix = "--val_dataset with rows that the functions know, or --evaluation_strategy no"
            raise DataError("DATA-05", what, fix=fix)
        told = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        return EvalLoopOutput(predictions=cast(Any, None), label_ids=None, metrics=told, num_samples=len(rows))

    def _of_all(self, measures: Measures) -> dict[str, float]:
        """The means over all processes."""
        if self.args.world_size > 1:
            measures.sums = cast(Tensor, self.accelerator.reduce(measures.sums, "sum"))
        return measures.means()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; a training line also gets rewards, lengths and divergence since the line before."""
        if "loss" in logs:
            logs = {"loss": logs["loss"], **self._of_all(self._measures), **logs}
            self._measures = self._new_measures()
        super().log(logs, start_time)

    # Checkpoints

    def _write_checkpoint(self, stage: Path) -> None:
        super()._write_checkpoint(stage)
        going_on = self.state.global_step % self.method.iterations != 0
        if going_on and self._written is not None and not self.args.save_only_model:
            written.save(self._written, stage, self.args.process_index)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._written = written.load(Path(checkpoint), self.args.process_index)
