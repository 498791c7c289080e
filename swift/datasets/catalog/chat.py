"""General conversations, English and Chinese, one round and many."""

from __future__ import annotations

from typing import Any

from swift.datasets import DATASETS, DatasetRecord

MULTI_ALPACA = ("ar", "de", "es", "fr", "id", "ja", "ko", "pt", "ru", "th", "vi")
COIG = (
    "chinese_traditional coig_pc exam finance douban human_value logi_qa ruozhiba segmentfault wiki wikihow xhs zhihu"
)
SHAREGPT = ("common-zh", "computer-zh", "unknow-zh", "common-en", "computer-en")


def without_prefix(row: dict[str, Any]) -> dict[str, Any]:
    """The answer without the word "Answer:" that some rows of LongAlpaca start with."""
    return {"query": row["instruction"], "response": row["output"].removeprefix("Answer: ")}


DATASETS.add(
    DatasetRecord("self-cognition", path="self_cognition.jsonl", tags=("chat", "en", "zh")),
    DatasetRecord("demo-general", path="../demo/general.jsonl", tags=("chat", "general", "en", "zh")),
    DatasetRecord(
        "alpaca-en", "AI-ModelScope/alpaca-gpt4-data-en", "vicgalle/alpaca-gpt4",
        columns={"text": "-"}, tags=("chat", "general", "en"),
    ),
    DatasetRecord(
        "alpaca-zh", "AI-ModelScope/alpaca-gpt4-data-zh", "llm-wizard/alpaca-gpt4-data-zh",
        tags=("chat", "general", "zh"),
    ),
    DatasetRecord(
        "alpaca-cleaned", "AI-ModelScope/alpaca-cleaned", "yahma/alpaca-cleaned",
        tags=("chat", "general", "en"),
    ),
    DatasetRecord(
        "multi-alpaca", "damo/nlp_polylm_multialpaca_sft", subsets=MULTI_ALPACA,
        tags=("chat", "general", "multilingual"),
    ),
    DatasetRecord(
        "instinwild", "wyj123456/instinwild", subsets=("default", "subset"),
        tags=("chat", "general", "en", "zh"),
    ),
    DatasetRecord("cot-en", "YorickHe/CoT", tags=("chat", "general", "en")),
    DatasetRecord("cot-zh", "YorickHe/CoT_zh", tags=("chat", "general", "zh")),
    DatasetRecord(
        "instruct-en", "wyj123456/instruct", columns={"prompt": "query", "completion": "response"},
        tags=("chat", "general", "en"),
    ),
    DatasetRecord(
        "firefly-zh", "AI-ModelScope/firefly-train-1.1M", "YeungNLP/firefly-train-1.1M",
        columns={"input": "query", "target": "response"}, tags=("chat", "general", "zh"),
    ),
    DatasetRecord(
        "poison-mpts", "iic/100PoisonMpts", columns={"prompt": "query", "answer": "response"},
        tags=("chat", "safety", "zh"),
    ),
    DatasetRecord("gpt4all-en", "wyj123456/GPT4all", tags=("chat", "general", "en")),
    DatasetRecord(
        "dolly-15k", "AI-ModelScope/databricks-dolly-15k", "databricks/databricks-dolly-15k",
        columns={"context": "input", "response": "output"}, tags=("chat", "general", "en"),
    ),
    DatasetRecord(
        "generated-chat-zh", "AI-ModelScope/generated_chat_0.4M", "BelleGroup/generated_chat_0.4M",
        tags=("chat", "dialogue", "zh"),
    ),
    DatasetRecord(
        "coig-cqia", "AI-ModelScope/COIG-CQIA", subsets=tuple(COIG.split()), tags=("chat", "general", "zh"),
    ),
    DatasetRecord(
        "ms-bench", "iic/ms_bench", tags=("chat", "general", "multi-round", "zh"),
    ),
    DatasetRecord("sharegpt", "swift/sharegpt", subsets=SHAREGPT, tags=("chat", "multi-round")),
    DatasetRecord(
        "sharegpt-gpt4", "AI-ModelScope/sharegpt_gpt4", subsets=("default", "V3_format", "zh_38K_format"),
        tags=("chat", "multi-round", "multilingual"),
    ),
    DatasetRecord(
        "deepctrl-sft", "AI-ModelScope/deepctrl-sft-data", subsets=("default", "en"),
        tags=("chat", "general", "multi-round"),
    ),
    DatasetRecord(
        "tulu-v2-sft-mixture", "AI-ModelScope/tulu-v2-sft-mixture", "allenai/tulu-v2-sft-mixture",
        tags=("chat", "multi-round", "multilingual"),
    ),
    DatasetRecord(
        "ultrachat-200k", "swift/ultrachat_200k", "HuggingFaceH4/ultrachat_200k", split=("train_sft",),
        tags=("chat", "multi-round", "en"),
    ),
    DatasetRecord(
        "no-robots", "swift/no_robots", "HuggingFaceH4/no_robots",
        tags=("chat", "general", "en"),
    ),
    DatasetRecord(
        "evol-instruct-v2", "AI-ModelScope/WizardLM_evol_instruct_V2_196k", "WizardLM/WizardLM_evol_instruct_V2_196k",
        tags=("chat", "en"),
    ),
    DatasetRecord(
        "infinity-instruct", "swift/Infinity-Instruct", "BAAI/Infinity-Instruct",
        tags=("chat", "multilingual"),
    ),
    DatasetRecord(
        "open-hermes", "swift/OpenHermes-2.5", "teknium/OpenHermes-2.5",
        tags=("chat", "en"),
    ),
    DatasetRecord(
        "slim-orca", "swift/SlimOrca", "Open-Orca/SlimOrca", tags=("chat", "en"),
    ),
    DatasetRecord(
        "open-orca", "AI-ModelScope/OpenOrca", columns={"question": "query", "system_prompt": "system"},
        tags=("chat", "en"),
    ),
    DatasetRecord(
        "open-orca-chinese", "AI-ModelScope/OpenOrca-Chinese", "yys/OpenOrca-Chinese",
        columns={"question": "query", "system_prompt": "system"}, tags=("chat", "zh"),
    ),
    DatasetRecord(
        "tagengo-gpt4", "swift/tagengo-gpt4", "lightblue/tagengo-gpt4",
        tags=("chat", "multilingual"),
    ),
    DatasetRecord(
        "qwen2-pro-en", "AI-ModelScope/Magpie-Qwen2-Pro-200K-English", "Magpie-Align/Magpie-Qwen2-Pro-200K-English",
        tags=("chat", "en"),
    ),
    DatasetRecord(
        "qwen2-pro-zh", "AI-ModelScope/Magpie-Qwen2-Pro-200K-Chinese", "Magpie-Align/Magpie-Qwen2-Pro-200K-Chinese",
        tags=("chat", "zh"),
    ),
    DatasetRecord(
        "longwriter-6k", "ZhipuAI/LongWriter-6k", "THUDM/LongWriter-6k", tags=("chat", "long"),
    ),
    DatasetRecord(
        "long-alpaca-12k", "AI-ModelScope/LongAlpaca-12k", "Yukang/LongAlpaca-12k",
        convert=without_prefix, tags=("chat", "long", "en"),
    ),
    DatasetRecord(
        "webnovel-zh", "AI-ModelScope/webnovel_cn", "zxbsmk/webnovel_cn",
        tags=("chat", "novel", "zh"),
    ),
    DatasetRecord("ms-agent", "iic/ms_agent", tags=("chat", "agent", "multi-round")),
    DatasetRecord(
        "ms-agent-for-agentfabric", "AI-ModelScope/ms_agent_for_agentfabric", subsets=("default", "addition"),
        tags=("chat", "agent", "multi-round"),
    ),
)  # fmt: skip
"""`alpaca-en` on Hugging Face also has a `text` column, which holds the whole prompt once more."""
