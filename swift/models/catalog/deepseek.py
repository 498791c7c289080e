"""DeepSeek LLM, Coder, Math, MoE, V2, V2.5, V3, R1 and its distills, and NuminaMath, which is made of Math.

See https://arxiv.org/abs/2401.02954, https://arxiv.org/abs/2401.14196, https://arxiv.org/abs/2401.06066,
https://arxiv.org/abs/2405.04434, https://arxiv.org/abs/2412.19437 and https://arxiv.org/abs/2501.12948.
"""

from __future__ import annotations

from swift.models import MODELS, family

dense = family(
    "deepseek", "deepseek-ai", "deepseek-ai", targets=("q_proj", "k_proj", "v_proj"), arch="LlamaForCausalLM"
)
experts = family(
    "deepseek", "deepseek-ai", "deepseek-ai", targets=("q_proj", "k_proj", "v_proj"), arch="DeepseekForCausalLM"
)
latent = family(
    "deepseek",
    "deepseek-ai",
    "deepseek-ai",
    targets=("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
    arch="DeepseekV2ForCausalLM",
)
lite = family(
    "deepseek",
    "deepseek-ai",
    "deepseek-ai",
    targets=("q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
    arch="DeepseekV2ForCausalLM",
)
third = family(
    "deepseek",
    "deepseek-ai",
    "deepseek-ai",
    targets=("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
    arch="DeepseekV3ForCausalLM",
)
QKV = ("q_proj", "k_proj", "v_proj")
distilled = family("deepseek", "deepseek-ai", "deepseek-ai", targets=QKV, arch="Qwen2ForCausalLM")
numina = family("numina", "AI-ModelScope", "AI-MO", targets=QKV, arch="LlamaForCausalLM")

MODELS.add(
    dense("deepseek-7b", "default-generation", "deepseek-llm-7b-base"),
    dense("deepseek-7b-chat", "deepseek", "deepseek-llm-7b-chat"),
    dense("deepseek-67b", "default-generation", "deepseek-llm-67b-base"),
    dense("deepseek-67b-chat", "deepseek", "deepseek-llm-67b-chat"),
    dense("deepseek-coder-1_3b", "default-generation", "deepseek-coder-1.3b-base"),
    dense("deepseek-coder-1_3b-instruct", "deepseek-coder", "deepseek-coder-1.3b-instruct", eos_token="<|EOT|>"),
    dense("deepseek-coder-6_7b", "default-generation", "deepseek-coder-6.7b-base"),
    dense("deepseek-coder-6_7b-instruct", "deepseek-coder", "deepseek-coder-6.7b-instruct", eos_token="<|EOT|>"),
    dense("deepseek-coder-33b", "default-generation", "deepseek-coder-33b-base"),
    dense("deepseek-coder-33b-instruct", "deepseek-coder", "deepseek-coder-33b-instruct", eos_token="<|EOT|>"),
    dense("deepseek-math-7b", "default-generation", "deepseek-math-7b-base"),
    dense("deepseek-math-7b-chat", "deepseek", "deepseek-math-7b-rl"),
    dense("deepseek-math-7b-instruct", "deepseek", "deepseek-math-7b-instruct"),
    experts("deepseek-moe-16b", "default-generation", "deepseek-moe-16b-base"),
    experts("deepseek-moe-16b-chat", "deepseek", "deepseek-moe-16b-chat"),
    latent("deepseek-coder-v2", "default-generation", "DeepSeek-Coder-V2-Base"),
    latent("deepseek-coder-v2-instruct", "deepseek2", "DeepSeek-Coder-V2-Instruct"),
    latent("deepseek-v2", "default-generation", "DeepSeek-V2"),
    latent("deepseek-v2-chat", "deepseek2", "DeepSeek-V2-Chat"),
    latent("deepseek-v2_5", "deepseek2_5", "DeepSeek-V2.5"),
    lite("deepseek-coder-v2-lite", "default-generation", "DeepSeek-Coder-V2-Lite-Base"),
    lite("deepseek-coder-v2-lite-instruct", "deepseek2", "DeepSeek-Coder-V2-Lite-Instruct"),
    lite("deepseek-v2-lite", "default-generation", "DeepSeek-V2-Lite"),
    lite("deepseek-v2-lite-chat", "deepseek2", "DeepSeek-V2-Lite-Chat"),
    latent("deepseek-v2-chat-0628", "deepseek-v2", "DeepSeek-V2-Chat-0628"),
    latent("deepseek-coder-v2-instruct-0724", "deepseek2_5", "DeepSeek-Coder-V2-Instruct-0724"),
    latent("deepseek-v2_5-1210", "deepseek2_5", "DeepSeek-V2.5-1210"),
    third("deepseek-v3-base", "default-generation", "DeepSeek-V3-Base"),
    third("deepseek-v3", "deepseek-v3", "DeepSeek-V3"),
    third("deepseek-v3-0324", "deepseek-v3", "DeepSeek-V3-0324"),
    third("deepseek-r1-zero", "deepseek-r1", "DeepSeek-R1-Zero"),
    third("deepseek-r1", "deepseek-r1", "DeepSeek-R1"),
    third("deepseek-r1-0528", "auto", "DeepSeek-R1-0528"),
    distilled("deepseek-r1-distill-qwen-1_5b", "deepseek-r1", "DeepSeek-R1-Distill-Qwen-1.5B"),
    distilled("deepseek-r1-distill-qwen-7b", "deepseek-r1", "DeepSeek-R1-Distill-Qwen-7B"),
    distilled("deepseek-r1-distill-qwen-14b", "deepseek-r1", "DeepSeek-R1-Distill-Qwen-14B"),
    distilled("deepseek-r1-distill-qwen-32b", "deepseek-r1", "DeepSeek-R1-Distill-Qwen-32B"),
    distilled("deepseek-r1-0528-qwen3-8b", "auto", "DeepSeek-R1-0528-Qwen3-8B", arch="Qwen3ForCausalLM"),
    dense("deepseek-r1-distill-llama-8b", "deepseek-r1", "DeepSeek-R1-Distill-Llama-8B"),
    dense("deepseek-r1-distill-llama-70b", "deepseek-r1", "DeepSeek-R1-Distill-Llama-70B"),
    numina("numina-math-7b", "numina-math", "NuminaMath-7B-TIR"),
)
