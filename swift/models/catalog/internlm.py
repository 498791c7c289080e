"""InternLM, InternLM2, InternLM2.5 and InternLM3. See https://arxiv.org/abs/2403.17297."""

from __future__ import annotations

from swift.models import MODELS, ModelRecord, family

internlm2 = family("internlm", "Shanghai_AI_Laboratory", "internlm", targets=("wqkv",), arch="InternLM2ForCausalLM")
QKV = ("q_proj", "k_proj", "v_proj")
internlm = family("internlm", "Shanghai_AI_Laboratory", "internlm", targets=QKV, arch="InternLMForCausalLM")
internlm3 = family("internlm", "Shanghai_AI_Laboratory", "internlm", targets=QKV, arch="InternLM3ForCausalLM")

MODELS.add(
    internlm("internlm-7b", "default-generation", "internlm-7b"),
    internlm("internlm-7b-chat", "internlm", "internlm-chat-7b"),
    ModelRecord(
        "internlm-7b-chat-8k",
        "internlm",
        "Shanghai_AI_Laboratory/internlm-chat-7b-8k",
        targets=QKV,
        arch="InternLMForCausalLM",
        family="internlm",
    ),
    internlm("internlm-20b", "default-generation", "internlm-20b"),
    internlm("internlm-20b-chat", "internlm", "internlm-chat-20b"),
    internlm2("internlm2-1_8b", "default-generation", "internlm2-1_8b"),
    internlm2("internlm2-1_8b-chat", "internlm2", "internlm2-chat-1_8b", eos_token="<|im_end|>"),
    internlm2("internlm2-1_8b-sft-chat", "internlm2", "internlm2-chat-1_8b-sft", eos_token="<|im_end|>"),
    internlm2("internlm2-7b", "default-generation", "internlm2-7b"),
    internlm2("internlm2-7b-base", "default-generation", "internlm2-base-7b"),
    internlm2("internlm2-7b-chat", "internlm2", "internlm2-chat-7b", eos_token="<|im_end|>"),
    internlm2("internlm2-7b-sft-chat", "internlm2", "internlm2-chat-7b-sft", eos_token="<|im_end|>"),
    internlm2("internlm2-20b", "default-generation", "internlm2-20b"),
    internlm2("internlm2-20b-base", "default-generation", "internlm2-base-20b"),
    internlm2("internlm2-20b-chat", "internlm2", "internlm2-chat-20b", eos_token="<|im_end|>"),
    internlm2("internlm2-20b-sft-chat", "internlm2", "internlm2-chat-20b-sft", eos_token="<|im_end|>"),
    internlm2("internlm2-math-7b", "default-generation", "internlm2-math-base-7b"),
    internlm2("internlm2-math-7b-chat", "internlm2", "internlm2-math-7b", eos_token="<|im_end|>"),
    internlm2("internlm2-math-20b", "default-generation", "internlm2-math-base-20b"),
    internlm2("internlm2-math-20b-chat", "internlm2", "internlm2-math-20b", eos_token="<|im_end|>"),
    internlm2("internlm2_5-1_8b", "default-generation", "internlm2_5-1_8b"),
    internlm2("internlm2_5-1_8b-chat", "internlm2", "internlm2_5-1_8b-chat", eos_token="<|im_end|>"),
    internlm2("internlm2_5-7b", "default-generation", "internlm2_5-7b"),
    internlm2("internlm2_5-7b-chat", "internlm2", "internlm2_5-7b-chat", eos_token="<|im_end|>"),
    internlm2("internlm2_5-7b-chat-1m", "internlm2", "internlm2_5-7b-chat-1m", eos_token="<|im_end|>"),
    internlm2("internlm2_5-20b", "default-generation", "internlm2_5-20b"),
    internlm2("internlm2_5-20b-chat", "internlm2", "internlm2_5-20b-chat", eos_token="<|im_end|>"),
    internlm3("internlm3-8b-instruct", "auto", "internlm3-8b-instruct", eos_token="<|im_end|>"),
)
