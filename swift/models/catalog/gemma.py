"""Gemma, Gemma 2 and the text models of Gemma 3.

See https://arxiv.org/abs/2403.08295, https://arxiv.org/abs/2408.00118 and https://arxiv.org/abs/2503.19786.
"""

from __future__ import annotations

from swift.models import MODELS, family

gemma = family("gemma", "LLM-Research", "google", targets=("q_proj", "k_proj", "v_proj"), arch="GemmaForCausalLM")
gemma2 = family("gemma", "LLM-Research", "google", targets=("q_proj", "k_proj", "v_proj"), arch="Gemma2ForCausalLM")
gemma3 = family("gemma", "LLM-Research", "google", targets=("q_proj", "k_proj", "v_proj"), arch="Gemma3ForCausalLM")

MODELS.add(
    gemma("gemma-2b", "default-generation", "AI-ModelScope/gemma-2b"),
    gemma("gemma-2b-instruct", "gemma", "AI-ModelScope/gemma-2b-it"),
    gemma("gemma-7b", "default-generation", "AI-ModelScope/gemma-7b"),
    gemma("gemma-7b-instruct", "gemma", "AI-ModelScope/gemma-7b-it"),
    gemma2("gemma2-2b", "default-generation", "gemma-2-2b"),
    gemma2("gemma2-2b-instruct", "gemma", "gemma-2-2b-it"),
    gemma2("gemma2-9b", "default-generation", "gemma-2-9b"),
    gemma2("gemma2-9b-instruct", "gemma", "gemma-2-9b-it"),
    gemma2("gemma2-27b", "default-generation", "gemma-2-27b"),
    gemma2("gemma2-27b-instruct", "gemma", "gemma-2-27b-it"),
    gemma3("gemma3-270m", "default-generation", "gemma-3-270m"),
    gemma3("gemma3-270m-instruct", "gemma3", "gemma-3-270m-it"),
    gemma3("gemma3-1b", "default-generation", "gemma-3-1b-pt"),
    gemma3("gemma3-1b-instruct", "gemma3", "gemma-3-1b-it"),
)
