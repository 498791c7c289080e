"""Answers with a worse one beside them, or with a verdict."""

from __future__ import annotations

import re
from typing import Any

from swift.datasets import DATASETS, DatasetRecord

SPEAKER = re.compile(r"\n\n(Human|Assistant):[ ]?")
PAIR = {"chosen": "response", "rejected": "rejected_response"}


def dialogues(row: dict[str, Any]) -> dict[str, Any] | None:
    """Two dialogues written as one text each; None where they do not end with two answers to the same."""
    chosen, rejected = _turns(row["chosen"]), _turns(row["rejected"])
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1] or not rejected[-1]["content"]:
        return None
    return {"messages": chosen, "rejected_response": rejected[-1]["content"]}


def _turns(text: str) -> list[dict[str, str]]:
    _, *parts = SPEAKER.split(text)
    return [{"role": who.lower(), "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def in_context(row: dict[str, Any]) -> dict[str, Any]:
    """A dialogue and its two ends, each turn with `role` and `text`."""
    said = [{"role": turn["role"], "content": turn["text"]} for turn in [*row["context"], row["chosen"]]]
    return {"messages": said, "rejected_response": row["rejected"]["text"]}


DATASETS.add(
    DatasetRecord(
        "hh-rlhf", "AI-ModelScope/hh-rlhf",
        subsets=("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"),
        split=("train", "test"), convert=dialogues, tags=("preference", "en"),
    ),
    DatasetRecord(
        "hh-rlhf-cn", "AI-ModelScope/hh_rlhf_cn",
        subsets=("hh_rlhf", "harmless_base_cn", "harmless_base_en", "helpful_base_cn", "helpful_base_en"),
        split=("train", "test"), convert=in_context, tags=("preference", "zh"),
    ),
    DatasetRecord(
        "orca_dpo_pairs", "swift/orca_dpo_pairs", "Intel/orca_dpo_pairs",
        columns={"question": "query", **PAIR}, tags=("preference", "en"),
    ),
    DatasetRecord(
        "orpo-dpo-mix-40k", "AI-ModelScope/orpo-dpo-mix-40k", "mlabonne/orpo-dpo-mix-40k", subsets=("default",),
        tags=("preference", "en"),
    ),
    DatasetRecord(
        "shareai-llama3-dpo-zh-en-emoji", "hjh0119/shareAI-Llama3-DPO-zh-en-emoji",
        subsets=("default",),
        columns={"question": "query", "answer_zh": "response", "answer_en": "rejected_response"},
        tags=("preference", "en", "zh"),
    ),
    DatasetRecord(
        "stack-exchange-paired", "AI-ModelScope/stack-exchange-paired", "lvwerra/stack-exchange-paired",
        columns={"question": "query", "response_j": "response", "response_k": "rejected_response"},
        tags=("preference", "coding", "en"),
    ),
    DatasetRecord(
        "ultrafeedback-kto", "AI-ModelScope/ultrafeedback-binarized-preferences-cleaned-kto",
        subsets=("default",), tags=("kto", "en"),
    ),
    DatasetRecord(
        "zhihu-rlhf", "AI-ModelScope/zhihu_rlhf_3k", "liyucheng/zhihu_rlhf_3k",
        columns={"prompt": "query", **PAIR}, tags=("preference", "zh"),
    ),
)  # fmt: skip
