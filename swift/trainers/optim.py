"""Which optimiser a run has: those of tuners and of our own first, else transformers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from swift.trainers import saving
from swift.trainers.arguments import OwnTrainingArguments
from swift.trainers.muon import ADAM_MINI, MUON, Muon
from swift.trainers.optimizers import create_galore_optimizer
from swift.trainers.packaged import adam_mini, apollo, is_apollo

OWN_GROUPS = {"params", "model", "optimizer_dict"}  # what an optimiser that makes its own groups is given

Choose = Callable[[Any, Any], tuple[Any, dict[str, Any]]]
"""Transformers' choice for arguments and a model: a class and its options."""


def own_optimizer(args: OwnTrainingArguments, model: nn.Module, choose: Choose) -> Optimizer | None:
    """The optimiser where a tuner or an option asks for a special one, None where transformers makes it."""
    rate, decay = args.learning_rate, args.weight_decay
    if args.galore_config is not None:
        kind, options = choose(args, model)
        options = {**options, "weight_decay": decay, "max_grad_norm": args.max_grad_norm}
        return create_galore_optimizer(model, args.galore_config, kind, **options)
    if args.own_optim == MUON:
        return Muon(model, rate, decay, (args.adam_beta1, args.adam_beta2), args.adam_epsilon)
    if args.own_optim == ADAM_MINI:
        return adam_mini(args, model)
    if is_apollo(args):
        return apollo(args, model)
    groups = saving.tuner_groups(model, rate, decay)
    if groups is None:
        return None
    kind, options = choose(args, model)
    return None if OWN_GROUPS & options.keys() else kind(groups, **options)


def any_optimizer(args: OwnTrainingArguments, model: nn.Module, choose: Choose) -> Optimizer:
    """The optimiser, of whatever kind; weight decay is on all parameters alike."""
    made = own_optimizer(args, model, choose)
    if made is not None:
        return made
    kind, options = choose(args, model)
    if "optimizer_dict" in options:  # one for each parameter
        options = {name: value for name, value in options.items() if name != "optimizer_dict"}
    groups = options.pop("params", None) or [p for p in model.parameters() if p.requires_grad]
    return kind(**options) if "model" in options else kind(groups, **options)
