"""Whether a model computes a prompt that stands once before both answers as it would before each alone."""

from __future__ import annotations

from typing import Any

import torch

from swift.preference.batches import Collator
from swift.trainers import saving

PROMPT, CHOSEN, REJECTED = 9, 7, 5  # tokens of the pair that is tried
TOLERANCE = 1e-5  # of the largest logit, in float32; coarser types get their own


def why_not_shared(model: Any) -> str | None:
    """Why prompts cannot be shared, None when they can: it is tried out on a pair."""
    base: Any = saving.base_of(model)
    config = base.config.get_text_config(decoder=True)
    if config._attn_implementation != "sdpa":
        return f"its attention is {config._attn_implementation}, which takes no mask of ours"
    told = config.to_dict()
    if told.get("sliding_window") and told.get("use_sliding_window", True):
        return "it looks back through a window"
    if set(told.get("layer_types") or ()) - {"full_attention"}:
        return "not all its layers look at everything before"
    both = _logits(model, Collator(0, shared=True))
    each = _logits(model, Collator(0))
    tolerance = max(TOLERANCE, 4 * torch.finfo(each.dtype).eps) * each.abs().max()
    return None if (both - each).abs().max() <= tolerance else "its answers come out others than alone"


@torch.no_grad()
def _logits(model: Any, collate: Collator) -> torch.Tensor:
    """What predicts the tokens of a pair's answers."""
    embedding = saving.base_of(model).get_input_embeddings().weight  # type: ignore[operator]
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(len(embedding), (PROMPT + CHOSEN + REJECTED,), generator=draw).tolist()
    prompt, chosen, rejected = ids[:PROMPT], ids[PROMPT : PROMPT + CHOSEN], ids[PROMPT + CHOSEN :]
    row = {
        "input_ids": [*prompt, *chosen, *prompt, *rejected],
        "labels": [*[-100] * PROMPT, *chosen, *[-100] * PROMPT, *rejected],
        "rejected": [0] * (PROMPT + CHOSEN) + [1] * (PROMPT + REJECTED),
    }
    batch = {name: value.to(embedding.device) if isinstance(value, torch.Tensor) else value
             for name, value in collate([row]).items()}  # fmt: skip
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids") if name in batch}
    training = model.training
    model.eval()
    try:
        logits = model(**inputs, use_cache=False).logits
    finally:
        model.train(training)
    return logits.reshape(-1, logits.shape[-1])[batch["at"]]
