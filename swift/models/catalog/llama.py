"""Llama 2, 3, 3.1, 3.2, 3.3 and 4, text models, and what others made of them.

See https://arxiv.org/abs/2307.09288 and https://arxiv.org/abs/2407.21783.
"""

from __future__ import annotations

from swift.models import MODELS, family

SHAPE = {"targets": ("q_proj", "k_proj", "v_proj"), "arch": "LlamaForCausalLM"}
PAD = {"pad_token": "<|finetune_right_pad_id|>"}  # since 3.1
llama = family("llama", "LLM-Research", "meta-llama", **SHAPE, **PAD)
quant = family("llama", "swift", "study-hjt", dtype="fp16", **SHAPE)
quant3_1 = family("llama", "LLM-Research", "hugging-quants", dtype="fp16", **SHAPE, **PAD)
scout = family(
    "llama", "LLM-Research", "meta-llama", targets=("q_proj", "k_proj", "v_proj"), arch="Llama4ForConditionalGeneration"
)
chinese = family("chinese-llama", "AI-ModelScope", "hfl", **SHAPE)
chinese3 = family("chinese-llama", "ChineseAlpacaGroup", "hfl", **SHAPE)
atom = family("atom", "FlagAlpha", "FlagAlpha", **SHAPE)
AQLM, BNB = {"requires": ("aqlm",)}, {"requires": ("bitsandbytes",)}

MODELS.add(
    llama("llama2-7b", "default-generation", "modelscope/Llama-2-7b-ms", "Llama-2-7b-hf"),
    llama("llama2-7b-chat", "llama", "modelscope/Llama-2-7b-chat-ms", "Llama-2-7b-chat-hf"),
    llama("llama2-13b", "default-generation", "modelscope/Llama-2-13b-ms", "Llama-2-13b-hf"),
    llama("llama2-13b-chat", "llama", "modelscope/Llama-2-13b-chat-ms", "Llama-2-13b-chat-hf"),
    llama("llama2-70b", "default-generation", "modelscope/Llama-2-70b-ms", "Llama-2-70b-hf"),
    llama("llama2-70b-chat", "llama", "modelscope/Llama-2-70b-chat-ms", "Llama-2-70b-chat-hf"),
    llama("llama3-8b", "default-generation", "Meta-Llama-3-8B"),
    llama("llama3-8b-instruct", "llama3", "Meta-Llama-3-8B-Instruct"),
    quant("llama3-8b-instruct-awq", "llama3", "Meta-Llama-3-8B-Instruct-AWQ"),
    quant("llama3-8b-instruct-int4", "llama3", "Meta-Llama-3-8B-Instruct-GPTQ-Int4"),
    quant("llama3-8b-instruct-int8", "llama3", "Meta-Llama-3-8B-Instruct-GPTQ-Int8"),
    llama("llama3-70b", "default-generation", "Meta-Llama-3-70B"),
    llama("llama3-70b-instruct", "llama3", "Meta-Llama-3-70B-Instruct"),
    quant("llama3-70b-instruct-awq", "llama3", "Meta-Llama-3-70B-Instruct-AWQ"),
    quant("llama3-70b-instruct-int4", "llama3", "Meta-Llama-3-70B-Instruct-GPTQ-Int4"),
    quant(
        "llama3-70b-instruct-int8",
        "llama3",
        "Meta-Llama-3-70b-Instruct-GPTQ-Int8",
        "Meta-Llama-3-70B-Instruct-GPTQ-Int8",
    ),
    llama("llama3_1-8b", "default-generation", "Meta-Llama-3.1-8B"),
    llama("llama3_1-8b-instruct", "llama3", "Meta-Llama-3.1-8B-Instruct"),
    quant3_1("llama3_1-8b-instruct-awq", "llama3", "Meta-Llama-3.1-8B-Instruct-AWQ-INT4"),
    quant3_1("llama3_1-8b-instruct-gptq-int4", "llama3", "Meta-Llama-3.1-8B-Instruct-GPTQ-INT4"),
    llama("llama3_1-70b", "default-generation", "Meta-Llama-3.1-70B"),
    llama("llama3_1-70b-instruct", "llama3", "Meta-Llama-3.1-70B-Instruct"),
    quant3_1("llama3_1-70b-instruct-awq", "llama3", "Meta-Llama-3.1-70B-Instruct-AWQ-INT4"),
    quant3_1("llama3_1-70b-instruct-gptq-int4", "llama3", "Meta-Llama-3.1-70B-Instruct-GPTQ-INT4"),
    llama("llama3_1-405b", "default-generation", "Meta-Llama-3.1-405B"),
    llama("llama3_1-405b-instruct", "llama3", "Meta-Llama-3.1-405B-Instruct"),
    quant3_1("llama3_1-405b-instruct-awq", "llama3", "Meta-Llama-3.1-405B-Instruct-AWQ-INT4"),
    quant3_1("llama3_1-405b-instruct-gptq-int4", "llama3", "Meta-Llama-3.1-405B-Instruct-GPTQ-INT4"),
    llama("llama3_2-1b", "default-generation", "Llama-3.2-1B"),
    llama("llama3_2-1b-instruct", "llama3_2", "Llama-3.2-1B-Instruct"),
    llama("llama3_2-3b", "default-generation", "Llama-3.2-3B"),
    llama("llama3_2-3b-instruct", "llama3_2", "Llama-3.2-3B-Instruct"),
    llama("llama3_3-70b-instruct", "llama3_1", "Llama-3.3-70B-Instruct"),
    scout("llama4-scout-17b-16e", "default-generation", "Llama-4-Scout-17B-16E"),
    scout("llama4-scout-17b-16e-instruct", "llama4", "Llama-4-Scout-17B-16E-Instruct"),
    scout("llama4-maverick-17b-128e", "default-generation", "Llama-4-Maverick-17B-128E"),
    scout("llama4-maverick-17b-128e-instruct", "llama4", "Llama-4-Maverick-17B-128E-Instruct"),
    llama(
        "llama2-7b-aqlm-2bit-1x16",
        "default-generation",
        "AI-ModelScope/Llama-2-7b-AQLM-2Bit-1x16-hf",
        "ISTA-DASLab/Llama-2-7b-AQLM-2Bit-1x16-hf",
        **AQLM,
    ),
    quant3_1("llama3_1-8b-instruct-bnb", "llama3", "Meta-Llama-3.1-8B-Instruct-BNB-NF4", **BNB),
    quant3_1(
        "llama3_1-70b-instruct-bnb",
        "llama3",
        "Meta-Llama-3.1-70B-Instruct-bnb-4bit",
        "unsloth/Meta-Llama-3.1-70B-Instruct-bnb-4bit",
        **BNB,
    ),
    quant3_1("llama3_1-405b-instruct-bnb", "llama3", "Meta-Llama-3.1-405B-Instruct-BNB-NF4", **BNB),
    llama("llama3_1-70b-instruct-fp8", "llama3", "Meta-Llama-3.1-70B-Instruct-FP8"),
    llama("llama3_1-405b-instruct-fp8", "llama3", "Meta-Llama-3.1-405B-Instruct-FP8"),
    llama(
        "llama-3.1-nemotron-70B-instruct-hf",
        "llama3",
        "AI-ModelScope/Llama-3.1-Nemotron-70B-Instruct-HF",
        "nvidia/Llama-3.1-Nemotron-70B-Instruct-HF",
    ),
    llama("reflection-llama_3_1-70b", "reflection", "Reflection-Llama-3.1-70B", "mattshumer/Reflection-Llama-3.1-70B"),
    llama(
        "longwriter-llama3_1-8b",
        "longwriter-llama3",
        "ZhipuAI/LongWriter-llama3.1-8b",
        "THUDM/LongWriter-llama3.1-8b",
    ),
    chinese("chinese-llama-2-1_3b", "default-generation", "chinese-llama-2-1.3b"),
    chinese("chinese-llama-2-7b", "default-generation", "chinese-llama-2-7b"),
    chinese("chinese-llama-2-7b-16k", "default-generation", "chinese-llama-2-7b-16k"),
    chinese("chinese-llama-2-7b-64k", "default-generation", "chinese-llama-2-7b-64k"),
    chinese("chinese-llama-2-13b", "default-generation", "chinese-llama-2-13b"),
    chinese("chinese-llama-2-13b-16k", "default-generation", "chinese-llama-2-13b-16k"),
    chinese("chinese-alpaca-2-1_3b", "llama", "chinese-alpaca-2-1.3b"),
    chinese("chinese-alpaca-2-7b", "llama", "chinese-alpaca-2-7b"),
    chinese("chinese-alpaca-2-7b-16k", "llama", "chinese-alpaca-2-7b-16k"),
    chinese("chinese-alpaca-2-7b-64k", "llama", "chinese-alpaca-2-7b-64k"),
    chinese("chinese-alpaca-2-13b", "llama", "chinese-alpaca-2-13b"),
    chinese("chinese-alpaca-2-13b-16k", "llama", "chinese-alpaca-2-13b-16k"),
    chinese3("llama-3-chinese-8b", "default-generation", "llama-3-chinese-8b"),
    chinese3("llama-3-chinese-8b-instruct", "llama3", "llama-3-chinese-8b-instruct"),
    atom("atom-7b", "default-generation", "Atom-7B"),
    atom("atom-7b-chat", "atom", "Atom-7B-Chat"),
)
