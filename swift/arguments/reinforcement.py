"""Options of `swift rlhf --rlhf_type grpo` and `rloo`: answers of the model's own, and what they are worth."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option

GROUP = "Reinforcement"
METHODS = {"grpo": ("grpo", "bnpo", "dr_grpo", "dapo"), "rloo": ("rloo",)}
"""The methods with the losses of each, of which the first is its own."""


@dataclass(kw_only=True)
class ReinforcementOptions:
    """Rewards of answers, and how the model is moved towards better ones."""

    reward_funcs: list[str] = option(
        [],
        group=GROUP,
        help="What answers are worth: exact_match, math, format, length, or a function of a Python file, as "
        "`rewards.py:function`.",
    )
    reward_model: str | None = option(
        None,
        group=GROUP,
        help="A trained reward model that says what answers are worth, alone or beside --reward_funcs.",
        none="--reward_funcs say",
    )
    reward_weights: list[float] = option(
        [],
        group=GROUP,
        help="The weight of each, in the order of --reward_funcs, then of --reward_model; 1 for all unless said.",
    )
    num_generations: int = option(
        8, group=GROUP, minimum=2, help="Answers to each prompt, which are compared with each other."
    )
    num_iterations: int = option(
        1, group=GROUP, minimum=1, unit="steps", help="Steps that are made with the same answers."
    )
    epsilon: float = option(
        0.2,
        group=GROUP,
        minimum=0,
        help="How much likelier or unlikelier than when it was written an answer may become before it counts no more.",
    )
    epsilon_high: float | None = option(
        None, group=GROUP, minimum=0, help="The same for likelier alone.", none="--epsilon"
    )
    scale_rewards: str | None = option(
        None,
        group=GROUP,
        choices=("group", "batch", "none"),
        help="Of grpo: divide advantages by the spread of rewards in the group, by that of the whole step, or not.",
        none="group",
    )
    mask_truncated_completions: bool = option(
        False, group=GROUP, help="Learn nothing of answers that were cut off at --max_new_tokens."
    )
