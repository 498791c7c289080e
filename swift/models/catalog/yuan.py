"""Yuan 2.0, which come with code of their own. See https://arxiv.org/abs/2311.15786."""

from __future__ import annotations

from swift.models import MODELS, family

yuan = family("yuan", "YuanLLM", "IEITYuan", targets=("q_proj", "k_proj", "v_proj"), arch="YuanForCausalLM")

MODELS.add(
    yuan("yuan2-2b-instruct", "yuan", "Yuan2.0-2B-hf", "Yuan2-2B-hf"),
    yuan("yuan2-2b-janus-instruct", "yuan", "Yuan2-2B-Janus-hf"),
    yuan("yuan2-51b-instruct", "yuan", "Yuan2.0-51B-hf", "Yuan2-51B-hf"),
    yuan("yuan2-102b-instruct", "yuan", "Yuan2.0-102B-hf", "Yuan2-102B-hf"),
    yuan("yuan2-m32", "yuan", "Yuan2-M32-hf"),
)
