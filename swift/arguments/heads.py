"""Options of models that score, classify or embed texts instead of writing them."""

from __future__ import annotations

from dataclasses import dataclass

from swift.arguments.fields import option

GROUP = "Head"
TASK_TYPES = ("causal_lm", "seq_cls", "embedding", "reranker")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
LOSSES = {
    "embedding": ("infonce", "cosine_similarity", "contrastive"),
    "reranker": ("pointwise", "listwise"),
    "seq_cls": (),
}
"""What `--loss_name` may be with a head; the first is the default."""
HEAD_OPTIONS = {
    "num_labels": ("seq_cls",),
    "problem_type": ("seq_cls",),
    "pooling": ("embedding",),
    "infonce_temperature": ("embedding",),
    "contrastive_margin": ("embedding",),
    "query_prefix": ("embedding", "reranker"),
    "document_prefix": ("embedding", "reranker"),
}
"""What each option is of."""


@dataclass(kw_only=True)
class HeadOptions:
    """What the model gives: text, or something that a head of its own makes."""

    task_type: str = option(
        "causal_lm",
        group=GROUP,
        choices=TASK_TYPES,
        help="What the model gives: text, labels or numbers (seq_cls), vectors (embedding), or how well a document "
        "answers a query (reranker).",
    )
    num_labels: int | None = option(
        None,
        group=GROUP,
        minimum=1,
        help="Of seq_cls: how many labels there are, or numbers with --problem_type regression.",
        none="1 with --problem_type regression, else it has to be said",
    )
    problem_type: str | None = option(
        None,
        group=GROUP,
        choices=PROBLEM_TYPES,
        help="Of seq_cls: numbers, one of several labels, or any of them.",
        none="regression with --num_labels 1, else single_label_classification",
    )
    pooling: str = option(
        "lasttoken",
        group=GROUP,
        choices=("lasttoken", "mean", "cls"),
        help="Of embedding: the vector of a text is that of its last token, the mean, or that of its first token.",
    )
    infonce_temperature: float = option(
        0.05, group=GROUP, minimum=1e-6, help="Of infonce: what cosines are divided by before the softmax."
    )
    contrastive_margin: float = option(
        0.5, group=GROUP, minimum=0, help="Of contrastive: the cosine distance that unlike texts come to have at least."
    )
    query_prefix: str = option("", group=GROUP, help="Of embedding and reranker: what stands before every query.")
    document_prefix: str = option("", group=GROUP, help="Of embedding and reranker: what stands before every document.")
