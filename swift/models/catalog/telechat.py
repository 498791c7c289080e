"""TeleChat, which come with code of their own. See https://arxiv.org/abs/2401.03804."""

from __future__ import annotations

from swift.models import MODELS, ModelRecord, family

SHAPE = {"targets": ("key_value", "query"), "arch": "TelechatForCausalLM"}
tele = family("telechat", "TeleAI", "Tele-AI", **SHAPE)

MODELS.add(
    tele("telechat-7b", "telechat", "TeleChat-7B", "telechat-7B"),
    tele("telechat-12b", "telechat", "TeleChat-12B"),
    tele("telechat-12b-v2", "telechat-v2", "TeleChat-12B-v2", eos_token="<_end>"),
    ModelRecord(
        "telechat-12b-v2-gptq-int4",
        "telechat-v2",
        "swift/TeleChat-12B-V2-GPTQ-Int4",
        dtype="fp16",
        eos_token="<_end>",
        family="telechat",
        **SHAPE,
    ),
    tele("telechat2-115b", "telechat2", "TeleChat2-115B", dtype="fp16", arch="Telechat2ForCausalLM"),
)
