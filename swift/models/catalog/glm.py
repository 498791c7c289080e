"""ChatGLM2, ChatGLM3, GLM-4, GLM-4.5, GLM-Edge and CodeGeeX. See https://arxiv.org/abs/2406.12793."""

from __future__ import annotations

from swift.models import MODELS, family

chatglm = family("glm", "ZhipuAI", "THUDM", targets=("query_key_value",), arch="ChatGLMModel")
edge = family("glm", "ZhipuAI", "THUDM", targets=("q_proj", "k_proj", "v_proj"), arch="GlmForCausalLM")
QKV = ("q_proj", "k_proj", "v_proj")
fourth = family("glm", "ZhipuAI", "zai-org", targets=QKV, arch="Glm4ForCausalLM")
experts = family("glm", "ZhipuAI", "zai-org", targets=QKV, arch="Glm4MoeForCausalLM")
OLD = {"requires": ("transformers<4.42",)}
OLDER = {"requires": ("transformers<4.34",)}

MODELS.add(
    chatglm("chatglm2-6b", "chatglm2", "chatglm2-6b", **OLD),
    chatglm("chatglm2-6b-32k", "chatglm2", "chatglm2-6b-32k", **OLD),
    chatglm("chatglm3-6b", "chatglm3", "chatglm3-6b", **OLD),
    chatglm("chatglm3-6b-128k", "chatglm3", "chatglm3-6b-128k", **OLD),
    chatglm("chatglm3-6b-32k", "chatglm3", "chatglm3-6b-32k", **OLD),
    chatglm("chatglm3-6b-base", "chatglm-generation", "chatglm3-6b-base", **OLD),
    chatglm("glm4-9b", "chatglm-generation", "glm-4-9b"),
    chatglm("glm4-9b-chat", "chatglm4", "glm-4-9b-chat"),
    chatglm("glm4-9b-chat-1m", "chatglm4", "glm-4-9b-chat-1m"),
    edge("glm-edge-1_5b-chat", "chatglm4", "glm-edge-1.5b-chat"),
    edge("glm-edge-4b-chat", "chatglm4", "glm-edge-4b-chat"),
    chatglm("codegeex2-6b", "chatglm-generation", "codegeex2-6b", **OLDER),
    chatglm("codegeex4-9b-chat", "codegeex4", "codegeex4-all-9b", **OLD),
    chatglm("longwriter-glm4-9b", "chatglm4", "LongWriter-glm4-9b"),
    chatglm(
        "codefuse-codegeex2-6b-chat",
        "codefuse",
        "codefuse-ai/CodeFuse-CodeGeeX2-6B",
        "codefuse-ai/CodeFuse-CodeGeeX2-6B",
        family="codefuse",
        **OLDER,
    ),
    edge("glm4-9b-hf", "default-generation", "glm-4-9b-hf"),
    edge("glm4-9b-chat-hf", "chatglm4", "glm-4-9b-chat-hf"),
    edge("glm4-9b-chat-1m-hf", "chatglm4", "glm-4-9b-chat-1m-hf"),
    fourth("glm4-9b-0414", "auto", "GLM-4-9B-0414"),
    fourth("glm4-32b-base-0414", "default-generation", "GLM-4-32B-Base-0414"),
    fourth("glm4-32b-0414", "auto", "GLM-4-32B-0414"),
    fourth("glm-z1-9b-0414", "auto", "GLM-Z1-9B-0414"),
    fourth("glm-z1-32b-0414", "auto", "GLM-Z1-32B-0414"),
    experts("glm4_5-air-base", "default-generation", "GLM-4.5-Air-Base"),
    experts("glm4_5-air", "glm4_5", "GLM-4.5-Air"),
    experts("glm4_5-base", "default-generation", "GLM-4.5-Base"),
    experts("glm4_5", "glm4_5", "GLM-4.5"),
    experts("glm4_6", "auto", "GLM-4.6"),
)
