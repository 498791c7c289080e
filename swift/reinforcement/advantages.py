"""How much better than its group an answer is.

Letters in names: P prompts, G answers to each of them. An answer that nothing could be said of is NaN; it is left out
of means and gets the advantage 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 1e-4
"""Is added to a spread that is divided by."""


def spread(values: Tensor, dim: int | None = None) -> Tensor:
    """The standard deviation of what is not NaN, with one taken off the number; 0 of a single value."""
    known = ~values.isnan()
    count = known.sum() if dim is None else known.sum(dim, keepdim=True)
    mean = values.nanmean() if dim is None else values.nanmean(dim, keepdim=True)
    squares = ((values - mean) ** 2).nansum() if dim is None else ((values - mean) ** 2).nansum(dim, keepdim=True)
    return (squares / (count - 1).clamp(min=1)).sqrt()


def relative_to_group(rewards_PG: Tensor, scale: str, of_step: Tensor | None = None) -> Tensor:
    """Rewards less the mean of the group, over a spread.

    Paper: GRPO, https://arxiv.org/abs/2402.03300, section 4.1; without the spread it is Dr. GRPO's,
    https://arxiv.org/abs/2503.20783.

    Args:
        rewards_PG: of every answer.
        scale: "group" for the spread of the group, "batch" for `of_step`, "none" for none.
        of_step: the spread of all rewards of the step.
    """
    advantages_PG = rewards_PG - rewards_PG.nanmean(1, keepdim=True)
    if scale == "group":
        advantages_PG = advantages_PG / (spread(rewards_PG, 1) + LEAST)
    elif scale == "batch":
        assert of_step is not None
        advantages_PG = advantages_PG / (of_step + LEAST)
    return advantages_PG.nan_to_num(nan=0.0)


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """Rewards less the mean of the other answers of the group.

    Paper: Back to Basics, https://arxiv.org/abs/2402.14740, section 3.
    """
    others_P1 = (~rewards_PG.isnan()).sum(1, keepdim=True) - 1
    sums_P1 = rewards_PG.nansum(1, keepdim=True)
    baseline_PG = (sums_P1 - rewards_PG) / torch.where(others_P1 > 0, others_P1, math.nan)
    return (rewards_PG - baseline_PG).nan_to_num(nan=0.0)


def alike(rewards_PG: Tensor) -> Tensor:
    """Which groups have nothing to compare: all their answers are worth the same; shape P."""
    return spread(rewards_PG, 1).squeeze(1) < 1e-8
