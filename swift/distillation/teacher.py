"""The teacher: what it says of a batch, and whether it has the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from swift.distillation.divergence import Said, SaidByHead, SaidWhole
from swift.errors import ConfigError
from swift.preference.reference import Reference
from swift.trainers import saving
from swift.trainers.head import HeadLoss, find_head_loss, stand_in
from swift.trainers.loss import IGNORED, cross_entropy

INPUTS = ("input_ids", "attention_mask", "position_ids")


class Teacher(Reference):
    """A model that is learnt from, whole in every process.

    Args:
        model: with its adapters, if any.
        adapters: what tells these from others; None without.
        vocabulary: how many tokens are looked at; None is all that its head knows.
    """

    model: Any

    def __init__(self, model: Any, adapters: str | None = None, vocabulary: int | None = None) -> None:
        super().__init__(model)
        self.adapters, self.vocabulary = adapters, vocabulary
        found = find_head_loss(saving.base_of(model), cross_entropy)
        self.head = found if isinstance(found, HeadLoss) else None

    def told(self) -> str:
        """Which model it is, whatever that is called."""
        return f"{super().told()} {self.adapters or ''}".strip()

    @torch.no_grad()
    def says(self, batch: Mapping[str, Any]) -> Said:
        """What it says of the supervised tokens of a batch."""
        labels_BT = batch["labels"]
        on_BT = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORED) != IGNORED
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        width = labels_BT.shape[1]
        if self.head is None:
            logits_BTV = self.model(**inputs, use_cache=False).logits[:, -width:]
            return SaidWhole(logits_BTV[on_BT.to(logits_BTV.device)][:, : self.vocabulary])
        kept: list[Tensor] = []

        def keep(hidden_BTG: Tensor) -> Tensor:
            kept.append(hidden_BTG[:, -width:][on_BT.to(hidden_BTG.device)])
            return hidden_BTG.new_zeros(len(hidden_BTG), 1, 1)

        with stand_in(self.head.head, keep):
            self.model(**inputs, use_cache=False)
        return SaidByHead(kept[0], self.head.head, self.head.rule, self.vocabulary)


def check_vocabulary(
    own: PreTrainedTokenizerBase, own_size: int, other: PreTrainedTokenizerBase, other_size: int
) -> None:
    """Make sure that two models have the same tokens.

    Heads may have more rows than there are tokens, and one of them more than the other: those say nothing.

    Args:
        own: the tokenizer of the model that learns.
        own_size: the rows of its head.
        other: the teacher's tokenizer.
        other_size: the rows of the teacher's head.

    Raises:
        ConfigError: an id means one token here and another there.
    """
    mine, theirs = own.get_vocab(), other.get_vocab()
    if mine != theirs:
        odd = sorted(mine.items() ^ theirs.items(), key=lambda pair: pair[1])
        shown = ", ".join(f"{word!r} ({number})" for word, number in odd[:3])
        what = f"the teacher has other tokens: {len(theirs)}, and the model that learns has {len(mine)}"
        why = f"only one of the two has {shown}"
        raise ConfigError("CONFIG-02", what, why=why, fix="--teacher_model of the same family")
    most = 1 + max(mine.values())
    if min(own_size, other_size) < most:
        what = f"the teacher's head has {other_size} rows, the student's {own_size}, and there are {most} tokens"
        raise ConfigError("CONFIG-02", what, fix="--teacher_model of the same family")
