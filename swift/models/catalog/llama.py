"""Llama 2, 3, 3.1 and 3.2, text models.

See https://arxiv.org/abs/2307.09288 and https://arxiv.org/abs/2407.21783.
"""

from __future__ import annotations

from swift.models import MODELS, family

SHAPE = {"targets": ("q_proj", "k_proj", "v_proj"), "arch": "LlamaForCausalLM"}
llama = family("LLM-Research", "meta-llama", **SHAPE)
quant = family("swift", "study-hjt", dtype="fp16", **SHAPE)
quant3_1 = family("LLM-Research", "hugging-quants", dtype="fp16", **SHAPE)

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
)
