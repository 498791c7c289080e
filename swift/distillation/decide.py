"""Said -> decided, for learning from a teacher: as `swift.decide` does it for all training."""

from __future__ import annotations

from dataclasses import replace

from swift.arguments import gkd
from swift.arguments.engines import cuts_weights
from swift.arguments.fields import options_of
from swift.arguments.rlhf import GROUP, RLHFArguments
from swift.decide import decide_beside
from swift.dist import Hardware
from swift.errors import ConfigError, SwiftError, UsageError
from swift.models.source import ModelSource
from swift.reinforcement.decide import only_for_rewards

OWN = ("rlhf_type", "beta")
NOT_TOGETHER = {
    "loss_name": "the loss is the divergence from the teacher",
    "new_special_tokens": "the teacher does not know them",
    "tuner_backend": "it brings a loss of its own: drop it",
}
"""Options of `swift sft` that do not go with a teacher, and why."""


def said_of(args: RLHFArguments, *groups: str) -> list[str]:
    """The options of some groups that were said, without those that every method has."""
    infos = options_of(RLHFArguments).values()
    return [
        info.name
        for info in infos
        if info.group in groups and info.name not in OWN and getattr(args, info.name) != info.default
    ]


def only_for_gkd(args: RLHFArguments) -> list[SwiftError]:
    """What was said of a teacher where there is none."""
    return [_conflict(f"--{name} is for gkd, not for {args.rlhf_type}", "drop it") for name in said_of(args, gkd.GROUP)]


def decide_gkd(said: RLHFArguments, hardware: Hardware, source: ModelSource) -> RLHFArguments:
    """The options of a run, with nothing left open but its directory.

    Raises:
        ConfigError: options contradict each other or the method; all contradictions at once.
    """
    errors = [*_contradictions(said), *only_for_rewards(said)]
    args = decide_beside(errors, said, hardware, source)
    return replace(args, beta=0.5 if args.beta is None else args.beta)


def _contradictions(args: RLHFArguments) -> list[SwiftError]:
    errors: list[SwiftError] = [
        _conflict(f"--{name} has no meaning for gkd", "drop it") for name in said_of(args, GROUP)
    ]
    if not args.teacher_model:
        errors.append(UsageError("USAGE-03", "--teacher_model is missing", fix="a larger model of the same family"))
    if args.beta is not None and args.beta > 1:
        what = f"--beta {args.beta:g} is above 1: of gkd it is a place between the teacher (0) and the student (1)"
        errors.append(UsageError("USAGE-02", what, fix="--beta 0.5"))
    defaults = options_of(RLHFArguments)
    for name, why in NOT_TOGETHER.items():
        if getattr(args, name) != defaults[name].default:
            errors.append(_conflict(f"--{name} does not go with a teacher", why))
    if args.tensor_parallel_size > 1:
        errors.append(_conflict("--tensor_parallel_size does not go with a teacher", "--deepspeed or --fsdp share"))
    if "label_smoothing_factor" in args.training_options:
        errors.append(_conflict("label_smoothing_factor smooths targets, and a teacher has none", "drop it"))
    return [*errors, *_written_contradictions(args)]


def _written_contradictions(args: RLHFArguments) -> list[SwiftError]:
    """What does not go with answers that are written while training."""
    if args.lmbda == 0 and not args.seq_kd:
        return []
    errors: list[SwiftError] = []
    if args.packing:
        errors.append(_conflict("--packing packs answers of the data, and new ones are written", "--padding_free true"))
    if args.max_tokens_per_batch:
        what = "--max_tokens_per_batch counts answers of the data, and new ones are written"
        errors.append(_conflict(what, "--batch_size 8, or --lmbda 0 without --seq_kd"))
    if args.lmbda > 0 and (args.fsdp or cuts_weights(args.deepspeed)):
        engine = "fsdp" if args.fsdp else "deepspeed"
        what = f"--lmbda {args.lmbda:g}: who writes answers needs its whole model, which --{engine} shares"
        errors.append(_conflict(what, "--lmbda 0, or --deepspeed default-zero2"))
    return errors


def _conflict(what: str, fix: str) -> ConfigError:
    return ConfigError("CONFIG-02", what, fix=fix)
