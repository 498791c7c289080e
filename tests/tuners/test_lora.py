"""The configs of LoRA: what they say, what they refuse, how they are saved, and the precision of what they make."""

from __future__ import annotations

import json
import math

import peft
import pytest
import torch

from swift.errors import ConfigError, MissingPackageError, UnknownNameError
from swift.tuners import LoRAConfig, LoraConfig, Swift, SwiftModel, lora
from tests.tuners.cases import HOSTS, run, stir, train

LM = HOSTS["lm"]
PLAIN = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def test_ours_gives_a_swift_model_in_our_layout(tmp_path):
    config = LoRAConfig(**PLAIN, lora_dropout=0.1, lorap_lr_ratio=None)
    model = Swift.prepare_model(LM.make(), config)
    assert isinstance(model, SwiftModel)
    train(model, LM)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "default/adapter_config.json").read_text())
    assert saved["swift_type"] == "LORA"
    assert {
        name: saved[name] for name in ("r", "lora_dtype", "lorap_lr_ratio", "lorap_emb_lr", "use_merged_linear")
    } == {
        "r": 4,
        "lora_dtype": None,
        "lorap_lr_ratio": None,
        "lorap_emb_lr": 1e-6,
        "use_merged_linear": False,
    }
    loaded = Swift.from_pretrained(LM.make(), tmp_path)
    assert isinstance(loaded, SwiftModel)
    assert type(loaded.adapters["default"]) is LoRAConfig
    assert torch.equal(run(loaded, LM), run(model, LM))


def test_ours_is_peft_s_and_can_be_combined_and_converted(tmp_path):
    theirs = peft.get_peft_model(LM.make(), peft.LoraConfig(**PLAIN))
    ours = Swift.prepare_model(LM.make(), LoRAConfig(**PLAIN))
    for model in (theirs, ours):
        stir(model)
    assert torch.equal(run(ours, LM), run(theirs, LM))
    ours.save_pretrained(tmp_path)
    Swift.save_to_peft_format(tmp_path, tmp_path)
    assert torch.equal(run(peft.PeftModel.from_pretrained(LM.make(), tmp_path), LM), run(theirs, LM))
    Swift.prepare_model(ours, {"other": LoRAConfig(**PLAIN)})
    stir(ours)
    both = run(ours, LM)
    ours.add_weighted_adapter(["default", "other"], [1.0, 1.0], "sum", combination_type="cat")
    assert torch.allclose(run(ours, LM), both, atol=1e-5)


def test_a_config_of_earlier_checkpoints_is_read(tmp_path):
    model = Swift.prepare_model(LM.make(), LoRAConfig(**PLAIN))
    stir(model)
    model.save_pretrained(tmp_path)
    file = tmp_path / "default/adapter_config.json"
    values = {**json.loads(file.read_text()), "model_key_mapping": None, "use_qa_lora": False, "group_size": None}
    file.write_text(json.dumps({key: value for key, value in values.items() if key != "base_fingerprint"}))
    assert torch.equal(run(Swift.from_pretrained(LM.make(), tmp_path), LM), run(model, LM))


@pytest.mark.parametrize("precision", ["fp16", "bfloat16", "fp32"])
@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["alone", "in a dict", "ours"])
def test_the_precision_that_was_asked_for(precision, base, kind):
    config = (LoRAConfig if kind == "ours" else LoraConfig)(**PLAIN, lora_dtype=precision)
    model = Swift.prepare_model(LM.make().to(base), {"a": config} if kind == "in a dict" else config)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {lora.DTYPES[precision]}
    stir(model)
    assert run(model, LM).dtype == base


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"use_qa_lora": True}, "use_qa_lora: QA-LoRA is not offered"),
        ({"group_size": 32}, "group_size: QA-LoRA is not offered"),
        ({"use_merged_linear": True}, "enable_lora"),
        ({"use_merged_linear": True, "enable_lora": [False, False]}, "enable_lora"),
        ({"enable_lora": [True, False]}, "use_merged_linear"),
        ({"use_merged_linear": True, "enable_lora": [True], "use_dora": True}, "use_dora"),
        ({"use_merged_linear": True, "enable_lora": [True], "init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"lorap_lr_ratio": 0.0}, "lorap_lr_ratio"),
        ({"lorap_lr_ratio": math.nan}, "lorap_lr_ratio"),
    ],
)
def test_what_makes_no_sense_is_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        LoRAConfig(**PLAIN, **options)


def test_an_unknown_precision_has_near_names():
    with pytest.raises(UnknownNameError, match="int8"):
        LoraConfig(lora_dtype="int8")


def test_loftq_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="scipy and bitsandbytes"):
        LoraConfig(**PLAIN, init_lora_weights="loftq", loftq_config=peft.LoftQConfig())
    config = LoraConfig(**PLAIN)
    config.init_lora_weights = "loftq"
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="GPU"):
            Swift.prepare_model(LM.make(), config)


def test_peft_s_own_file_stays_plain_peft(tmp_path):
    LoraConfig(**PLAIN, lora_dtype="fp32").save_pretrained(str(tmp_path))
    assert not set(json.loads((tmp_path / "adapter_config.json").read_text())) & set(lora.EXTRAS)
    beside = json.loads((tmp_path / "additional_config.json").read_text())
    assert beside == {"lora_dtype": "fp32", "lorap_lr_ratio": 16.0, "lorap_emb_lr": 1e-6}
