"""Mathematics, code, medicine, law and other subjects; and plain text."""

from __future__ import annotations

from swift.datasets import DATASETS, DatasetRecord

INSTRUCTION = {"instruction": "query", "output": "response"}
PROMPT = {"prompt": "query", "answer": "response"}
SQL = {"question": "instruction", "context": "input", "answer": "output"}

DATASETS.add(
    DatasetRecord(
        "blossom-math-zh", "AI-ModelScope/blossom-math-v2", "Azure99/blossom-math-v2",
        fill={"query": "{input}", "response": "{output}\n\nAnswer: {answer}"}, tags=("chat", "math", "zh"),
    ),
    DatasetRecord(
        "school-math-zh", "AI-ModelScope/school_math_0.25M", "BelleGroup/school_math_0.25M",
        tags=("chat", "math", "zh"),
    ),
    DatasetRecord(
        "math-instruct", "AI-ModelScope/MathInstruct", "TIGER-Lab/MathInstruct",
        columns=INSTRUCTION, tags=("math", "en"),
    ),
    DatasetRecord(
        "open-platypus-en", "AI-ModelScope/Open-Platypus", "garage-bAInd/Open-Platypus",
        tags=("chat", "math", "en"),
    ),
    DatasetRecord(
        "web-instruct-sub", "swift/WebInstructSub", "TIGER-Lab/WebInstructSub",
        columns={"question": "query", "answer": "response"}, tags=("science", "math", "en"),
    ),
    DatasetRecord(
        "code-alpaca-en", "wyj123456/code_alpaca_en", "sahil2801/CodeAlpaca-20k",
        tags=("chat", "coding", "en"),
    ),
    DatasetRecord(
        "codefuse-evol-instruction-zh", "codefuse-ai/Evol-instruction-66k",
        columns=INSTRUCTION, tags=("chat", "coding", "zh"),
    ),
    DatasetRecord(
        "codefuse-python-en", "codefuse-ai/CodeExercise-Python-27k",
        columns={"chat_rounds": "conversations"}, tags=("chat", "coding", "en"),
    ),
    DatasetRecord(
        "sql-create-context-en", "AI-ModelScope/sql-create-context", "b-mc2/sql-create-context",
        columns=SQL, tags=("chat", "sql", "en"),
    ),
    DatasetRecord(
        "text2sql-en", "AI-ModelScope/texttosqlv2_25000_v2", "Clinton/texttosqlv2_25000_v2",
        tags=("chat", "sql", "en"),
    ),
    DatasetRecord(
        "medical-en", "swift/medical_zh", subsets=("en",), split=("train", "val", "test"),
        columns={"input": "query", "output": "response"}, tags=("chat", "medical", "en"),
    ),
    DatasetRecord(
        "medical-zh", "swift/medical_zh", subsets=("zh",), split=("train", "val", "test"),
        columns=INSTRUCTION, tags=("chat", "medical", "zh"),
    ),
    DatasetRecord(
        "disc-med-sft-zh", "AI-ModelScope/DISC-Med-SFT", "Flmc/DISC-Med-SFT",
        tags=("chat", "medical", "zh"),
    ),
    DatasetRecord(
        "disc-law-sft-zh", "AI-ModelScope/DISC-Law-SFT", "ShengbinYue/DISC-Law-SFT",
        columns={"input": "query", "output": "response"}, tags=("chat", "law", "zh"),
    ),
    DatasetRecord(
        "lawyer-llama-zh", "AI-ModelScope/lawyer_llama_data", "Skepsun/lawyer_llama_data",
        columns={**INSTRUCTION, "history": "-"}, tags=("chat", "law", "zh"),
    ),
    DatasetRecord(
        "finance-en", "wyj123456/finance_en", "ssbuild/alpaca_finance_en",
        tags=("chat", "finance", "en"),
    ),
    DatasetRecord(
        "cls-fudan-news-zh", "damo/zh_cls_fudan-news",
        columns=PROMPT, tags=("chat", "classification", "zh"),
    ),
    DatasetRecord(
        "ner-jave-zh", "damo/zh_ner-JAVE", columns=PROMPT, tags=("chat", "ner", "zh"),
    ),
    DatasetRecord(
        "classical-chinese-translate", "swift/classical_chinese_translate",
        tags=("chat", "translation", "zh"),
    ),
    DatasetRecord(
        "poetry-zh", "modelscope/chinese-poetry-collection", split=("test",),
        columns={"text1": "text"}, tags=("text", "poetry", "zh"),
    ),
    DatasetRecord(
        "pileval", "swift/pile-val-backup", "mit-han-lab/pile-val-backup", split=("validation",),
        tags=("text", "en"),
    ),
    DatasetRecord(
        "wikipedia-zh", "AI-ModelScope/wikipedia-cn-20230720-filtered", "pleisto/wikipedia-cn-20230720-filtered",
        columns={"completion": "text"}, tags=("text", "zh"),
    ),
)  # fmt: skip
