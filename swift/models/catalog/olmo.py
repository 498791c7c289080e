"""OLMo 2. See https://arxiv.org/abs/2501.00656."""

from __future__ import annotations

from swift.models import MODELS, family

olmo2 = family("olmo", None, "allenai", targets=("q_proj", "k_proj", "v_proj"), arch="Olmo2ForCausalLM")

MODELS.add(
    olmo2("olmo2-1b", "default-generation", "OLMo-2-0425-1B"),
    olmo2("olmo2-1b-instruct", "olmo2", "OLMo-2-0425-1B-Instruct"),
    olmo2("olmo2-7b", "default-generation", "OLMo-2-1124-7B"),
    olmo2("olmo2-7b-instruct", "olmo2", "OLMo-2-1124-7B-Instruct"),
    olmo2("olmo2-13b", "default-generation", "OLMo-2-1124-13B"),
    olmo2("olmo2-13b-instruct", "olmo2", "OLMo-2-1124-13B-Instruct"),
    olmo2("olmo2-32b", "default-generation", "OLMo-2-0325-32B"),
    olmo2("olmo2-32b-instruct", "olmo2", "OLMo-2-0325-32B-Instruct"),
)
