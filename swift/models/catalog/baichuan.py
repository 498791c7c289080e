"""Baichuan and Baichuan 2. See https://arxiv.org/abs/2309.10305."""

from __future__ import annotations

from swift.models import MODELS, family

baichuan = family("baichuan", "baichuan-inc", "baichuan-inc", targets=("W_pack",), arch="BaichuanForCausalLM")

OLD = {"requires": ("transformers<4.34",)}

MODELS.add(
    baichuan("baichuan-7b", "default-generation", "baichuan-7B", "Baichuan-7B", **OLD),
    baichuan("baichuan-13b", "default-generation", "Baichuan-13B-Base", **OLD),
    baichuan("baichuan-13b-chat", "baichuan", "Baichuan-13B-Chat", **OLD),
    baichuan("baichuan2-7b", "default-generation", "Baichuan2-7B-Base"),
    baichuan("baichuan2-7b-chat", "baichuan", "Baichuan2-7B-Chat"),
    baichuan("baichuan2-7b-chat-int4", "baichuan", "Baichuan2-7B-Chat-4bits", dtype="bf16", requires=("bitsandbytes",)),
    baichuan("baichuan2-13b", "default-generation", "Baichuan2-13B-Base"),
    baichuan("baichuan2-13b-chat", "baichuan", "Baichuan2-13B-Chat"),
    baichuan(
        "baichuan2-13b-chat-int4", "baichuan", "Baichuan2-13B-Chat-4bits", dtype="bf16", requires=("bitsandbytes",)
    ),
)
