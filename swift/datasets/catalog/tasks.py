"""Tasks put into words by a pattern, and instruction sets of more families."""

from __future__ import annotations

from swift.datasets import DATASETS, DatasetRecord

GEN_QA = (
    "code", "dialog", "general", "math", "mmlu", "multiple_choice", "writing", "academic", "task",
)  # fmt: skip


def classify(task: str, names: tuple[str, ...], pair: bool = False) -> dict[str, str]:
    """The columns of a classification row: its question with every category, and its answer."""
    sentences = "Sentence1: {sentence1}\nSentence2: {sentence2}" if pair else "Sentence: {sentence}"
    query = f"Task: {task}\n{sentences}\nCategory: {', '.join(names)}\nOutput:"
    return {"query": query, "response": "{label}"}


INFERENCE, SENTIMENT = ("neutral", "entailment", "contradiction"), ("negative", "positive")
BELLE = tuple(
    DatasetRecord(
        f"belle-train-{size}-CN", f"{owner}/train_{size}_CN", f"BelleGroup/train_{size}_CN",
        tags=("chat", "general", "zh"),
    )
    for size, owner in (
        ("0.5M", "AI-ModelScope"), ("1M", "AI-ModelScope"), ("2M", "AI-ModelScope"), ("3.5M", "swift"),
    )
)  # fmt: skip

DATASETS.add(
    DatasetRecord(
        "advertise-gen-zh", "lvjianjin/AdvertiseGen", "shibing624/AdvertiseGen", split=("train", "validation"),
        fill={"query": "Write an advertisement for these features.\nFeatures: {content}\nAdvertisement:",
              "response": "{summary}"},
        tags=("text-generation", "zh"),
    ),
    DatasetRecord(
        "cmnli-zh", "modelscope/clue", subsets=("cmnli",), split=("train", "validation"),
        labels={"label": INFERENCE}, fill=classify("Natural Language Inference", INFERENCE, pair=True),
        tags=("classification", "zh"),
    ),
    DatasetRecord(
        "jd-sentiment-zh", "DAMO_NLP/jd", split=("train", "validation"),
        labels={"label": SENTIMENT}, fill=classify("Sentiment Classification", SENTIMENT),
        tags=("classification", "zh"),
    ),
    DatasetRecord(
        "synthetic-text-to-sql", "AI-ModelScope/synthetic_text_to_sql", "gretelai/synthetic_text_to_sql",
        subsets=("default",), tags=("sql", "en"),
        fill={"query": "{sql_prompt}\n\nThe tables are:\n{sql_context}", "response": "{sql}\n\n{sql_explanation}"},
    ),
    DatasetRecord(
        "aya-collection", "swift/aya_collection", "CohereForAI/aya_collection", subsets=("aya_dataset",),
        columns={"inputs": "query", "targets": "response"}, tags=("chat", "multilingual"),
    ),
    *BELLE,
    DatasetRecord(
        "belle-generated-chat-0.4M", "AI-ModelScope/generated_chat_0.4M", "BelleGroup/generated_chat_0.4M",
        tags=("chat", "dialogue", "zh"),
    ),
    DatasetRecord(
        "belle-math-0.25M", "AI-ModelScope/school_math_0.25M", "BelleGroup/school_math_0.25M", tags=("math", "zh"),
    ),
    DatasetRecord(
        "codealpaca-20k", "AI-ModelScope/CodeAlpaca-20k", "HuggingFaceH4/CodeAlpaca_20K", tags=("coding", "en"),
    ),
    DatasetRecord(
        "dolphin", "swift/dolphin", "cognitivecomputations/dolphin",
        subsets=("flan1m-alpaca-uncensored", "flan5m-alpaca-uncensored"), tags=("chat", "en"),
    ),
    DatasetRecord(
        "duet", "AI-ModelScope/Duet-v0.5", "G-reen/Duet-v0.5", tags=("chat", "thought", "en"),
        columns={"rewritten_question": "query", "rewritten_answer": "response"},
    ),
    DatasetRecord(
        "gen-qa", "swift/GenQA", "tomg-group-umd/GenQA", split=GEN_QA, conversations={"conversations_key": "text"},
        tags=("chat", "en"),
    ),
    DatasetRecord(
        "guanaco-belle-merge", "AI-ModelScope/guanaco_belle_merge_v1.0", "Chinese-Vicuna/guanaco_belle_merge_v1.0",
        tags=("chat", "zh"),
    ),
    DatasetRecord(
        "lmsys-chat-1m", "AI-ModelScope/lmsys-chat-1m", "lmsys/lmsys-chat-1m", tags=("chat", "multi-round", "en"),
    ),
    DatasetRecord("longwriter-6k-filtered", "swift/longwriter-6k-filtered", tags=("chat", "long")),
    DatasetRecord("math-plus", "TIGER-Lab/MATH-plus", "TIGER-Lab/MATH-plus", split=("train",), tags=("math", "en")),
    DatasetRecord(
        "open-o1", "AI-ModelScope/OpenO1-SFT", "O1-OPEN/OpenO1-SFT", subsets=("default",),
        columns={"prompt": "query"}, tags=("chat", "thought"),
    ),
    DatasetRecord(
        "qwen2-pro-filtered", "AI-ModelScope/Magpie-Qwen2-Pro-300K-Filtered",
        "Magpie-Align/Magpie-Qwen2-Pro-300K-Filtered", tags=("chat", "en"),
    ),
    DatasetRecord("sft-nectar", "AI-ModelScope/SFT-Nectar", "AstraMindAI/SFT-Nectar", tags=("chat", "en")),
    DatasetRecord(
        "swift-mix", "swift/swift-sft-mixture", subsets=("sharegpt", "firefly", "codefuse", "metamathqa"),
        tags=("chat", "general"),
    ),
    DatasetRecord(
        "zhihu-kol", "OmniData/Zhihu-KOL", "wangrui6/Zhihu-KOL", subsets=("default",),
        columns={"INSTRUCTION": "query", "RESPONSE": "response"}, tags=("chat", "zh"),
    ),
    DatasetRecord(
        "zhihu-kol-filtered", "OmniData/Zhihu-KOL-More-Than-100-Upvotes", "bzb2023/Zhihu-KOL-More-Than-100-Upvotes",
        subsets=("default",), columns={"INSTRUCTION": "query", "RESPONSE": "response"}, tags=("chat", "zh"),
    ),
    DatasetRecord(
        "agent-instruct-all-en", "huangjintao/AgentInstruct_copy",
        subsets=("alfworld", "db", "kg", "mind2web", "os", "webshop"), tags=("chat", "agent", "en"),
    ),
    DatasetRecord(
        "damo-agent-zh", "damo/MSAgent-Bench", split=("train", "validation"), tags=("chat", "agent", "multi-round"),
    ),
    DatasetRecord("msagent-pro", "iic/MSAgent-Pro", tags=("chat", "agent", "multi-round")),
    DatasetRecord(
        "toolbench-for-alpha-umi", "shenweizhou/alpha-umi-toolbench-processed-v2",
        subsets=("backbone", "caller", "planner", "summarizer"),
        conversations={"user_role": "system", "system_role": "-"}, tags=("chat", "agent"),
    ),
)  # fmt: skip
