"""How likely a model finds answers that are given: log-probabilities of their tokens, summed in float64.

Letters in names: B rows, T tokens, K kept positions, V vocabulary, N tokens in a flat list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from swift.inference.batching import accepted
from swift.templates.encoding import Template
from swift.templates.tokens import safe_decode

IGNORED = -100
CHUNK = 1 << 12  # tokens whose logits are widened at once


@dataclass(frozen=True)
class Likelihood:
    """The summed log-probability (natural) of the tokens of an answer, and how many they are."""

    sum: float
    tokens: int


@dataclass(frozen=True)
class Given:
    """A row as ids, with labels where a token counts and -100 elsewhere."""

    ids: list[int]
    labels: list[int]


def given(template: Template, row: Mapping[str, Any]) -> Given | None:
    """A whole row, of which everything counts that is learnt of it; None where it does not fit the template."""
    inputs, _ = template.encode(dict(row))
    return Given(inputs["input_ids"], inputs["labels"]) if inputs else None


def given_answer(template: Template, row: Mapping[str, Any], answer: str) -> Given | None:
    """A row answered by `answer`, whose tokens alone count; None where they do not all fit.

    Neither earlier answers count, nor what the template writes before this one, nor the end of its turn.
    """
    asked, _ = template.encode(dict(row))
    inputs, _ = template.encode({**row, "messages": [*row["messages"], {"role": "assistant", "content": answer}]})
    if not asked or not inputs:
        return None
    ids, labels = inputs["input_ids"], inputs["labels"]
    first = len(asked["input_ids"]) + asked.get("truncated", 0) - inputs.get("truncated", 0)
    last = max((k for k, label in enumerate(labels) if label != IGNORED), default=-1) + 1
    ending = template.end_ids
    last -= len(ending) if ending and labels[last - len(ending) : last] == list(ending) else 0
    if not 0 < first < last:
        return None
    while _ends_with(template, ids[first + 1 : last], answer):  # a thought, or a space that is a token of its own
        first += 1
    return Given(ids[:last], [IGNORED] * first + labels[first:last])


def _ends_with(template: Template, ids: list[int], answer: str) -> bool:
    return bool(ids) and safe_decode(template.tokenizer, ids).rstrip().endswith(answer.rstrip())


@torch.inference_mode()
def likelihoods(model: Any, rows: Sequence[Given], pad_id: int = 0) -> list[Likelihood]:
    """Those of some rows, read in one batch that is padded on the right."""
    width = max(len(row.ids) for row in rows)
    ids_BT = torch.tensor([row.ids + [pad_id] * (width - len(row.ids)) for row in rows])
    labels_BT = torch.tensor([row.labels + [IGNORED] * (width - len(row.labels)) for row in rows])
    mask_BT = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    ids_BT, mask_BT = ids_BT.to(model.device), mask_BT.to(model.device)
    positions_K = (labels_BT[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(1)
    targets_BK = F.pad(labels_BT[:, 1:], (0, 1), value=IGNORED)[:, positions_K]
    logits_BKV = _logits(model, ids_BT, mask_BT, positions_K.to(model.device))
    sums_B = torch.zeros(len(rows), dtype=torch.float64)
    on_BK = targets_BK != IGNORED
    row_N, place_N = on_BK.nonzero(as_tuple=True)
    sums_B.index_add_(0, row_N, _logprobs(logits_BKV, row_N, place_N, targets_BK[on_BK]))
    return [Likelihood(value, int(count)) for value, count in zip(sums_B.tolist(), on_BK.sum(1), strict=True)]


def _logits(model: Any, ids_BT: Tensor, mask_BT: Tensor, positions_K: Tensor) -> Tensor:
    """The logits at those positions, which are all that is made where the model can leave the others out."""
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT}
    virtual = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
    if "logits_to_keep" in accepted(model) and len(positions_K) and not virtual:
        return model(**inputs, logits_to_keep=positions_K).logits
    return model(**inputs).logits[:, -ids_BT.shape[1] :][:, positions_K]


def _logprobs(logits_BKV: Tensor, row_N: Tensor, place_N: Tensor, targets_N: Tensor) -> Tensor:
    """The log-probabilities of targets at those rows and places, in float64 and on the CPU."""
    parts = []
    for start in range(0, len(row_N), CHUNK):
        part = slice(start, start + CHUNK)
        logits_NV = logits_BKV[row_N[part].to(logits_BKV.device), place_N[part].to(logits_BKV.device)].double()
        logprobs_NV = logits_NV.log_softmax(-1)
        parts.append(logprobs_NV.gather(1, targets_N[part, None].to(logprobs_NV.device)).squeeze(1).cpu())
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
