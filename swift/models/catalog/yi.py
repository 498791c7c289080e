"""Yi, Yi-1.5 and Yi-Coder: the Llama architecture. See https://arxiv.org/abs/2403.04652."""

from __future__ import annotations

from swift.models import MODELS, family

SHAPE = {"targets": ("q_proj", "k_proj", "v_proj"), "arch": "LlamaForCausalLM"}
yi = family("yi", "01ai", "01-ai", **SHAPE)
quant = family("yi", "AI-ModelScope", "modelscope", dtype="fp16", **SHAPE)

MODELS.add(
    yi("yi-6b", "default-generation", "Yi-6B"),
    yi("yi-6b-200k", "default-generation", "Yi-6B-200K"),
    yi("yi-6b-chat", "yi", "Yi-6B-Chat", eos_token="<|im_end|>"),
    yi("yi-6b-chat-awq", "yi", "Yi-6B-Chat-4bits", dtype="fp16", eos_token="<|im_end|>"),
    yi("yi-6b-chat-int8", "yi", "Yi-6B-Chat-8bits", dtype="fp16", eos_token="<|im_end|>"),
    yi("yi-9b", "default-generation", "Yi-9B"),
    yi("yi-9b-200k", "default-generation", "Yi-9B-200K"),
    yi("yi-34b", "default-generation", "Yi-34B"),
    yi("yi-34b-200k", "default-generation", "Yi-34B-200K"),
    yi("yi-34b-chat", "yi", "Yi-34B-Chat", eos_token="<|im_end|>"),
    yi("yi-34b-chat-awq", "yi", "Yi-34B-Chat-4bits", dtype="fp16", eos_token="<|im_end|>"),
    yi("yi-34b-chat-int8", "yi", "Yi-34B-Chat-8bits", dtype="fp16", eos_token="<|im_end|>"),
    yi("yi-coder-1_5b", "default-generation", "Yi-Coder-1.5B"),
    yi("yi-coder-1_5b-chat", "qwen", "Yi-Coder-1.5B-Chat"),
    yi("yi-coder-9b", "default-generation", "Yi-Coder-9B"),
    yi("yi-coder-9b-chat", "qwen", "Yi-Coder-9B-Chat"),
    yi("yi-1_5-6b", "default-generation", "Yi-1.5-6B"),
    yi("yi-1_5-6b-chat", "yi1_5", "Yi-1.5-6B-Chat"),
    quant("yi-1_5-6b-chat-awq-int4", "yi1_5", "Yi-1.5-6B-Chat-AWQ"),
    quant("yi-1_5-6b-chat-gptq-int4", "yi1_5", "Yi-1.5-6B-Chat-GPTQ"),
    yi("yi-1_5-9b", "default-generation", "Yi-1.5-9B"),
    yi("yi-1_5-9b-chat", "yi1_5", "Yi-1.5-9B-Chat"),
    yi("yi-1_5-9b-chat-16k", "yi1_5", "Yi-1.5-9B-Chat-16K"),
    quant("yi-1_5-9b-chat-awq-int4", "yi1_5", "Yi-1.5-9B-Chat-AWQ"),
    quant("yi-1_5-9b-chat-gptq-int4", "yi1_5", "Yi-1.5-9B-Chat-GPTQ"),
    yi("yi-1_5-34b", "default-generation", "Yi-1.5-34B"),
    yi("yi-1_5-34b-chat", "yi1_5", "Yi-1.5-34B-Chat"),
    yi("yi-1_5-34b-chat-16k", "yi1_5", "Yi-1.5-34B-Chat-16K"),
    quant("yi-1_5-34b-chat-awq-int4", "yi1_5", "Yi-1.5-34B-Chat-AWQ"),
    quant("yi-1_5-34b-chat-gptq-int4", "yi1_5", "Yi-1.5-34B-Chat-GPTQ"),
)
