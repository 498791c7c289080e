"""Sampling from a seed of one's own: what others draw in the same process changes nothing."""

from __future__ import annotations

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


class SeededDraw(LogitsProcessor):
    """Draws each token itself, from scores warped as `config` says, and leaves only that one to choose.

    Transformers draws from the one generator of the process; this has its own, so that an answer depends on its seed
    and not on who else is being answered. `generate` must then run without sampling: see `take_over`.

    Args:
        config: whose temperature, top_k, top_p and min_p count, in this order.
        seed: of the generator; one row has one.
    """

    def __init__(self, config: GenerationConfig, seed: int) -> None:
        self.seed, self.generator = seed, None
        self.warpers = LogitsProcessorList()
        if config.temperature not in (None, 1.0):
            self.warpers.append(TemperatureLogitsWarper(float(config.temperature)))
        if config.top_k:
            self.warpers.append(TopKLogitsWarper(config.top_k))
        if config.top_p is not None and config.top_p < 1:
            self.warpers.append(TopPLogitsWarper(config.top_p))
        if config.min_p is not None:
            self.warpers.append(MinPLogitsWarper(config.min_p))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (B, V) that are 0 at the token drawn and -inf elsewhere."""
        if self.generator is None:
            self.generator = torch.Generator(scores.device).manual_seed(self.seed)
        probabilities_BV = self.warpers(input_ids, scores).float().softmax(-1)
        drawn_B1 = torch.multinomial(probabilities_BV, 1, generator=self.generator)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn_B1, 0.0)  # type: ignore[return-value]


def take_over(config: GenerationConfig, seed: int | None) -> list[LogitsProcessor]:
    """The processors that sample as `config` says from `seed`, and turn its own sampling off; none without either."""
    if seed is None or not config.do_sample:
        return []
    draw = SeededDraw(config, seed)
    config.do_sample, config.temperature, config.top_p, config.top_k, config.min_p = False, 1.0, 1.0, 50, None
    return [draw]
