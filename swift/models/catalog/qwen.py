"""Qwen, Qwen1.5, Qwen2 and Qwen2.5, text models. A new size is one line.

See https://arxiv.org/abs/2309.16609, https://arxiv.org/abs/2407.10671 and https://arxiv.org/abs/2412.15115.
"""

from __future__ import annotations

from collections.abc import Callable

from swift.models import MODELS, ModelRecord, family

QKV = ("q_proj", "k_proj", "v_proj")
first = family("qwen", "Qwen", targets=("c_attn",), arch="QWenLMHeadModel")
dense = family("qwen", "Qwen", targets=QKV, arch="Qwen2ForCausalLM")
experts = family("qwen", "Qwen", targets=QKV, arch="Qwen2MoeForCausalLM")


def size(
    row: Callable[..., ModelRecord], name: str, repository: str, chat: str, template: str, quantised: str = ""
) -> list[ModelRecord]:
    """Base, chat and `quantised` chat models of one size.

    Args:
        row: the family.
        name: the base model's: "qwen2-7b".
        repository: the base model's: "Qwen2-7B".
        chat: ending of the chat repository: "Instruct".
        template: the chat model's template.
        quantised: endings of the quantised repositories, such as "AWQ GPTQ-Int4"; of "GPTQ-Int4" the name keeps
            "int4", for Qwen2.5 all of it.
    """
    tuned = f"{name}-{chat.lower()}"
    end = {"eos_token": "<|im_end|>"}
    rows = [
        row(name, "default-generation", repository, eos_token="<|endoftext|>"),
        row(tuned, template, f"{repository}-{chat}", **end),
    ]
    for ending in quantised.split():
        short = ending.lower() if name.startswith("qwen2_5") else ending.lower().removeprefix("gptq-")
        rows.append(row(f"{tuned}-{short}", template, f"{repository}-{chat}-{ending}", dtype="fp16", **end))
    return rows


INTS, ALL = "Int4 Int8", "AWQ GPTQ-Int4 GPTQ-Int8"

MODELS.add(
    *size(first, "qwen-1_8b", "Qwen-1_8B", "Chat", "qwen", INTS),
    *size(first, "qwen-7b", "Qwen-7B", "Chat", "qwen", INTS),
    *size(first, "qwen-14b", "Qwen-14B", "Chat", "qwen", INTS),
    *size(first, "qwen-72b", "Qwen-72B", "Chat", "qwen", INTS),
    *size(dense, "qwen1half-0_5b", "Qwen1.5-0.5B", "Chat", "qwen", ALL),
    *size(dense, "qwen1half-1_8b", "Qwen1.5-1.8B", "Chat", "qwen", ALL),
    *size(dense, "qwen1half-4b", "Qwen1.5-4B", "Chat", "qwen", ALL),
    *size(dense, "qwen1half-7b", "Qwen1.5-7B", "Chat", "qwen", ALL),
    *size(dense, "qwen1half-14b", "Qwen1.5-14B", "Chat", "qwen", ALL),
    *size(dense, "qwen1half-32b", "Qwen1.5-32B", "Chat", "qwen", "AWQ GPTQ-Int4"),
    *size(dense, "qwen1half-72b", "Qwen1.5-72B", "Chat", "qwen", ALL),
    *size(dense, "qwen1half-110b", "Qwen1.5-110B", "Chat", "qwen", "AWQ GPTQ-Int4"),
    *size(experts, "qwen1half-moe-a2_7b", "Qwen1.5-MoE-A2.7B", "Chat", "qwen", "GPTQ-Int4"),
    *size(dense, "codeqwen1half-7b", "CodeQwen1.5-7B", "Chat", "qwen", "AWQ"),
    *size(dense, "qwen2-0_5b", "Qwen2-0.5B", "Instruct", "qwen", ALL),
    *size(dense, "qwen2-1_5b", "Qwen2-1.5B", "Instruct", "qwen", ALL),
    *size(dense, "qwen2-7b", "Qwen2-7B", "Instruct", "qwen", ALL),
    *size(dense, "qwen2-72b", "Qwen2-72B", "Instruct", "qwen", ALL),
    *size(experts, "qwen2-57b-a14b", "Qwen2-57B-A14B", "Instruct", "qwen", "GPTQ-Int4"),
    *size(dense, "qwen2-math-1_5b", "Qwen2-Math-1.5B", "Instruct", "qwen"),
    *size(dense, "qwen2-math-7b", "Qwen2-Math-7B", "Instruct", "qwen"),
    *size(dense, "qwen2-math-72b", "Qwen2-Math-72B", "Instruct", "qwen"),
    *size(dense, "qwen2_5-0_5b", "Qwen2.5-0.5B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-1_5b", "Qwen2.5-1.5B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-3b", "Qwen2.5-3B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-7b", "Qwen2.5-7B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-14b", "Qwen2.5-14B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-32b", "Qwen2.5-32B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-72b", "Qwen2.5-72B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-math-1_5b", "Qwen2.5-Math-1.5B", "Instruct", "qwen2_5"),
    *size(dense, "qwen2_5-math-7b", "Qwen2.5-Math-7B", "Instruct", "qwen2_5"),
    *size(dense, "qwen2_5-math-72b", "Qwen2.5-Math-72B", "Instruct", "qwen2_5"),
    *size(dense, "qwen2_5-coder-0_5b", "Qwen2.5-Coder-0.5B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-coder-1_5b", "Qwen2.5-Coder-1.5B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-coder-3b", "Qwen2.5-Coder-3B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-coder-7b", "Qwen2.5-Coder-7B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-coder-14b", "Qwen2.5-Coder-14B", "Instruct", "qwen2_5", ALL),
    *size(dense, "qwen2_5-coder-32b", "Qwen2.5-Coder-32B", "Instruct", "qwen2_5", ALL),
)
