"""Learning from rewards on the road of `swift.commands.training`: `swift rlhf --rlhf_type grpo` and `rloo`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from swift.arguments.rlhf import RLHFArguments
from swift.commands.chosen import load_plugin
from swift.commands.ready import Data
from swift.commands.reward_model import RewardModel
from swift.commands.rlhf import make_reference, source_pad
from swift.commands.rows import load_rows
from swift.commands.task import Task
from swift.inference.settings import generation_config
from swift.log import get_logger
from swift.models.source import ModelSource
from swift.reinforcement.decide import decide_reinforcement
from swift.reinforcement.loss import Settings
from swift.reinforcement.method import Method
from swift.reinforcement.rewards import Reward, check_columns, find_rewards
from swift.reinforcement.rows import encode_prompts, prompt_length
from swift.reinforcement.trainer import ReinforcementTrainer
from swift.reinforcement.written import collate
from swift.templates.template import Template
from swift.templates.tokens import safe_decode

logger = get_logger()


def rewards_of(args: RLHFArguments) -> list[Reward]:
    """The functions that say what answers are worth."""
    load, longest = partial(load_plugin, option="reward_funcs"), args.max_new_tokens
    found = find_rewards(args.reward_funcs, args.reward_weights, longest, load)
    if args.reward_model is None:
        return found
    weight = args.reward_weights[-1] if args.reward_weights else 1.0
    return [*found, Reward("reward_model", RewardModel(args.reward_model), weight, longest)]


def read_prompts(args: RLHFArguments, template: Template) -> Data:
    """Read, split and encode the data sets as prompts; their rewards find what they look at."""
    rewards = rewards_of(args)
    loaded = load_rows(args)
    longest = prompt_length(template.max_length, args.max_new_tokens)
    parts: dict[str, Any] = {
        part: encode_prompts(rows, template, longest, loaded.ledger, part) for part, rows in loaded.parts()
    }
    check_columns(rewards, parts["train"])
    for prompts in parts.values():
        prompts.times = args.num_iterations
    return Data(parts["train"], parts.get("validation"), loaded.ledger)


def show_prompt(template: Template, data: Data) -> str:
    """The first prompt as the model meets it, and what else its row says."""
    rows: Any = data.train
    prompt = rows[0]
    told = [f"[{name}] {str(value)[:200]}" for name, value in prompt.columns.items()]
    return "\n".join([f"[PROMPT] {safe_decode(template.tokenizer, prompt.ids.tolist())}", *told])


def method_of(args: RLHFArguments) -> Method:
    """How is learnt, of decided options."""
    assert args.beta is not None
    assert args.epsilon_high is not None
    settings = Settings(str(args.loss_type), args.beta, args.epsilon, args.epsilon_high, args.max_new_tokens)
    return Method(
        args.rlhf_type,
        settings,
        args.num_generations,
        args.num_iterations,
        args.scale_rewards or "none",
        args.mask_truncated_completions,
        generation_config(args),
    )


def further(args: RLHFArguments, source: ModelSource, model: torch.nn.Module, data: Data) -> Mapping[str, Any]:
    """What the trainer is given besides."""
    method = method_of(args)
    rewards = [
        replace(reward, digest=reward.function.digest) if isinstance(reward.function, RewardModel) else reward
        for reward in rewards_of(args)
    ]
    logger.info(describe(method, rewards))
    return {
        "method": method,
        "rewards": rewards,
        "reference": make_reference(args, source, model) if method.settings.beta else None,
        "data_collator": collate,
        "pad_id": source_pad(model),
    }


def describe(method: Method, rewards: list[Reward]) -> str:
    """Rewards and loss in a line."""
    worth = " + ".join(f"{reward.weight:g} x {reward.name}" for reward in rewards)
    s = method.settings
    loss = method.name if s.loss == method.name else f"{method.name}, {s.loss}"
    return f"rewards: {worth}; {method.answers} answers to each prompt; loss: {loss} (beta {s.beta:g})"


def unsized(args: RLHFArguments, source: ModelSource) -> str:
    """Why memory and disk cannot be estimated."""
    return "how long answers become is not known before"


def trainer_of(model: torch.nn.Module) -> type[ReinforcementTrainer]:
    """The trainer of answers with rewards."""
    return ReinforcementTrainer


REINFORCEMENT = Task(
    "rlhf",
    RLHFArguments,
    decide=decide_reinforcement,
    read=read_prompts,
    show=show_prompt,
    trainer=trainer_of,
    further=further,
    of_verb=("rlhf_type",),
    unsized=unsized,
)
