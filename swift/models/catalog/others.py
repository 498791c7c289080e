"""Families of one or two models. A family of more has a file of its own."""

from __future__ import annotations

from swift.models import MODELS, ModelRecord, family

QKV = ("q_proj", "k_proj", "v_proj")
LLAMA = {"targets": QKV, "arch": "LlamaForCausalLM"}
bluelm = family("bluelm", "vivo-ai", "vivo-ai", targets=QKV, arch="BlueLMForCausalLM")
codefuse = family("codefuse", "codefuse-ai", "codefuse-ai", **LLAMA)
dbrx = family("dbrx", "AI-ModelScope", "databricks", targets=("attn.Wqkv",), arch="DbrxForCausalLM")
grok = family("grok", "colossalai", "hpcai-tech", targets=QKV, arch="Grok1ModelForCausalLM")
mengzi = family("mengzi", "langboat", "Langboat", **LLAMA)
orion = family("orion", "OrionStarAI", "OrionStarAI", targets=QKV, arch="OrionForCausalLM")
polylm = family("polylm", "damo", "DAMO-NLP-MT", targets=("c_attn",), arch="GPT2LMHeadModel")
seqgpt = family("seqgpt", "damo", "DAMO-NLP", targets=("query_key_value",), arch="BloomForCausalLM")
skywork = family("skywork", "skywork", "Skywork", targets=QKV, arch="SkyworkForCausalLM")
sus = family("sus", "SUSTC", "SUSTech", **LLAMA)
ziya = family("ziya", "Fengshenbang", "IDEA-CCNL", **LLAMA)

MODELS.add(
    bluelm("bluelm-7b", "default-generation", "BlueLM-7B-Base"),
    bluelm("bluelm-7b-32k", "default-generation", "BlueLM-7B-Base-32K"),
    bluelm("bluelm-7b-chat", "bluelm", "BlueLM-7B-Chat"),
    bluelm("bluelm-7b-chat-32k", "bluelm", "BlueLM-7B-Chat-32K"),
    codefuse("codefuse-codellama-34b-chat", "codefuse-codellama", "CodeFuse-CodeLlama-34B"),
    dbrx("dbrx-base", "dbrx", "dbrx-base"),
    dbrx("dbrx-instruct", "dbrx", "dbrx-instruct"),
    grok("grok-1", "default-generation", "grok-1-pytorch", "grok-1"),
    mengzi("mengzi3-13b-base", "mengzi", "Mengzi3-13B-Base"),
    orion("orion-14b", "default-generation", "Orion-14B-Base"),
    orion("orion-14b-chat", "orion", "Orion-14B-Chat"),
    polylm("polylm-13b", "default-generation", "nlp_polylm_13b_text_generation", "polylm-13b"),
    seqgpt("seqgpt-560m", "default-generation", "nlp_seqgpt-560m", "SeqGPT-560M"),
    skywork("skywork-13b", "default-generation", "Skywork-13B-base"),
    ModelRecord(
        "skywork-13b-chat",
        "skywork",
        "skywork/Skywork-13B-chat",
        targets=QKV,
        arch="SkyworkForCausalLM",
        family="skywork",
    ),
    sus("sus-34b-chat", "sus", "SUS-Chat-34B"),
    ziya("ziya2-13b", "default-generation", "Ziya2-13B-Base"),
    ziya("ziya2-13b-chat", "ziya", "Ziya2-13B-Chat"),
)
