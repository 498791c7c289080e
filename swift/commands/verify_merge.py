"""Compare a merged model with the adapters on their base before it counts: logits, tokens, template, stop tokens."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from swift.arguments.infer import CheckpointOptions
from swift.commands.chosen import read_saved
from swift.commands.prepare import add_saved_rows, load_trained_tokenizer, quiet_libraries, use_chat_template
from swift.decide import decide_template
from swift.errors import DataError
from swift.log import get_logger
from swift.models.load import load_model, load_tokenizer, saved_dtype
from swift.models.source import ModelSource, find_model
from swift.templates.template import get_template
from swift.tuners import Swift

logger = get_logger()
# By how much logits may differ, relative to the largest: what rounding to the saved precision explains, and far less
# than a wrong scale or a lost layer would show.
LARGEST = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-1}
USUAL_AGREEMENT = 0.98
PROBES = (
    "What is the capital of France, and why is it there?",
    "Write a function that adds two numbers.\n\ndef add(a, b):\n    return a + b",
    "你好，请用一句话介绍一下你自己。",
    "1 2 3 5 8 13 21",
)


def verify(args: CheckpointOptions, source: ModelSource, checkpoint: Path, stage: Path, plain: bool) -> dict[str, Any]:
    """How a merged model, still in its stage, compares with what was trained.

    Args:
        args: the options of the checkpoint.
        source: the base.
        checkpoint: the adapters.
        stage: the merged model.
        plain: whether the adapters are merged as they are, so that the logits have to be the same.

    Returns:
        `difference` (the largest of any logit, relative to the largest logit), `effect` (what the adapters change, in
        the same measure), `agreement` (share of positions with the same likeliest token), and what is equal besides.

    Raises:
        DataError: something is not the same.
    """
    quiet_libraries()
    merged = find_model(None, str(stage), trust_remote_code=source.trusted)
    trained_on, now = trained_tokenizer(source, checkpoint), load_tokenizer(merged)
    found: dict[str, Any] = {"probes": len(PROBES), **_same_words(args, source, checkpoint, trained_on, now)}
    found |= _same_ends(source, checkpoint, stage)
    ids = [now(text, return_tensors="pt").input_ids for text in PROBES]
    found |= _compare(args, source, checkpoint, merged, ids, plain)
    logger.info(_told(found))
    return found


def trained_tokenizer(source: ModelSource, checkpoint: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as the checkpoint was trained with it."""
    tokenizer = load_trained_tokenizer(source, checkpoint)
    use_chat_template(tokenizer, None, checkpoint)
    return tokenizer


def write_tokenizer(source: ModelSource, checkpoint: Path, stage: Path) -> None:
    """Write the tokenizer as the checkpoint was trained with it, for one that has more tokens than the base's."""
    trained_tokenizer(source, checkpoint).save_pretrained(stage)


def _same_words(
    args: CheckpointOptions, source: ModelSource, checkpoint: Path, before: PreTrainedTokenizerBase, now: Any
) -> dict[str, bool]:
    """See that texts become the same ids, and conversations too. Raises DataError when they do not."""
    same = [before(text).input_ids for text in PROBES] == [now(text).input_ids for text in PROBES]
    if not same or before.get_vocab() != now.get_vocab():
        raise DataError("MERGE-01", "the merged model's tokenizer is not the one of the training")
    saved = read_saved(checkpoint)
    name = str(saved.get("template_type") or decide_template("AUTO", source))
    system = saved.get("system")
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]} for text in PROBES
    ]
    one, other = (get_template(name, copy, system) for copy in (before, now))
    if one.stop_ids != other.stop_ids or [one.encode(row)[0] for row in rows] != [other.encode(row)[0] for row in rows]:
        raise DataError("MERGE-01", f"the merged model does not write template {name!r} as the training did")
    return {"tokenizer": True, "template": True, "stop_tokens": True}


def _same_ends(source: ModelSource, checkpoint: Path, stage: Path) -> dict[str, bool]:
    """See that generation ends where it did for the checkpoint. Raises DataError when it does not."""
    held = next((one for one in (checkpoint, source.path) if (one / "generation_config.json").is_file()), None)
    if held is None:
        return {}
    before, now = GenerationConfig.from_pretrained(str(held)), GenerationConfig.from_pretrained(str(stage))
    if before.to_dict() != now.to_dict():
        raise DataError("MERGE-01", "the merged model's generation config is not the one of the training")
    return {"generation_config": True}


def _compare(
    args: CheckpointOptions, source: ModelSource, checkpoint: Path, merged: ModelSource, ids: list[Tensor], plain: bool
) -> dict[str, float]:
    """The logits of the three: the base, the adapters on it, the merged model. One of them is in memory at a time."""
    device = args.merge_device_map or "cpu"
    base: Any = load_model(source, torch.float32, device_map=device)
    add_saved_rows(base, checkpoint)
    before = logits(base, ids)
    if plain:
        allowed = args.allow_other_base
        base = Swift.from_pretrained(base, str(checkpoint), None, inference_mode=True, allow_other_base=allowed).eval()
    tuned = logits(base, ids) if plain else before
    del base
    gc.collect()
    now = logits(load_model(merged, torch.float32, device_map=device), ids)
    if not plain:
        return {"effect": difference(before, now)}
    rounded = saved_dtype(merged)
    found = {
        "difference": difference(tuned, now),
        "effect": difference(before, tuned),
        "agreement": agreement(tuned, now),
    }
    if not found["difference"] <= LARGEST[rounded]:
        what = f"the merged model differs from the unmerged one: logits by {found['difference']:.1e}"
        raise DataError("MERGE-01", what, why=f"rounding to {rounded} explains {LARGEST[rounded]:.0e} at most")
    return found


@torch.inference_mode()
def logits(model: Any, ids: list[Tensor]) -> list[Tensor]:
    """What a model says of some rows of tokens, each (1, T, V), in float32."""
    device = next(model.parameters()).device
    return [model(input_ids=one.to(device)).logits.float().cpu() for one in ids]


def difference(before: list[Tensor], after: list[Tensor]) -> float:
    """The largest difference of two models' logits, relative to the largest logit."""
    largest = max(float(one.abs().max()) for one in before)
    width = min(before[0].shape[-1], after[0].shape[-1])  # a resized vocabulary
    pairs = zip(before, after, strict=True)
    return max(float((a[..., :width] - b[..., :width]).abs().max()) for a, b in pairs) / max(1.0, largest)


def agreement(before: list[Tensor], after: list[Tensor]) -> float:
    """The share of places where the likeliest token is the same."""
    same = torch.cat([(a.argmax(-1) == b.argmax(-1)).flatten() for a, b in zip(before, after, strict=True)])
    return float(same.float().mean())


def _told(found: dict[str, Any]) -> str:
    if "difference" not in found:
        same = "tokenizer, template and stop tokens are the training's"
        return f"verified: {same}; together the adapters move the logits by {found['effect']:.1e}"
    if found["agreement"] < USUAL_AGREEMENT:
        logger.warning(f"only {found['agreement']:.1%} of likeliest tokens are those of the unmerged model")
    if found["difference"] > found["effect"] / 2 > 0:
        logger.warning(
            "rounding moves the logits about as far as the training did: --dtype fp32 keeps what was trained"
        )
    if not found["effect"]:
        logger.warning("the adapters change nothing: was anything trained?")
    return (
        f"verified: merged = unmerged to {found['difference']:.1e} of the largest logit (the adapters move them by "
        f"{found['effect']:.1e}), {found['agreement']:.1%} of likeliest tokens equal; tokenizer, template and stop "
        "tokens are the training's"
    )
