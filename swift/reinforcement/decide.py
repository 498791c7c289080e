"""Said -> decided, for learning from rewards: as `swift.decide` does it for all training."""

from __future__ import annotations

from dataclasses import replace

from swift.arguments.fields import options_of
from swift.arguments.reinforcement import GROUP, METHODS, ReinforcementOptions
from swift.arguments.rlhf import RLHFArguments
from swift.arguments.sft import SftArguments
from swift.decide import decide_beside, decide_loss_scale, unlike_reference
from swift.dist import Hardware
from swift.errors import ConfigError, SwiftError, UsageError
from swift.models.source import ModelSource

SHARED = ("rlhf_type", "loss_type", "beta", "ref_model_id_or_path", "ref_model_type", "ref_model_revision")
"""Options of other methods that count here too."""
BETA = {"grpo": 0.0, "rloo": 0.05}
REFUSED = {
    "packing": "--padding_free true goes without padding",
    "loss_name": "--loss_type says the loss",
    "metrics": "rewards are logged",
    "predict_with_generate": "evaluation writes answers as it is",
    "deepspeed": "each process holds its model",
    "fsdp": "each process holds its model",
    "use_galore": "--sft_type lora needs as little memory",
    "lisa_activated_layers": "--sft_type lora needs as little memory",
    "streaming": "drop it: prompts are small",
    "lazy_tokenize": "drop it: prompts are small",
    "max_tokens_per_batch": "--batch_size counts prompts, each with all its answers",
    "train_on_prompt": "only answers are learnt",
    "do_sample": "true: answers to a prompt that are all the same teach nothing",
}
"""Options of `swift sft` that do not go with rewards, and what to do; `do_sample` is refused where it is off."""


def decide_reinforcement(said: RLHFArguments, hardware: Hardware, source: ModelSource) -> RLHFArguments:
    """The options of a run, with nothing left open but its directory.

    Raises:
        ConfigError: options contradict each other or the method; all contradictions at once.
    """
    errors = [*_of_other_methods(said), *_wrong_loss(said), *_unrewarded(said), *_contradictions(said)]
    args = decide_beside(errors, said, hardware, source)
    return replace(
        args,
        group_by_length=False,
        loss_type=args.loss_type or METHODS[args.rlhf_type][0],
        beta=BETA[args.rlhf_type] if args.beta is None else args.beta,
        epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        scale_rewards=args.scale_rewards or ("group" if args.rlhf_type == "grpo" else None),
    )


def only_for_rewards(args: RLHFArguments) -> list[SwiftError]:
    """What was said of rewards where there are none."""
    options = options_of(ReinforcementOptions)
    said = [name for name, info in options.items() if getattr(args, name) != info.default]
    return [_conflict(f"--{name} is for {' and '.join(METHODS)}, not for {args.rlhf_type}", "drop it") for name in said]


def _of_other_methods(args: RLHFArguments) -> list[SwiftError]:
    own = options_of(SftArguments).keys() | set(SHARED)
    others = [info for name, info in options_of(RLHFArguments).items() if name not in own and info.group != GROUP]
    said = [info.name for info in others if getattr(args, info.name) != info.default]
    return [_conflict(f"--{name} has no meaning for {args.rlhf_type}", "drop it") for name in said]


def _wrong_loss(args: RLHFArguments) -> list[SwiftError]:
    known = METHODS[args.rlhf_type]
    if args.loss_type in (None, *known):
        return []
    fix = f"one of: {', '.join(known)}"
    return [UsageError("USAGE-02", f"--loss_type {args.loss_type} is no loss of {args.rlhf_type}", fix=fix)]


def _unrewarded(args: RLHFArguments) -> list[SwiftError]:
    if not args.reward_funcs and not args.reward_model:
        fix = "--reward_funcs exact_match, math, format, length or rewards.py:function; or --reward_model"
        return [UsageError("USAGE-03", f"{args.rlhf_type} needs to know what answers are worth", fix=fix)]
    count = len(args.reward_funcs) + bool(args.reward_model)
    if args.reward_weights and len(args.reward_weights) != count:
        what = f"{len(args.reward_weights)} --reward_weights for {count} rewards"
        return [_conflict(what, "one for each, in their order")]
    return []


def _contradictions(args: RLHFArguments) -> list[SwiftError]:
    errors: list[SwiftError] = []
    for name, fix in REFUSED.items():
        value = getattr(args, name)
        if (not value) if name == "do_sample" else value:
            off = " false" if name == "do_sample" else ""
            errors.append(_conflict(f"--{name}{off} does not go with {args.rlhf_type}", fix))
    if args.temperature == 0:
        errors.append(_conflict("--temperature 0 writes the same answer each time", "--temperature 1.0"))
    if args.num_beams > 1 or args.repetition_penalty != 1:
        name = "num_beams" if args.num_beams > 1 else "repetition_penalty"
        errors.append(_conflict(f"--{name}: answers are to be the model's own", "drop it"))
    if 0 < args.max_length <= args.max_new_tokens:
        what = f"--max_length {args.max_length} is for a prompt with its answer of {args.max_new_tokens} tokens"
        errors.append(_conflict(what, "a larger --max_length, or a smaller --max_new_tokens"))
    if not args.train_on_prompt and decide_loss_scale(args) != "default":
        errors.append(_conflict("all tokens of an answer count alike", "drop --loss_scale"))
    if args.tensor_parallel_size > 1:
        errors.append(_conflict("--tensor_parallel_size does not go with rewards", "each process holds its model"))
    if args.rlhf_type == "rloo" and args.scale_rewards:
        errors.append(_conflict("--scale_rewards is for grpo: rloo takes differences as they are", "drop it"))
    if args.ref_model_revision and not (args.ref_model_id_or_path or args.ref_model_type):
        what = "--ref_model_revision is of a model that --ref_model_id_or_path names"
        errors.append(_conflict(what, "name it, or drop it"))
    if (BETA[args.rlhf_type] if args.beta is None else args.beta) > 0:
        errors += unlike_reference(args)
    else:
        named = [name for name in SHARED[3:] if getattr(args, name)]
        errors += [_conflict(f"--{name} is looked at with --beta above 0", "--beta 0.04") for name in named[:1]]
    return errors


def _conflict(what: str, fix: str) -> ConfigError:
    return ConfigError("CONFIG-02", what, fix=fix)
