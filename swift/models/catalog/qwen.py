"""Qwen, Qwen1.5, Qwen2, Qwen2.5, Qwen3 and QwQ, text models, and what others made of them. A new size is one line.

See https://arxiv.org/abs/2309.16609, https://arxiv.org/abs/2407.10671, https://arxiv.org/abs/2412.15115 and
https://arxiv.org/abs/2505.09388.
"""

from __future__ import annotations

from collections.abc import Callable

from swift.models import MODELS, ModelRecord, family

QKV = ("q_proj", "k_proj", "v_proj")
first = family("qwen", "qwen", "Qwen", targets=("c_attn",), arch="QWenLMHeadModel", pad_token="<|endoftext|>")
dense = family("qwen", "qwen", "Qwen", targets=QKV, arch="Qwen2ForCausalLM")
experts = family("qwen", "qwen", "Qwen", targets=QKV, arch="Qwen2MoeForCausalLM")
dense3 = family("qwen", "Qwen", "Qwen", targets=QKV, arch="Qwen3ForCausalLM", eos_token="<|im_end|>")
experts3 = family("qwen", "Qwen", "Qwen", targets=QKV, arch="Qwen3MoeForCausalLM", eos_token="<|im_end|>")
hybrid3 = family("qwen", "Qwen", "Qwen", targets=QKV, arch="Qwen3NextForCausalLM", eos_token="<|im_end|>")
codefuse = family("codefuse", "codefuse-ai", "codefuse-ai", targets=("c_attn",), arch="QWenLMHeadModel")
agent = family("modelscope-agent", "iic", None, targets=("c_attn",), arch="QWenLMHeadModel")
finance = family("tongyi-finance", "TongyiFinance", "jxy", targets=("c_attn",), arch="QWenLMHeadModel")
marco = family("marco-o1", "marco_o1", "AIDC-AI", targets=QKV, arch="Qwen2ForCausalLM")


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


def third(
    row: Callable[..., ModelRecord], name: str, repository: str, quantised: str = "", base: bool = True
) -> list[ModelRecord]:
    """A Qwen3 that thinks when asked to, its base model where there is one, and its `quantised` ones."""
    rows = [row(name, "qwen3", repository)]
    if base:
        end = {"eos_token": "<|endoftext|>"}
        rows.append(row(f"{name}-base", "default-generation", f"{repository}-Base", **end))
    return rows + [row(f"{name}-{q.lower()}", "qwen3", f"{repository}-{q}", dtype="fp16") for q in quantised.split()]


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
    dense("qwen2_5-7b-instruct-1m", "qwen2_5", "Qwen/Qwen2.5-7B-Instruct-1M", eos_token="<|im_end|>"),
    dense("qwen2_5-14b-instruct-1m", "qwen2_5", "Qwen/Qwen2.5-14B-Instruct-1M", eos_token="<|im_end|>"),
    *size(dense, "qwen2_5-coder-32b", "Qwen2.5-Coder-32B", "Instruct", "qwen2_5", ALL),
    dense("qwq-32b-preview", "qwq", "Qwen/QwQ-32B-Preview", eos_token="<|im_end|>"),
    dense("qwq-32b", "auto", "Qwen/QwQ-32B", eos_token="<|im_end|>"),
    *third(dense3, "qwen3-0_6b", "Qwen3-0.6B", "GPTQ-Int8"),
    *third(dense3, "qwen3-1_7b", "Qwen3-1.7B", "GPTQ-Int8"),
    *third(dense3, "qwen3-4b", "Qwen3-4B", "AWQ"),
    *third(dense3, "qwen3-8b", "Qwen3-8B", "AWQ"),
    *third(dense3, "qwen3-14b", "Qwen3-14B", "AWQ"),
    *third(dense3, "qwen3-32b", "Qwen3-32B", "AWQ", base=False),
    *third(experts3, "qwen3-30b-a3b", "Qwen3-30B-A3B", "GPTQ-Int4"),
    *third(experts3, "qwen3-235b-a22b", "Qwen3-235B-A22B", "GPTQ-Int4", base=False),
    dense3("qwen3-4b-instruct-2507", "qwen3-instruct", "Qwen3-4B-Instruct-2507"),
    dense3("qwen3-4b-thinking-2507", "auto", "Qwen3-4B-Thinking-2507"),
    experts3("qwen3-30b-a3b-instruct-2507", "qwen3-instruct", "Qwen3-30B-A3B-Instruct-2507"),
    experts3("qwen3-30b-a3b-thinking-2507", "auto", "Qwen3-30B-A3B-Thinking-2507"),
    experts3("qwen3-235b-a22b-instruct-2507", "qwen3-instruct", "Qwen3-235B-A22B-Instruct-2507"),
    experts3("qwen3-235b-a22b-thinking-2507", "auto", "Qwen3-235B-A22B-Thinking-2507"),
    experts3("qwen3-coder-30b-a3b-instruct", "auto", "Qwen3-Coder-30B-A3B-Instruct"),
    experts3("qwen3-coder-480b-a35b-instruct", "auto", "Qwen3-Coder-480B-A35B-Instruct"),
    hybrid3("qwen3-next-80b-a3b-instruct", "qwen3-instruct", "Qwen3-Next-80B-A3B-Instruct"),
    hybrid3("qwen3-next-80b-a3b-thinking", "auto", "Qwen3-Next-80B-A3B-Thinking"),
    codefuse("codefuse-qwen-14b-chat", "codefuse", "CodeFuse-QWen-14B"),
    agent("modelscope-agent-7b", "modelscope-agent", "ModelScope-Agent-7B"),
    agent("modelscope-agent-14b", "modelscope-agent", "ModelScope-Agent-14B"),
    ModelRecord(
        "tongyi-finance-14b",
        "default-generation",
        "TongyiFinance/Tongyi-Finance-14B",
        targets=("c_attn",),
        arch="QWenLMHeadModel",
        family="tongyi-finance",
    ),
    finance("tongyi-finance-14b-chat", "qwen", "Tongyi-Finance-14B-Chat"),
    finance("tongyi-finance-14b-chat-int4", "qwen", "Tongyi-Finance-14B-Chat-Int4", dtype="fp16"),
    marco("marco-o1", "marco_o1", "Marco-o1", eos_token="<|im_end|>"),
)
