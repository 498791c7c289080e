"""How is learnt from rewards, of decided options."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from transformers import GenerationConfig

from swift.reinforcement.loss import Settings


@dataclass(frozen=True)
class Method:
    """How is learnt from rewards.

    Attributes:
        name: grpo or rloo.
        settings: of the loss.
        answers: to each prompt.
        iterations: steps on the same answers.
        scale: the spread that advantages are divided by; of rloo "none".
        masks_truncated: whether answers that were cut off are not learnt.
        sampling: how answers are written.
    """

    name: str
    settings: Settings
    answers: int
    iterations: int
    scale: str
    masks_truncated: bool
    sampling: GenerationConfig

    @property
    def temperature(self) -> float:
        """What logits are divided by, where answers are written and where they are learnt."""
        return float(self.sampling.temperature or 1.0)

    @property
    def in_rewards(self) -> bool:
        """Whether the divergence from the reference is taken off the rewards, and not off the loss."""
        return self.name == "rloo"

    def told(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        sampling = {name: getattr(self.sampling, name) for name in ("temperature", "top_k", "top_p", "max_new_tokens")}
        own = {name: value for name, value in vars(self).items() if name not in ("settings", "sampling", "name")}
        return {"rlhf_type": self.name, **asdict(self.settings), **own, **sampling}
