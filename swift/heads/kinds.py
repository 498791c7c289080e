"""What each kind of head reads of a row, what it makes of the model's outputs, and what it learns.

A batch holds S texts of R rows: `counts_R` says how many each row has, `labels` the rows' numbers one after another,
`weights_R` is 0 for rows that only fill up the last batch of an epoch. Letters besides: U units that a loss is of, each
a row or a text, L labels, D size of a vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swift.datasets.retrieval import NEGATIVES, POSITIVES, documents, number
from swift.datasets.turns import field_error
from swift.heads import losses, metrics
from swift.heads.gather import gathered
from swift.inference.embedding import POOLINGS

Talk = dict[str, Any]
Texts = list[Talk | str]
Batch = Mapping[str, Tensor]
Seen = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What an evaluation keeps of a batch: scores of its texts, numbers, and how many texts each row has."""


class Kind(ABC):
    """A kind of head."""

    can_be_right = False
    """Whether a unit is right or wrong, as `hits` says."""

    @abstractmethod
    def texts(self, row: Any) -> Texts:
        """The texts of a row that are scored. Raises DataError where it is not one of this kind."""

    @abstractmethod
    def read(self, row: Any) -> tuple[Texts, list[float]]:
        """The texts and numbers of a row. Raises DataError where it is not one of this kind."""

    @abstractmethod
    def losses(self, scores: Tensor, batch: Batch) -> Tensor:
        """The loss of every unit."""

    @abstractmethod
    def metrics(self, seen: Sequence[Seen]) -> dict[str, float]:
        """What an evaluation says besides its loss."""

    def settings(self) -> dict[str, Any]:
        """What decides the loss, by name."""
        return dict(vars(self))

    def scores(self, outputs: Any, batch: Batch) -> Tensor:
        """What the model makes of every text: scores_SL, or vectors_SD."""
        return wide(outputs.logits)

    def hits(self, scores: Tensor, batch: Batch) -> Tensor:
        """Whether the model has each unit right; asked only of kinds that `can_be_right`, which say it."""
        raise NotImplementedError

    def weights(self, batch: Batch) -> Tensor:
        """What every unit weighs: 1, or 0 for what only fills up a batch."""
        return batch["weights"]


def wide(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values if values.dtype == torch.float64 else values.float()


def question(row: Any) -> Talk:
    """The conversation that a text is judged by; a text alone is what somebody says."""
    messages = [dict(message) for message in row["messages"]]
    if len(messages) == 1:
        messages[0]["role"] = "user"
        messages += [{"role": "assistant", "content": text} for text in documents(row, POSITIVES)[:1]]
    return {**{name: row[name] for name in ("tools",) if name in row}, "messages": messages}


@dataclass
class Classifier(Kind):
    """One of several labels, any of them, or numbers.

    Attributes:
        size: how many labels or numbers there are.
        problem: as transformers calls it: regression, single_label_classification or multi_label_classification.
        names: what labels are called; filled while rows are read, where rows have names.
    """

    size: int
    problem: str
    names: list[str] = field(default_factory=list)

    @property
    def can_be_right(self) -> bool:  # type: ignore[override]
        """Of labels; a number is more or less near."""
        return self.problem != "regression"

    def hits(self, scores: Tensor, batch: Batch) -> Tensor:
        """Whether all labels of a row are the right ones."""
        if self.problem == "single_label_classification":
            return scores.argmax(dim=1) == batch["labels"]
        return ((scores > 0) == (batch["labels"].reshape(len(scores), -1) > 0.5)).all(dim=1)

    def texts(self, row: Any) -> Texts:
        """The conversation."""
        return [question(row)]

    def read(self, row: Any) -> tuple[Texts, list[float]]:
        """The conversation and its label."""
        said = next((row[name] for name in ("label", "labels", "score") if row.get(name) is not None), None)
        if said is None:
            raise field_error("label", "is missing")
        items = said if isinstance(said, list | tuple) else [said]
        if self.problem == "regression":
            if len(items) != self.size:
                raise field_error("label", f"has {len(items)} numbers, not {self.size}")
            return self.texts(row), [number(item, "label") for item in items]
        if self.problem == "single_label_classification":
            if len(items) != 1:
                raise field_error("label", f"has {len(items)} labels", fix="--problem_type multi_label_classification")
            return self.texts(row), [float(self._index(items[0]))]
        there = {self._index(item) for item in items}
        return self.texts(row), [float(k in there) for k in range(self.size)]

    def _index(self, said: Any) -> int:
        """The number of a label; a name gets one when it first comes."""
        if isinstance(said, str) and not said.strip().isdecimal():
            if said not in self.names:
                if len(self.names) == self.size:
                    known = ", ".join(self.names[:8])
                    raise field_error("label", f"is {said!r:.40}, one more than --num_labels {self.size}: {known}")
                self.names.append(said)
            return self.names.index(said)
        found = number(said, "label")
        if found != int(found) or not 0 <= found < self.size:
            raise field_error("label", f"is {said!r:.40}, not one of 0 to {self.size - 1}", fix="--num_labels")
        return int(found)

    def losses(self, scores: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy, binary cross-entropy or squared error."""
        labels = batch["labels"]
        if self.problem == "single_label_classification":
            return losses.single_label(scores, labels)
        of = losses.regression if self.problem == "regression" else losses.multi_label
        return of(scores, labels.reshape(len(scores), -1))

    def metrics(self, seen: Sequence[Seen]) -> dict[str, float]:
        """Accuracy and F1, or MSE, MAE and Pearson's r."""
        scores, labels = np.concatenate([s for s, _, _ in seen]), np.concatenate([n for _, n, _ in seen])
        if self.problem == "single_label_classification":
            return metrics.of_labels(scores.argmax(axis=1), labels.astype(np.int64), self.size)
        labels = labels.reshape(len(scores), -1)
        if self.problem == "regression":
            return metrics.of_numbers(scores, labels)
        return metrics.of_sets(scores > 0, labels > 0.5)


@dataclass
class Reward(Kind):
    """How good an answer is, learnt from pairs of which one is better.

    Attributes:
        center: the weight of what keeps rewards around 0.
    """

    center: float = 0.0
    can_be_right = True

    def hits(self, scores: Tensor, batch: Batch) -> Tensor:
        """Whether the better answer scores higher."""
        better_R, worse_R = scores.reshape(-1, 2).unbind(1)
        return better_R > worse_R

    def texts(self, row: Any) -> Texts:
        """The conversation with its answer, and with the worse one where there is one."""
        better, rejected = question(row), row.get("rejected_response")
        if better["messages"][-1]["role"] != "assistant":
            raise field_error("response", "is missing: a reward is that of an answer")
        if rejected is None:
            return [better]
        return [better, {**better, "messages": [*better["messages"][:-1], {"role": "assistant", "content": rejected}]}]

    def read(self, row: Any) -> tuple[Texts, list[float]]:
        """The conversation with the better answer, with the worse one, and the margin."""
        texts, margin = self.texts(row), row.get("margin")
        if len(texts) == 1:
            raise field_error("rejected", "is missing: a pair has a better and a worse answer")
        return texts, [0.0 if margin is None else number(margin, "margin")]

    def losses(self, scores: Tensor, batch: Batch) -> Tensor:
        """-log sigmoid of how far apart the two are."""
        better_R, worse_R = scores.reshape(-1, 2).unbind(1)
        return losses.bradley_terry(better_R, worse_R, batch["labels"], self.center)

    def metrics(self, seen: Sequence[Seen]) -> dict[str, float]:
        """The share of pairs in the right order, and how far apart they are."""
        return metrics.of_pairs(np.concatenate([scores.reshape(-1, 2) for scores, _, _ in seen]))


@dataclass
class Embedding(Kind):
    """Texts as vectors.

    Attributes:
        loss: infonce, cosine_similarity or contrastive.
        pooling: a key of `POOLINGS`.
        temperature: of infonce.
        margin: of contrastive.
        query: what stands before a query.
        document: what stands before a document.
    """

    loss: str = "infonce"
    pooling: str = "lasttoken"
    temperature: float = 0.05
    margin: float = 0.5
    query: str = ""
    document: str = ""

    def texts(self, row: Any) -> Texts:
        """The query, then its documents, if any."""
        good, bad = retrieved(row)
        return [f"{self.query}{asked(row)}", *(f"{self.document}{text}" for text in (*good, *bad))]

    def read(self, row: Any) -> tuple[Texts, list[float]]:
        """The query, then its documents; the number is how many of them answer it, or how alike the two texts are."""
        (good, bad), texts = retrieved(row, needed=True), self.texts(row)
        if self.loss == "infonce":
            return texts, [float(len(good))]
        said = next((row[name] for name in ("label", "score", "labels") if row.get(name) is not None), None)
        if said is None or len(good) != 1 or bad:
            raise field_error("label", f"and one text beside the first are what --loss_name {self.loss} learns from")
        return texts, [number(said, "label")]

    def scores(self, outputs: Any, batch: Batch) -> Tensor:
        """A vector of every text."""
        states_STD, mask_ST = wide(outputs.last_hidden_state), batch["attention_mask"]
        return POOLINGS[self.pooling](states_STD, mask_ST[:, :, None].to(states_STD))

    def losses(self, scores: Tensor, batch: Batch) -> Tensor:
        """InfoNCE over all documents of all processes, or the loss of each pair."""
        counts_R = batch["counts"]
        first_R = counts_R.cumsum(0) - counts_R
        if self.loss == "cosine_similarity":
            return losses.cosine_similarity(scores[first_R], scores[first_R + 1], batch["labels"])
        if self.loss == "contrastive":
            return losses.contrastive(scores[first_R], scores[first_R + 1], batch["labels"], self.margin)
        return self._infonce(scores, batch, first_R)

    def _infonce(self, vectors_SD: Tensor, batch: Batch, first_R: Tensor) -> Tensor:
        counts_R, weights_R = batch["counts"], batch["weights"]
        row_S = torch.repeat_interleave(torch.arange(len(counts_R), device=counts_R.device), counts_R)
        place_S = torch.arange(len(row_S), device=row_S.device) - first_R[row_S]
        is_document_S = place_S > 0
        documents_CD, before = gathered(vectors_SD[is_document_S])
        row_C = row_S[is_document_S]
        other_good_C = (place_S[is_document_S] > 1) & (place_S[is_document_S] <= batch["labels"][row_C])
        shown_C, _ = gathered((weights_R[row_C] > 0).to(vectors_SD.dtype))
        own_C = before + torch.arange(len(row_C), device=row_C.device)
        own_R = before + first_R - torch.arange(len(counts_R), device=counts_R.device)
        allowed_RC = (shown_C > 0)[None, :].repeat(len(counts_R), 1)
        allowed_RC[row_C[other_good_C], own_C[other_good_C]] = False
        allowed_RC[torch.arange(len(counts_R), device=row_C.device), own_R] = True
        return losses.infonce(vectors_SD[first_R], documents_CD, own_R, allowed_RC, self.temperature)

    def metrics(self, seen: Sequence[Seen]) -> dict[str, float]:
        """How often a query finds its document among all of the evaluation; of pairs, how cosines follow the labels."""
        rows = [one for batch in seen for one in metrics.rows_of(*batch)]
        if self.loss == "infonce":
            return metrics.of_search(rows)
        return metrics.of_cosines(rows)


@dataclass
class Reranker(Kind):
    """How well a document answers a query.

    Attributes:
        loss: pointwise or listwise.
        query: what stands before a query.
        document: what stands before a document.
    """

    loss: str = "pointwise"
    query: str = ""
    document: str = ""

    @property
    def can_be_right(self) -> bool:  # type: ignore[override]
        """Of documents one by one."""
        return self.loss == "pointwise"

    def hits(self, scores: Tensor, batch: Batch) -> Tensor:
        """Whether the sign of a score is right."""
        return (scores[:, 0] > 0) == (batch["labels"] > 0.5)

    def texts(self, row: Any) -> Texts:
        """A conversation of the query and each document."""
        good, bad = retrieved(row, needed=True)
        return [self.talk(asked(row), text) for text in (*good, *bad)]

    def read(self, row: Any) -> tuple[Texts, list[float]]:
        """A conversation of the query and each document, and whether that answers it."""
        good, bad = retrieved(row, needed=True)
        said = row.get("label")
        relevant = [1.0] * len(good) + [0.0] * len(bad)
        if said is not None and len(relevant) == 1:
            relevant = [number(said, "label")]
        if self.loss == "listwise" and not (good and bad):
            raise field_error("negative", "is missing: --loss_name listwise compares documents of one query")
        return self.texts(row), relevant

    def talk(self, query: str, document: str) -> Talk:
        """The query as what is asked, the document as the answer."""
        asks = {"role": "user", "content": f"{self.query}{query}"}
        return {"messages": [asks, {"role": "assistant", "content": f"{self.document}{document}"}]}

    def weights(self, batch: Batch) -> Tensor:
        """Of documents one by one, or of queries."""
        weights_R = batch["weights"]
        return weights_R if self.loss == "listwise" else torch.repeat_interleave(weights_R, batch["counts"])

    def losses(self, scores: Tensor, batch: Batch) -> Tensor:
        """Of every document, or of every query."""
        relevant_S, counts_R = batch["labels"], batch["counts"]
        if self.loss == "pointwise":
            return losses.pointwise(scores[:, 0], relevant_S)
        row_S = torch.repeat_interleave(torch.arange(len(counts_R), device=counts_R.device), counts_R)
        return losses.listwise(scores[:, 0], row_S, relevant_S > 0.5, len(counts_R))

    def metrics(self, seen: Sequence[Seen]) -> dict[str, float]:
        """How high relevant documents come, and how often the sign is right."""
        return metrics.of_ranking([one for batch in seen for one in metrics.rows_of(*batch)])


def asked(row: Any) -> str:
    """The query of a row. Raises DataError where it says nothing."""
    text = next(message["content"] for message in row["messages"] if message["role"] != "system")
    if not text.strip():
        raise field_error("query", "is empty")
    return text


def retrieved(row: Any, *, needed: bool = False) -> tuple[list[str], list[str]]:
    """The documents of a row that answer its query, and those that do not; one at least where it is `needed`."""
    good, bad = documents(row, POSITIVES), documents(row, NEGATIVES)
    answers = [message["content"] for message in row["messages"][1:] if message["role"] == "assistant"]
    good = good or answers[-1:]
    bad = bad or [text for text in [row.get("rejected_response")] if text is not None]
    if needed and not good:
        raise field_error("positive", "is missing: a query needs a document")
    return good, bad
