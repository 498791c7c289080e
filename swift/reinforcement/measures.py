"""What a line of the log tells of answers and their rewards: means over all of them since the line before.

Letters in names: A answers, F functions, P prompts, G answers to each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from swift.reinforcement.rewards import Answer

NAMES = (
    "answers", "tokens", "truncated", "groups", "alike", "rewarded", "reward", "squares", "learnt", "surprise",
    "divergence", "measured", "units", "clipped",
)  # fmt: skip


class Measures:
    """Sums over answers.

    Args:
        device: where they are.
        functions: names of the reward functions.
    """

    def __init__(self, device: torch.device, functions: Sequence[str]) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.functions = list(functions)
        self.sums = torch.zeros(len(NAMES) + 3 * len(self.functions), dtype=wide, device=device)

    def add(self, **values: Tensor | float) -> None:
        """Add to sums by their names."""
        for name, value in values.items():
            self.sums[NAMES.index(name)] += value if isinstance(value, float | int) else value.to(self.sums)

    def add_answers(self, answers: Sequence[Answer], weight_A: Tensor) -> None:
        """Add how long answers are."""
        lengths_A = torch.tensor([len(answer.ids) for answer in answers], dtype=weight_A.dtype)
        cut_A = torch.tensor([answer.truncated for answer in answers], dtype=weight_A.dtype)
        self.add(answers=weight_A.sum(), tokens=(lengths_A * weight_A).sum(), truncated=(cut_A * weight_A).sum())

    def add_rewards(self, scores_AF: Tensor, rewards_A: Tensor, weight_A: Tensor) -> None:
        """Add what answers are worth, to every function and together; NaN does not count."""
        known_A = (~rewards_A.isnan()) & (weight_A > 0)
        self.add(rewarded=known_A.sum(), reward=rewards_A[known_A].sum(), squares=(rewards_A[known_A] ** 2).sum())
        for k in range(len(self.functions)):
            column_A = scores_AF[:, k]
            column_A = column_A[(~column_A.isnan()) & (weight_A > 0)]
            sums = torch.stack([torch.tensor(float(len(column_A))).double(), column_A.sum(), (column_A**2).sum()])
            self.sums[len(NAMES) + 3 * k : len(NAMES) + 3 * k + 3] += sums.to(self.sums)

    def means(self) -> dict[str, float]:
        """The metrics by their names; those of which nothing is known are left out."""
        values = self.sums.tolist()
        found = dict(zip(NAMES, values, strict=False))
        told: dict[str, float] = {}
        if found["rewarded"]:
            told["reward"], told["reward_std"] = _mean_and_spread(found["rewarded"], found["reward"], found["squares"])
        for k, name in enumerate(self.functions):
            count, total, squares = values[len(NAMES) + 3 * k :][:3]
            if count:
                told[f"rewards/{name}/mean"], told[f"rewards/{name}/std"] = _mean_and_spread(count, total, squares)
        if found["groups"]:
            told["frac_reward_zero_std"] = found["alike"] / found["groups"]
        if found["answers"]:
            told["completions/mean_length"] = found["tokens"] / found["answers"]
            told["completions/clipped_ratio"] = found["truncated"] / found["answers"]
        if found["learnt"]:
            told["entropy"] = found["surprise"] / found["learnt"]
        if found["measured"]:
            told["kl"] = found["divergence"] / found["measured"]
        if found["units"]:
            told["clip_ratio"] = found["clipped"] / found["units"]
        return told


def _mean_and_spread(count: float, total: float, squares: float) -> tuple[float, float]:
    mean = total / count
    return mean, (max(squares - count * mean * mean, 0.0) / max(count - 1, 1)) ** 0.5
