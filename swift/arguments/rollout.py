"""How answers are sampled that a model learns from."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option
from swift.arguments.generation import SamplingOptions


@dataclass(kw_only=True)
class RolloutOptions(SamplingOptions):
    """How answers are sampled while training: as the model's own probabilities are, unless said."""

    max_new_tokens: int = option(512, group="Generation", minimum=1, unit="tokens", help="Longest answer.")
    temperature: float = option(1.0, group="Generation", minimum=0, help="How freely to sample; 0 is not at all.")
    top_k: int = option(0, group="Generation", minimum=0, help="Sample among the k likeliest tokens; 0 is all.")
    top_p: float = option(
        1.0, group="Generation", minimum=0, maximum=1, help="Sample among the likeliest tokens up to this probability."
    )
