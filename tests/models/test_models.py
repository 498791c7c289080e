from __future__ import annotations

import subprocess
import sys

import pytest

from swift.errors import UnknownNameError
from swift.models import (
    MODELS,
    ModelRecord,
    ModelType,
    family,
    find_by_arch,
    find_by_hub_id,
    get_default_lora_target_modules,
    get_default_template_type,
)
from swift.registry import slug
from swift.templates import TEMPLATES

ROWS = MODELS.values()


@pytest.mark.parametrize(
    ("name", "template", "target", "ms", "hf"),
    [
        ("qwen-7b-chat", "qwen", "c_attn", "qwen/Qwen-7B-Chat", "Qwen/Qwen-7B-Chat"),
        ("qwen1half-0_5b", "default-generation", "q_proj", "qwen/Qwen1.5-0.5B", "Qwen/Qwen1.5-0.5B"),
        ("qwen2-7b-instruct", "qwen", "q_proj", "qwen/Qwen2-7B-Instruct", "Qwen/Qwen2-7B-Instruct"),
        ("qwen2-7b-instruct-int4", "qwen", "q_proj", "qwen/Qwen2-7B-Instruct-GPTQ-Int4", None),
        ("qwen2_5-0_5b-instruct", "qwen2_5", "q_proj", "qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("qwen2_5-7b-instruct-gptq-int8", "qwen2_5", "q_proj", "qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", None),
        ("chatglm3-6b", "chatglm3", "query_key_value", "ZhipuAI/chatglm3-6b", "THUDM/chatglm3-6b"),
        ("glm4-9b-chat", "chatglm4", "query_key_value", "ZhipuAI/glm-4-9b-chat", "THUDM/glm-4-9b-chat"),
        ("llama2-7b-chat", "llama", "q_proj", "modelscope/Llama-2-7b-chat-ms", "meta-llama/Llama-2-7b-chat-hf"),
        ("llama3-8b-instruct", "llama3", "q_proj", "LLM-Research/Meta-Llama-3-8B-Instruct", None),
        ("llama3_2-1b-instruct", "llama3_2", "q_proj", "LLM-Research/Llama-3.2-1B-Instruct", None),
        ("baichuan2-7b-chat", "baichuan", "W_pack", "baichuan-inc/Baichuan2-7B-Chat", None),
        ("internlm2_5-7b-chat", "internlm2", "wqkv", "Shanghai_AI_Laboratory/internlm2_5-7b-chat", None),
        ("yi-6b-chat", "yi", "q_proj", "01ai/Yi-6B-Chat", "01-ai/Yi-6B-Chat"),
        ("yi-1_5-9b-chat", "yi1_5", "q_proj", "01ai/Yi-1.5-9B-Chat", "01-ai/Yi-1.5-9B-Chat"),
        ("mistral-7b-instruct-v2", "llama", "q_proj", "AI-ModelScope/Mistral-7B-Instruct-v0.2", None),
        ("mixtral-moe-7b-instruct", "llama", "q_proj", "AI-ModelScope/Mixtral-8x7B-Instruct-v0.1", None),
        ("deepseek-7b-chat", "deepseek", "q_proj", "deepseek-ai/deepseek-llm-7b-chat", None),
        ("deepseek-v2-chat", "deepseek2", "kv_b_proj", "deepseek-ai/DeepSeek-V2-Chat", None),
        ("deepseek-v2_5", "deepseek2_5", "q_a_proj", "deepseek-ai/DeepSeek-V2.5", None),
        ("gemma2-9b-instruct", "gemma", "q_proj", "LLM-Research/gemma-2-9b-it", "google/gemma-2-9b-it"),
        ("phi3-4b-4k-instruct", "phi3", "qkv_proj", "LLM-Research/Phi-3-mini-4k-instruct", None),
    ],
)
def test_a_known_row(name: str, template: str, target: str, ms: str, hf: str | None):
    row = MODELS[name]
    assert (row.template, row.ms) == (template, ms)
    assert hf is None or row.hf == hf
    assert target in get_default_lora_target_modules(name)
    assert get_default_template_type(name) == template


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_whole(row: ModelRecord):
    assert row.template == "auto" or row.template in TEMPLATES
    assert row.targets
    assert row.family
    assert row.arch
    assert row.dtype in (None, "fp16", "bf16")
    for hub_id in (row.ms, row.hf):
        assert hub_id is None or hub_id.count("/") == 1
    assert slug(row.name).isidentifier()
    assert getattr(ModelType, slug(row.name)) == row.name


def test_no_two_rows_share_an_attribute_or_a_hub_id():
    assert len({slug(row.name) for row in ROWS}) == len(ROWS)
    for hub in ("ms", "hf"):
        ids = [getattr(row, hub).lower() for row in ROWS if getattr(row, hub)]
        assert len(set(ids)) == len(ids)


def test_hub_ids_are_found_whatever_their_capitals():
    assert find_by_hub_id("QWEN/qwen2-7b-INSTRUCT") is MODELS["qwen2-7b-instruct"]
    assert find_by_hub_id("meta-llama/Meta-Llama-3-8B") is MODELS["llama3-8b"]
    assert find_by_hub_id("nobody/nothing") is None
    assert find_by_hub_id("") is None


@pytest.mark.parametrize(
    ("arch", "target"),
    [("Qwen2ForCausalLM", "q_proj"), ("QWenLMHeadModel", "c_attn"), ("InternLM2ForCausalLM", "wqkv")],
)
def test_an_architecture_finds_its_targets(arch: str, target: str):
    row = find_by_arch(arch)
    assert row
    assert target in row.targets


def test_unknown_architectures_find_nothing():
    assert find_by_arch("NoSuchModel") is None
    assert find_by_arch("") is None


def test_a_wrong_name_hears_the_nearest():
    with pytest.raises(UnknownNameError, match="qwen-7b-chat"):
        get_default_template_type("qwen-7b-chta")


def test_a_repository_may_name_its_own_owner():
    row = family("those", "here", "there", targets=("a",), arch="A")
    assert row("n", "t", "r").family == "those"
    assert (row("n", "t", "r").ms, row("n", "t", "r").hf) == ("here/r", "there/r")
    assert (row("n", "t", "x/r", "s").ms, row("n", "t", "x/r", "s").hf) == ("x/r", "there/s")
    assert row("n", "t", "x/r").hf == "there/r"
    assert row("n", "t", "r", dtype="fp16").dtype == "fp16"
    assert family("those", None, "there")("n", "t", "r").ms is None


def test_looking_up_models_imports_nothing_heavy():
    code = (
        "import sys; from swift.models import ModelType; import swift.models.source;"
        "assert ModelType.qwen_7b_chat == 'qwen-7b-chat';"
        "assert not {'torch', 'transformers', 'peft', 'modelscope', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
