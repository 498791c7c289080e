"""InternLM2 and InternLM2.5. See https://arxiv.org/abs/2403.17297."""

from __future__ import annotations

from swift.models import MODELS, family

internlm2 = family("Shanghai_AI_Laboratory", "internlm", targets=("wqkv",), arch="InternLM2ForCausalLM")

MODELS.add(
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
)
