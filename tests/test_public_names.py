"""Every public name can be imported from where the stubs say, and the names users know are among them."""

from __future__ import annotations

import importlib

import pytest

SEED_NAMES = {
    "swift": "Swift LoraConfig AdapterConfig Seq2SeqTrainer Seq2SeqTrainingArguments SwiftModel get_logger".split(),
    "swift.llm": """
        DatasetName InferArguments ModelType SftArguments ExportArguments infer_main sft_main app_ui_main export_main
        get_model_tokenizer get_template inference inference_stream get_default_template_type TemplateType to_device
        merge_lora get_vllm_engine inference_vllm inference_stream_vllm VllmGenerationConfig prepare_vllm_engine_template
        LoRARequest
    """.split(),
    "swift.peft": "AutoModelForCausalLM LoRAConfig LoRAModel PrefixConfig PrefixModel PrefixModelForCausalLM".split(),
    "swift.tuners": "Swift SwiftModel SwiftConfig LoraConfig AdapterConfig".split(),
}
MODULES = list(SEED_NAMES)


@pytest.mark.parametrize("name", MODULES)
def test_every_exported_name_exists(name: str) -> None:
    module = importlib.import_module(name)
    assert set(SEED_NAMES[name]) <= set(module.__all__)
    for exported in module.__all__:
        assert getattr(module, exported) is not None
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("name", MODULES)
def test_a_name_that_does_not_exist(name: str) -> None:
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = importlib.import_module(name).nothing_like_this
