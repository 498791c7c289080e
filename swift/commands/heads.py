"""Training of heads on the road of `swift.commands.training`.

`swift sft --task_type seq_cls|embedding|reranker`, and reward models by `swift rlhf --rlhf_type rm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from swift.arguments.fields import options_of
from swift.arguments.heads import LOSSES
from swift.arguments.rlhf import GROUP, RLHFArguments
from swift.arguments.sft import SftArguments
from swift.commands.ready import Data, add_tuner, load_base
from swift.commands.rows import load_rows
from swift.commands.task import Task
from swift.datasets.groups import Group
from swift.decide import decide_sft, only_for_text
from swift.dist import Hardware
from swift.distillation.decide import only_for_gkd
from swift.errors import ConfigError, raise_all
from swift.heads.batch import collate
from swift.heads.files import Head, default_problem
from swift.heads.kinds import Classifier, Embedding, Kind, Reranker, Reward
from swift.heads.model import loading, settle
from swift.heads.rows import encode_groups
from swift.heads.trainer import HeadTrainer
from swift.models.source import ModelSource
from swift.reinforcement.decide import only_for_rewards
from swift.templates.template import Template
from swift.templates.tokens import safe_decode
from swift.trainers import saving


def head_of(args: SftArguments) -> Head:
    """The head that decided options mean, without the names of its labels."""
    if isinstance(args, RLHFArguments):
        return Head("reward")
    prefixes: dict[str, Any] = {"query_prefix": args.query_prefix, "document_prefix": args.document_prefix}
    if args.task_type == "embedding":
        return Head("embedding", 0, pooling=args.pooling, **prefixes)
    if args.task_type == "reranker":
        return Head("reranker", **prefixes)
    size = args.num_labels or 1
    return Head("seq_cls", size, args.problem_type or default_problem(size))


def kind_of(args: SftArguments, names: list[str]) -> Kind:
    """What reads rows and learns from them, as decided options say."""
    if isinstance(args, RLHFArguments):
        return Reward(args.center_rewards_coefficient)
    loss, prefixes = args.loss_name, (args.query_prefix, args.document_prefix)
    if args.task_type == "embedding":
        settings = (args.pooling, args.infonce_temperature, args.contrastive_margin)
        return Embedding(loss or LOSSES["embedding"][0], *settings, *prefixes)
    if args.task_type == "reranker":
        return Reranker(loss or LOSSES["reranker"][0], *prefixes)
    size = args.num_labels or 1
    return Classifier(size, args.problem_type or default_problem(size), names)


def read_groups(args: SftArguments, template: Template) -> Data:
    """Read, split and encode the data sets as texts and numbers."""
    loaded = load_rows(args)
    rows = [*loaded.train, *(loaded.val or [])]
    said = {name for row in rows for name in _names(row)}
    kind = kind_of(args, sorted(said)[: args.num_labels or 1])
    parts: dict[str, Any] = {
        part: encode_groups(rows, template, kind, loaded.ledger, part) for part, rows in loaded.parts()
    }
    for part in parts.values():
        part.names = kind.names if isinstance(kind, Classifier) else []
    return Data(parts["train"], parts.get("validation"), loaded.ledger)


def _names(row: Any) -> list[str]:
    """The labels of a row that are names."""
    label = row.get("label", row.get("labels"))
    items = label if isinstance(label, list | tuple) else [label]
    return [item for item in items if isinstance(item, str) and not item.strip().isdecimal()]


def show_groups(template: Template, data: Data) -> str:
    """The first row: its texts, and what is learnt of them."""
    rows: Any = data.train
    group: Group = rows[0]
    lines = [f"[TEXT {k}] {safe_decode(template.tokenizer, ids.tolist())}" for k, ids in enumerate(group.texts, 1)]
    return "\n".join([*lines, f"[LEARNT] {', '.join(f'{number:g}' for number in group.numbers)}"])


def prepare_head(args: SftArguments, source: ModelSource, new: list[int]) -> torch.nn.Module:
    """The model with a head, and what trains of it."""
    head = head_of(args)
    model = settle(load_base(args, source, new, **loading(head, fresh=True)), head, source)
    task_type = "embedding" if head.task_type == "embedding" else "seq_cls"
    return add_tuner(replace(args, task_type=task_type), model, source, new)


def further(args: SftArguments, source: ModelSource, model: Any, data: Data) -> Mapping[str, Any]:
    """What the trainer of heads is given besides."""
    rows: Any = data.train
    head, names = head_of(args), rows.names
    base: Any = saving.base_of(model)
    if head.num_labels > 1 and names:
        names = [*names, *(f"LABEL_{k}" for k in range(len(names), head.num_labels))]  # no row has those
        head.labels.extend(names)
        config = base.config
        config.id2label, config.label2id = dict(enumerate(names)), {name: k for k, name in enumerate(names)}
    pad_id = base.config.get_text_config().pad_token_id
    return {"kind": kind_of(args, names), "head": head, "data_collator": partial(collate, pad_id=pad_id)}


def not_estimated(args: SftArguments, source: ModelSource) -> str:
    """Why size and time are not told."""
    return "it is not told yet for models with a head"


HEADS = Task(
    "sft",
    SftArguments,
    read=read_groups,
    show=show_groups,
    prepare=prepare_head,
    trainer=lambda model: HeadTrainer,
    further=further,
    unsized=not_estimated,
)


def decide_rewards(said: RLHFArguments, hardware: Hardware, source: ModelSource) -> RLHFArguments:
    """The options of a reward model.

    Raises:
        ConfigError: one of them is of another method, or of models that write text.
    """
    decided = decide_sft(said, hardware, source)
    assert isinstance(decided, RLHFArguments)
    own = ("rlhf_type", "center_rewards_coefficient")
    preference = [info for info in options_of(RLHFArguments).values() if info.group == GROUP and info.name not in own]
    names = [info.name for info in preference if getattr(said, info.name) != info.default]
    names += only_for_text(decided) + ["loss_name"] * bool(said.loss_name)
    without = [ConfigError("CONFIG-02", f"--{name} has no meaning for a reward model", fix="drop it") for name in names]
    raise_all([*without, *only_for_gkd(said), *only_for_rewards(said)])
    return decided


REWARDS = replace(HEADS, verb="rlhf", arguments=RLHFArguments, decide=decide_rewards)
