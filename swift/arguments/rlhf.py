"""Options of `swift rlhf`: those of `swift sft`, and what preferences need besides."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option
from swift.arguments.gkd import DistillationOptions
from swift.arguments.reinforcement import METHODS, ReinforcementOptions
from swift.arguments.rollout import RolloutOptions
from swift.arguments.sft import SftArguments

LOSS_TYPES = {
    "dpo": (
        "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
        "aot_pair", "apo_zero", "apo_down", "discopop", "kto_pair",
    ),
    "orpo": ("orpo",),
    "simpo": ("simpo",),
    "cpo": ("sigmoid", "hinge", "ipo", "simpo"),
    "kto": ("kto", "apo_zero_unpaired"),
}  # fmt: skip
"""The losses of every method; the first is its own."""
GROUP = "Preference"
REWARD, DISTILLATION = "rm", "gkd"
TYPES = (*LOSS_TYPES, *METHODS, REWARD, DISTILLATION)

GONE = {
    "ppo": (
        "it trains a critic in step with the model, and TRL, whose trainer it was, dropped it after 1.12",
        "the same rewards without a critic: swift rlhf --rlhf_type rloo --reward_funcs math, or --rlhf_type grpo",
    )
}
"""Methods that people look for here: why there are none, and what to type."""


@dataclass(kw_only=True)
class RLHFArguments(DistillationOptions, ReinforcementOptions, RolloutOptions, SftArguments):
    """Train a model on preferences (DPO, ORPO, SimPO, CPO, KTO), rewards (GRPO, RLOO), from a teacher, or to judge."""

    rlhf_type: str = option(
        "dpo",
        group=GROUP,
        choices=TYPES,
        gone=GONE,
        help="The method; grpo and rloo learn from rewards, rm is a reward model, gkd learns from a teacher.",
    )
    loss_type: str | None = option(
        None,
        group=GROUP,
        choices=tuple(dict.fromkeys(name for names in (LOSS_TYPES | METHODS).values() for name in names)),
        help="The loss of the method.",
        none="sigmoid for dpo and cpo; the others have their own",
    )
    beta: float | None = option(
        None,
        group=GROUP,
        minimum=0,
        help="How much a change of log-probability counts; of ORPO, the weight of the odds ratio; of GKD, 0 is the "
        "divergence of the teacher from the student, 1 that of the student from the teacher; of grpo and rloo, the "
        "weight of the divergence from the reference, 0 is without.",
        none="0.1, 2.0 for simpo, 0.5 for gkd, 0 for grpo, and 0.05 for rloo",
    )
    label_smoothing: float = option(
        0.0, group=GROUP, minimum=0, maximum=0.5, help="The share of pairs that are taken to be the wrong way round."
    )
    rpo_alpha: float | None = option(
        None,
        group=GROUP,
        minimum=0,
        help="Of dpo: the weight of the chosen answer's cross-entropy, which is added to the loss; 0 is DPO alone.",
        none="1.0, or 0 with --sft_beta",
    )
    sft_beta: float | None = option(
        None,
        group=GROUP,
        minimum=0,
        maximum=1,
        help="Of dpo: the share of the chosen answer's cross-entropy in the loss, in place of --rpo_alpha.",
        none="--rpo_alpha says",
    )
    cpo_alpha: float | None = option(
        None,
        group=GROUP,
        minimum=0,
        help="Of cpo and simpo: the weight of the chosen answer's cross-entropy, which is added to the loss.",
        none="1.0 for cpo, 0 for simpo",
    )
    simpo_gamma: float = option(
        1.0, group=GROUP, minimum=0, help="Of the loss simpo: how far apart the two answers are to come."
    )
    discopop_tau: float = option(
        0.05, group=GROUP, minimum=1e-6, help="Of the loss discopop: how sharply it changes from one part to the other."
    )
    desirable_weight: float = option(1.0, group=GROUP, minimum=0, help="Of kto: the weight of good answers.")
    undesirable_weight: float = option(1.0, group=GROUP, minimum=0, help="Of kto: the weight of bad answers.")
    max_prompt_length: int = option(
        1024,
        group=GROUP,
        minimum=1,
        unit="tokens",
        help="Where a prompt with an answer is longer than --max_length, so much of the prompt's end is kept.",
    )
    share_prompts: bool = option(
        False,
        group=GROUP,
        help="Compute a prompt once for both of its answers, where the model can; it must be shown to be exact.",
    )
    ref_model_id_or_path: str | None = option(
        None,
        group=GROUP,
        help="The model that changes are measured against.",
        none="the model as it was: tuners are turned off, and of `full` a second copy is kept",
    )
    ref_model_type: str | None = option(
        None, group=GROUP, help="The same by its registered name.", none="--ref_model_id_or_path says"
    )
    ref_model_revision: str | None = option(
        None, group=GROUP, help="A branch, tag or commit of the reference.", none="the newest"
    )
    precompute_ref_log_probs: bool = option(
        False,
        group=GROUP,
        help="Compute what the reference says of all rows before training, and keep it for later runs on the same.",
    )
    precompute_ref_batch_size: int | None = option(
        None, group=GROUP, minimum=1, unit="rows", help="Rows at a time in that.", none="--eval_batch_size"
    )
    center_rewards_coefficient: float = option(
        0.0, group=GROUP, minimum=0, help="Of rm: the weight of what keeps the rewards of a pair around 0."
    )
