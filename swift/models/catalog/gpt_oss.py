"""gpt-oss, whose answers have channels (the harmony format). See https://arxiv.org/abs/2508.10925."""

from __future__ import annotations

from swift.models import MODELS, family

oss = family("gpt-oss", "openai-mirror", "openai", targets=("q_proj", "k_proj", "v_proj"), arch="GptOssForCausalLM")

MODELS.add(
    oss("gpt-oss-20b", "gpt-oss", "gpt-oss-20b"),
    oss("gpt-oss-120b", "gpt-oss", "gpt-oss-120b"),
)
