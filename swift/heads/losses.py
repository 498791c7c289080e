"""What a head learns from: a loss for every row, which the trainer sums and divides by the rows of the step.

Letters in names: R rows, C candidates, L labels, D size of a vector. All is computed in float32, float64 stays.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def single_label(logits_RL: Tensor, labels_R: Tensor) -> Tensor:
    """-log p(label)."""
    return F.cross_entropy(logits_RL, labels_R.long(), reduction="none")


def multi_label(logits_RL: Tensor, targets_RL: Tensor) -> Tensor:
    """The mean over labels of -log p(there or not there)."""
    return F.binary_cross_entropy_with_logits(logits_RL, targets_RL.to(logits_RL), reduction="none").mean(dim=1)


def regression(values_RL: Tensor, targets_RL: Tensor) -> Tensor:
    """The mean over numbers of the squared error."""
    return (values_RL - targets_RL.to(values_RL)).square().mean(dim=1)


def bradley_terry(better_R: Tensor, worse_R: Tensor, margins_R: Tensor | None = None, center: float = 0.0) -> Tensor:
    """-log sigmoid(better - worse - margin) + center * (better + worse)^2.

    Paper: the loss is that of https://arxiv.org/abs/2203.02155, section 3.5; the margin that of
    https://arxiv.org/abs/2307.09288, section 3.2.2; the other term, which keeps rewards around 0, that of
    https://arxiv.org/abs/2312.09244, section 2.
    """
    apart_R = better_R - worse_R
    if margins_R is not None:
        apart_R = apart_R - margins_R.to(apart_R)
    losses_R = -F.logsigmoid(apart_R)
    return losses_R + center * (better_R + worse_R).square() if center else losses_R


def infonce(
    anchors_RD: Tensor, candidates_CD: Tensor, own_R: Tensor, allowed_RC: Tensor, temperature: float = 0.05
) -> Tensor:
    """-log of the share that the own candidate has in the softmax of all cosines by the temperature.

    Args:
        anchors_RD: vectors of the queries.
        candidates_CD: those of all documents of the batch, of every process.
        own_R: which of them answers each query.
        allowed_RC: which of them a query is compared with; its own always is.
        temperature: what cosines are divided by.

    Paper: Representation Learning with Contrastive Predictive Coding, https://arxiv.org/abs/1807.03748, equation 4.
    """
    cosines_RC = F.normalize(anchors_RD, dim=1) @ F.normalize(candidates_CD, dim=1).T
    return F.cross_entropy((cosines_RC / temperature).masked_fill(~allowed_RC, -torch.inf), own_R, reduction="none")


def cosine_similarity(one_RD: Tensor, other_RD: Tensor, wanted_R: Tensor) -> Tensor:
    """The squared error of the cosine of two vectors."""
    cosines_R = F.cosine_similarity(one_RD, other_RD)
    return (cosines_R - wanted_R.to(cosines_R)).square()


def contrastive(one_RD: Tensor, other_RD: Tensor, alike_R: Tensor, margin: float = 0.5) -> Tensor:
    """Half the square of the cosine distance d of like texts, and of max(margin - d, 0) of unlike ones.

    Paper: Dimensionality Reduction by Learning an Invariant Mapping, equation 4,
    http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf
    """
    distances_R = 1 - F.cosine_similarity(one_RD, other_RD)
    alike_R = alike_R.to(distances_R)
    return 0.5 * (alike_R * distances_R.square() + (1 - alike_R) * F.relu(margin - distances_R).square())


def pointwise(scores_R: Tensor, relevant_R: Tensor) -> Tensor:
    """-log p(relevant or not), each document alone."""
    return F.binary_cross_entropy_with_logits(scores_R, relevant_R.to(scores_R), reduction="none")


def listwise(scores_C: Tensor, row_C: Tensor, relevant_C: Tensor, rows: int) -> Tensor:
    """The mean over relevant documents of a query of -log of their share among themselves and the irrelevant ones.

    Args:
        scores_C: of all documents.
        row_C: the query of each.
        relevant_C: whether it answers that.
        rows: how many queries there are.
    """
    same_CC = row_C[:, None] == row_C[None, :]
    against_CC = same_CC & ~relevant_C[None, :] | torch.eye(len(scores_C), dtype=torch.bool, device=scores_C.device)
    wide_CC = scores_C[None, :].masked_fill(~against_CC, -torch.inf)
    losses_C = torch.logsumexp(wide_CC, dim=1) - scores_C
    good_C = relevant_C.to(scores_C)
    sums_R = scores_C.new_zeros(rows).index_add(0, row_C, losses_C * good_C)
    return sums_R / scores_C.new_zeros(rows).index_add(0, row_C, good_C).clamp_min(1)
