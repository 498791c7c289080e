"""What a model says of answers, and what a log line tells of it.

Letters in names: P rows, A answers (the chosen ones first), N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from swift.preference.trainer import Method


@dataclass(frozen=True)
class Scores:
    """What a model says of the answers of some rows.

    Attributes:
        logps_A: the log-probability of every answer, summed over its tokens.
        tokens_A: how many those are.
        right_A: how many of them the model would have said.
        weight_P: 1 for every row, 0 for one that only fills up a batch.
        reference_A: what the reference says, None where there is none.
        good_P: of single answers, which are good; None where there are pairs.
        divergence_P: how much likelier than to the reference unrelated answers are; None where nobody asks.
    """

    logps_A: Tensor
    tokens_A: Tensor
    right_A: Tensor
    weight_P: Tensor
    reference_A: Tensor | None = None
    good_P: Tensor | None = None
    divergence_P: Tensor | None = None

    @classmethod
    def of(cls, logps_N: Tensor, right_N: Tensor, batch: Mapping[str, Any]) -> Scores:
        """Of log-probabilities of tokens, which come answer by answer."""
        answer_N, count = batch["answer"].to(logps_N.device), batch["answers"]
        tokens_A = torch.bincount(answer_N, minlength=count)
        first_A = tokens_A.cumsum(0) - tokens_A
        column_N = torch.arange(len(answer_N), device=answer_N.device) - first_A[answer_N]
        width = int(tokens_A.max()) if len(answer_N) else 0
        whole_AN = logps_N.new_zeros(count, width).index_put((answer_N, column_N), logps_N)
        right_AN = torch.zeros(count, width, dtype=torch.bool, device=right_N.device)
        right_AN[answer_N, column_N] = right_N
        weight_P = batch.get("weight")
        if weight_P is None:  # answers to other prompts are no rows
            weight_P = logps_N.new_ones(count)
        good_P = batch.get("good")
        return cls(whole_AN.sum(1), tokens_A, right_AN.sum(1), weight_P.to(logps_N.device), good_P=good_P)

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """Of all rows of several batches."""
        halves = 1 if parts[0].good_P is not None else 2

        def put(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            if values[0] is None:
                return None
            if not name.endswith("_A"):
                return torch.cat(values)
            return torch.cat([value.chunk(halves)[k] for k in range(halves) for value in values])

        return cls(**{field.name: put(field.name) for field in fields(cls)})

    @property
    def ratios_A(self) -> Tensor:
        """How much likelier than to the reference the answers are."""
        assert self.reference_A is not None
        return self.logps_A - self.reference_A.to(self.logps_A)

    @property
    def divergence(self) -> Tensor:
        """The mean of `divergence_P` over the rows that count; 0 where it is not known."""
        if self.divergence_P is None:
            return self.logps_A.new_zeros(())
        return (self.divergence_P * self.weight_P).sum() / self.weight_P.sum().clamp(min=1)

    @property
    def chosen_tokens(self) -> Tensor:
        """Tokens of the chosen answers of rows that count."""
        return (self.tokens_A[: len(self.weight_P)] * self.weight_P).sum()

    def detached(self) -> Scores:
        """Without a graph."""
        return replace(self, logps_A=self.logps_A.detach())

    def on_cpu(self) -> Scores:
        """In the memory of the machine."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        found: dict[str, Any] = {name: None if value is None else value.cpu() for name, value in values.items()}
        return Scores(**found)


class Totals:
    """Sums over rows, from which a log line's means are made."""

    NAMES = (
        "chosen_rows", "rejected_rows", "chosen_rewards", "rejected_rewards", "accurate", "chosen_logps",
        "rejected_logps", "chosen_tokens", "divergence", "steps",
    )  # fmt: skip

    def __init__(self, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.sums = torch.zeros(len(self.NAMES), dtype=wide, device=device)

    def add(self, scores: Scores, rewards_A: Tensor, divergence: Tensor | None) -> None:
        """Add the rows of a batch.

        Args:
            scores: without a graph.
            rewards_A: what every answer is worth.
            divergence: that of the step, where there is one.
        """
        weight_P = scores.weight_P
        zero = rewards_A.new_zeros(())
        if scores.good_P is not None:
            on = [weight_P * scores.good_P, weight_P * ~scores.good_P]
            rewards, logps, accurate = [rewards_A] * 2, [scores.logps_A] * 2, zero
        else:
            on = [weight_P, weight_P]
            rewards, logps = list(rewards_A.chunk(2)), list(scores.logps_A.chunk(2))
            accurate = ((rewards[0] > rewards[1]) * weight_P).sum()
        known = zero if divergence is None else divergence.clamp(min=0)
        new = [
            *(each.sum() for each in on),
            *((each * marks).sum() for each, marks in zip(rewards, on, strict=True)),
            accurate,
            *((each * marks).sum() for each, marks in zip(logps, on, strict=True)),
            (scores.tokens_A[: len(on[0])] * on[0]).sum(),
            known,
            torch.ones_like(zero),
        ]
        self.sums += torch.stack([value.to(self.sums) for value in new])

    def means(self, method: Method) -> dict[str, float]:
        """The metrics by their names."""
        found = dict(zip(self.NAMES, self.sums.tolist(), strict=True))
        if not found["steps"]:
            return {}
        chosen, rejected = max(found["chosen_rows"], 1), max(found["rejected_rows"], 1)
        rewards = found["chosen_rewards"] / chosen, found["rejected_rewards"] / rejected
        told = {
            "rewards/chosen": rewards[0],
            "rewards/rejected": rewards[1],
            "rewards/margins": rewards[0] - rewards[1],
        }
        if not method.single:
            told["rewards/accuracies"] = found["accurate"] / chosen
        told |= {"logps/chosen": found["chosen_logps"] / chosen, "logps/rejected": found["rejected_logps"] / rejected}
        if method.settings.nll:
            told["nll_loss"] = -found["chosen_logps"] / max(found["chosen_tokens"], 1)
        if method.needs_divergence:
            told["kl"] = found["divergence"] / found["steps"]
        return told
