"""Models with a head: how they are loaded, for training with a fresh one, and afterwards with theirs."""

from __future__ import annotations

from typing import Any

from transformers import AutoModel, AutoModelForSequenceClassification

from swift.heads.files import Head
from swift.models.load import load_tokenizer
from swift.models.source import ModelSource

SCORE = "score"  # as transformers calls the layer on decoders


def loading(head: Head, *, fresh: bool) -> dict[str, Any]:
    """What `load_model` is told.

    Args:
        head: which one.
        fresh: whether the base may lack it, so that it starts at random.
    """
    if head.task_type == "embedding":
        return {"auto_class": AutoModel}
    names = head.labels or [f"LABEL_{k}" for k in range(head.num_labels)]
    config = {"num_labels": head.num_labels, "problem_type": head.problem_type}
    if head.num_labels > 1:
        config |= {"id2label": dict(enumerate(names)), "label2id": {name: k for k, name in enumerate(names)}}
    return {
        "auto_class": AutoModelForSequenceClassification,
        "fresh": (SCORE,) if fresh else (),
        **{name: value for name, value in config.items() if value is not None},
    }


def settle(model: Any, head: Head, source: ModelSource) -> Any:
    """The loaded model, which knows what is padding: transformers scores the last token that is none."""
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = load_tokenizer(source).pad_token_id
    return model
