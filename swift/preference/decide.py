"""Said -> decided, for preference training: as `swift.decide` does it for all training."""

from __future__ import annotations

from dataclasses import replace

from swift.arguments.engines import cuts_weights
from swift.arguments.fields import options_of
from swift.arguments.rlhf import LOSS_TYPES, RLHFArguments
from swift.decide import decide_beside, decide_loss_scale, unlike_reference
from swift.dist import Hardware
from swift.distillation.decide import only_for_gkd
from swift.errors import ConfigError, SwiftError, UsageError
from swift.models.source import ModelSource
from swift.preference.losses import PAIR_LOSSES
from swift.reinforcement.decide import only_for_rewards

ONLY = {
    "rpo_alpha": ("dpo",),
    "sft_beta": ("dpo",),
    "cpo_alpha": ("cpo", "simpo"),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "ref_model_id_or_path": ("dpo", "kto"),
    "ref_model_type": ("dpo", "kto"),
    "precompute_ref_log_probs": ("dpo", "kto"),
    "share_prompts": ("dpo", "orpo", "simpo", "cpo"),
}
"""Options that only some methods look at."""
SMOOTHED = {
    "dpo": ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired", "aot_pair"),
    "simpo": ("simpo",),
    "cpo": ("sigmoid", "simpo"),
}
OF_LOSS = {
    "label_smoothing": SMOOTHED,
    "simpo_gamma": {"simpo": ("simpo",), "cpo": ("simpo",)},
    "discopop_tau": {"dpo": ("discopop",)},
}
"""Options that only some losses of a method look at."""
NOT_TOGETHER = {
    "packing": "a pack would part pairs: --padding_free true goes without padding",
    "loss_name": "--loss_type says the loss",
    "metrics": "rewards and log-probabilities are logged",
    "predict_with_generate": "swift eval measures the checkpoints",
    "use_galore": "--sft_type lora needs as little memory",
    "lisa_activated_layers": "--sft_type lora needs as little memory",
}
"""Options of `swift sft` that do not go with preferences, and what to do."""


def decide_rlhf(said: RLHFArguments, hardware: Hardware, source: ModelSource) -> RLHFArguments:
    """The options of a run, with nothing left open but its directory.

    Raises:
        ConfigError: options contradict each other or the method; all contradictions at once.
    """
    errors = [*_wrong_loss(said), *only_for_gkd(said), *only_for_rewards(said), *_contradictions(said)]
    args = decide_beside(errors, said, hardware, source)
    method = args.rlhf_type
    rpo = args.rpo_alpha if args.rpo_alpha is not None else (0.0 if args.sft_beta is not None else 1.0)
    return replace(
        args,
        loss_type=args.loss_type or LOSS_TYPES[method][0],
        fused_lora=args.fused_lora and not cuts_weights(args.deepspeed),  # a pass without tuners lets its base go
        beta=args.beta if args.beta is not None else (2.0 if method == "simpo" else 0.1),
        rpo_alpha=rpo if method == "dpo" else None,
        cpo_alpha={"cpo": 1.0, "simpo": 0.0}.get(method) if args.cpo_alpha is None else args.cpo_alpha,
        precompute_ref_batch_size=args.precompute_ref_batch_size or args.eval_batch_size,
    )


def _wrong_loss(args: RLHFArguments) -> list[SwiftError]:
    known = LOSS_TYPES.get(args.rlhf_type, ())
    if not known or args.loss_type in (None, *known):
        return []
    fix = f"one of: {', '.join(known)}"
    return [UsageError("USAGE-02", f"--loss_type {args.loss_type} is no loss of {args.rlhf_type}", fix=fix)]


def _contradictions(args: RLHFArguments) -> list[SwiftError]:
    errors: list[SwiftError] = []
    options = options_of(RLHFArguments)
    for name, methods in ONLY.items():
        if getattr(args, name) != options[name].default and args.rlhf_type not in methods:
            errors.append(_conflict(f"--{name} is for {' and '.join(methods)}, not for {args.rlhf_type}", "drop it"))
    loss = _loss(args)
    for name, losses in OF_LOSS.items():
        if getattr(args, name) != options[name].default and loss not in losses.get(args.rlhf_type, ()):
            errors.append(_conflict(f"--{name} is not looked at by the loss {loss} of {args.rlhf_type}", "drop it"))
    for name, why in NOT_TOGETHER.items():
        if getattr(args, name):
            errors.append(_conflict(f"--{name} does not go with preferences", why))
    if args.tensor_parallel_size > 1:
        errors.append(_conflict("--tensor_parallel_size does not go with preferences", "each process holds its model"))
    if args.train_on_prompt or decide_loss_scale(replace(args, train_on_prompt=False)) != "default":
        errors.append(_conflict("of a preference the last answer counts, all its tokens alike", "drop --loss_scale"))
    if args.rpo_alpha and args.sft_beta is not None:
        errors.append(
            _conflict("--rpo_alpha and --sft_beta both say how much cross-entropy counts", "drop one of them")
        )
    if args.loss_type == "exo_pair" and args.label_smoothing == 0:
        errors.append(_conflict("--loss_type exo_pair needs --label_smoothing above 0", "--label_smoothing 0.001"))
    if args.loss_type in ("exo_pair", "robust") and args.label_smoothing >= 0.5:
        errors.append(_conflict(f"--loss_type {args.loss_type} needs --label_smoothing below 0.5", "0.1"))
    if args.beta == 0 and args.loss_type in ("ipo", "sppo_hard"):
        errors.append(_conflict(f"--loss_type {args.loss_type} divides by --beta", "--beta 0.1"))
    if args.max_tokens_per_batch and not args.padding_free:
        errors.append(_conflict("--max_tokens_per_batch counts tokens without padding here", "--padding_free true"))
    if args.fsdp and args.precompute_ref_log_probs:
        what = "--precompute_ref_log_probs asks the model as a whole, which --fsdp has cut by then"
        errors.append(_conflict(what, "drop one of the two: the reference is asked in every step then"))
    if "label_smoothing_factor" in args.training_options:
        what = "label_smoothing_factor in --training_options smooths tokens, and preferences are of whole answers"
        errors.append(_conflict(what, "--label_smoothing"))
    return [*errors, *_reference_contradictions(args), *_batch_contradictions(args), *_late_contradictions(args)]


def _loss(args: RLHFArguments) -> str:
    return args.loss_type or LOSS_TYPES.get(args.rlhf_type, ("",))[0]


def _reference_contradictions(args: RLHFArguments) -> list[SwiftError]:
    row = PAIR_LOSSES.get(args.rlhf_type, {}).get(_loss(args))
    unlike = unlike_reference(args) if args.rlhf_type == "kto" or (row is not None and row.reference) else []
    return [*unlike, *_named_contradictions(args)]


def _named_contradictions(args: RLHFArguments) -> list[SwiftError]:
    if args.ref_model_revision and not names_reference(args):
        return [
            _conflict("--ref_model_revision is of a model that --ref_model_id_or_path names", "name it, or drop it")
        ]
    if args.new_special_tokens and names_reference(args):
        what = "--new_special_tokens makes tokens that the model of --ref_model_id_or_path does not know"
        return [_conflict(what, "drop one of the two: without another model the reference has their rows too")]
    return []


def _batch_contradictions(args: RLHFArguments) -> list[SwiftError]:
    rows = PAIR_LOSSES.get(args.rlhf_type, {})
    row = rows.get(args.loss_type or "")
    if row is not None and row.couples and args.batch_size < 2 and not args.max_tokens_per_batch:
        what = f"--loss_type {args.loss_type} compares the pairs of a batch with each other"
        return [_conflict(what, "--batch_size 8")]
    return []


def _late_contradictions(args: RLHFArguments) -> list[SwiftError]:
    """What needs all rows, where they are not known before."""
    errors: list[SwiftError] = []
    for name in ("streaming", "lazy_tokenize"):
        if getattr(args, name) and (args.rlhf_type == "kto" or args.precompute_ref_log_probs):
            what = "kto" if args.rlhf_type == "kto" else "--precompute_ref_log_probs"
            errors.append(_conflict(f"{what} needs all rows beforehand, which --{name} does not know", "drop one"))
    return errors


def names_reference(args: RLHFArguments) -> bool:
    """Whether another model is named to measure against."""
    return bool(args.ref_model_id_or_path or args.ref_model_type)


def _conflict(what: str, fix: str) -> ConfigError:
    return ConfigError("CONFIG-02", what, fix=fix)
