"""ChatGLM2, ChatGLM3, GLM-4 and GLM-Edge. See https://arxiv.org/abs/2406.12793."""

from __future__ import annotations

from swift.models import MODELS, family

chatglm = family("ZhipuAI", "THUDM", targets=("query_key_value",), arch="ChatGLMModel")
edge = family("ZhipuAI", "THUDM", targets=("q_proj", "k_proj", "v_proj"), arch="GlmForCausalLM")

MODELS.add(
    chatglm("chatglm2-6b", "chatglm2", "chatglm2-6b"),
    chatglm("chatglm2-6b-32k", "chatglm2", "chatglm2-6b-32k"),
    chatglm("chatglm3-6b", "chatglm3", "chatglm3-6b"),
    chatglm("chatglm3-6b-128k", "chatglm3", "chatglm3-6b-128k"),
    chatglm("chatglm3-6b-32k", "chatglm3", "chatglm3-6b-32k"),
    chatglm("chatglm3-6b-base", "chatglm-generation", "chatglm3-6b-base"),
    chatglm("glm4-9b", "chatglm-generation", "glm-4-9b"),
    chatglm("glm4-9b-chat", "chatglm4", "glm-4-9b-chat"),
    chatglm("glm4-9b-chat-1m", "chatglm4", "glm-4-9b-chat-1m"),
    edge("glm-edge-1_5b-chat", "chatglm4", "glm-edge-1.5b-chat"),
    edge("glm-edge-4b-chat", "chatglm4", "glm-edge-4b-chat"),
)
