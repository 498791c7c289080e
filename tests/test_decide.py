"""said -> decided, as a table: pure functions, nothing loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from swift.arguments.infer import InferArguments
from swift.arguments.sft import SftArguments
from swift.decide import decide_dtype, decide_infer, decide_sft, decide_template, inherit, tidy, without_effect
from swift.dist import Hardware
from swift.errors import ConfigError, SeveralErrors, SwiftError, UsageError
from swift.models.source import ModelSource, find_model

CPU = Hardware()
OLD_GPU = Hardware("cuda", bf16=False)
NEW_GPU = Hardware("cuda", bf16=True)


@pytest.fixture(scope="session")
def source(tiny_dir: Path) -> ModelSource:
    return find_model(None, str(tiny_dir))


@pytest.fixture(scope="session")
def registered(tiny_dir: Path) -> ModelSource:
    return find_model("qwen2-7b-instruct", str(tiny_dir))


def said(**options: Any) -> SftArguments:
    return SftArguments(dataset=["x.jsonl"], **options)


@pytest.mark.parametrize(
    ("options", "hardware", "expected"),
    [
        ({}, CPU, {"learning_rate": 1e-4, "dtype": "fp32", "gradient_accumulation_steps": 16}),
        ({"sft_type": "full"}, CPU, {"learning_rate": 1e-5}),
        ({"learning_rate": 0.5}, CPU, {"learning_rate": 0.5}),
        ({"batch_size": 3}, CPU, {"gradient_accumulation_steps": 6, "eval_batch_size": 3}),
        ({"batch_size": 2}, replace(CPU, world_size=4), {"gradient_accumulation_steps": 2}),
        ({"batch_size": 64}, CPU, {"gradient_accumulation_steps": 1}),
        ({"gradient_accumulation_steps": 5}, CPU, {"gradient_accumulation_steps": 5}),
        ({"eval_steps": 7}, CPU, {"save_steps": 7}),
        ({"eval_steps": 7, "save_steps": 3}, CPU, {"save_steps": 3}),
        ({}, NEW_GPU, {"dtype": "bf16"}),
        ({}, OLD_GPU, {"dtype": "fp16"}),
        ({"gradient_checkpointing": False}, CPU, {"ddp_find_unused_parameters": True, "ddp_broadcast_buffers": True}),
        ({}, CPU, {"gradient_checkpointing": True, "ddp_find_unused_parameters": False}),
        ({"val_dataset": ["y.jsonl"]}, CPU, {"dataset_test_ratio": 0.0}),
        ({"model_name": ["小黄"], "model_author": ["a", "b"]}, CPU, {"model_name": ["小黄"] * 2, "model_author": ["a", "b"]}),
        ({}, CPU, {"template_type": "auto", "system": None, "model_type": None}),
        ({"template_type": "qwen"}, CPU, {"system": "You are a helpful assistant."}),
        ({"template_type": "qwen", "system": ""}, CPU, {"system": ""}),
        ({"sft_type": "prefix_tuning"}, CPU, {"gradient_checkpointing": False}),
        ({"sft_type": "full", "optim": "galore_adamw"}, CPU, {"optim": "adamw_torch", "use_galore": True, "galore_optim_per_parameter": False}),
        ({"sft_type": "full", "optim": "galore_adafactor_layerwise"}, CPU, {"optim": "adafactor", "galore_optim_per_parameter": True}),
        ({"sft_type": "vera"}, CPU, {"lora_target_modules": ["q_proj", "k_proj", "v_proj"]}),
        ({"sft_type": "adapter"}, CPU, {"lora_target_modules": ["DEFAULT"]}),
        ({"lora_target_modules": ["ALL"]}, CPU, {"lora_target_modules": ["ALL"]}),
        ({}, CPU, {"lora_target_modules": ["q_proj", "k_proj", "v_proj"]}),
        ({"lora_target_modules": ["DEFAULT", "o_proj"]}, CPU, {"lora_target_modules": "q_proj k_proj v_proj o_proj".split()}),
    ],
)  # fmt: skip
def test_decide_sft(options: dict[str, Any], hardware: Hardware, expected: dict[str, Any], source: ModelSource) -> None:
    before = said(**options)
    copy = replace(before)
    decided = decide_sft(before, hardware, source)
    assert {name: getattr(decided, name) for name in expected} == expected
    assert before == copy, "what was said has been written to"


def test_a_registered_model_brings_its_template(registered: ModelSource) -> None:
    decided = decide_sft(said(), CPU, registered)
    assert decided.model_type == "qwen2-7b-instruct"
    assert decided.template_type == "qwen"


@pytest.mark.parametrize(
    ("options", "hardware", "message"),
    [
        ({"num_train_epochs": 0}, CPU, "trains nothing"),
        ({"freeze_parameters": 0.5}, CPU, "--freeze_parameters only works"),
        ({"additional_trainable_parameters": ["lm_head"]}, CPU, "--additional_trainable_parameters only works"),
        ({"sft_type": "full", "dtype": "fp16"}, NEW_GPU, "cannot train fp16"),
        ({"dtype": "fp16"}, CPU, "needs a GPU"),
        ({"use_flash_attn": True}, CPU, "needs a GPU"),
        ({"use_flash_attn": True, "dtype": "fp32"}, NEW_GPU, "not in fp32"),
        ({"use_flash_attn": True}, OLD_GPU, "Ampere"),
        ({"dtype": "bf16"}, OLD_GPU, "does not compute in bf16"),
        ({"use_liger_kernel": True}, CPU, "needs a CUDA GPU"),
        ({"use_liger_kernel": True, "tuner_backend": "unsloth"}, NEW_GPU, "both put their own code into the layers"),
        ({"torch_compile": True, "deepspeed": "default-zero2"}, CPU, "--deepspeed fetches weights inside layers"),
        ({"torch_compile_backend": "aot_eager"}, CPU, "needs --torch_compile"),
        ({"torch_compile": True, "sft_type": "prefix_tuning"}, CPU, "a cache that they write to"),
        ({"torch_compile": True, "sft_type": "full", "lisa_activated_layers": 2}, CPU, "compile anew"),
        ({"max_steps": 0}, CPU, "trains nothing"),
        ({"early_stopping_patience": 2, "evaluation_strategy": "no"}, CPU, "needs evaluation"),
        ({"early_stopping_patience": 2, "dataset_test_ratio": 0.0}, CPU, "needs evaluation"),
        ({"save_only_model": True, "resume_from_checkpoint": "auto"}, CPU, "cannot be resumed"),
        ({"resume_only_model": True}, CPU, "does nothing without --resume_from_checkpoint"),
        ({"resume_only_model": True, "resume_from_checkpoint": "auto"}, CPU, "auto goes on with the old one"),
        ({"resume_only_model": True, "resume_from_checkpoint": "x", "sft_type": "full"}, CPU, "takes adapters"),
        ({"sft_type": "ia3"}, CPU, "needs --ia3_feedforward_modules"),
        ({"sft_type": "adalora", "lora_target_modules": ["EMBEDDING"]}, CPU, "cannot tune an embedding"),
        ({"sft_type": "adalora", "adalora_init_r": 8}, CPU, "ranks only shrink"),
        ({"sft_type": "adalora", "adalora_tinit": 3, "adalora_tfinal": 2, "max_steps": 5}, CPU, "leave none"),
        ({"sft_type": "adalora", "adalora_beta2": 1.0}, CPU, "to be above 0"),
        ({"optim": "muon", "lora_lr_ratio": 2.0}, CPU, "--optim muon and --lora_lr_ratio"),
        ({"optim": "adam_mini", "use_galore": True, "sft_type": "full"}, CPU, "--optim adam_mini and --use_galore"),
        ({"optim": "adam_mini"}, CPU, "--optim adam_mini is for the model's own matrices"),
        ({"optim": "apollo_adamw", "sft_type": "lora"}, CPU, "--sft_type full"),
        ({"max_tokens_per_batch": 9, "streaming": True, "max_steps": 1}, CPU, "needs the lengths of all rows"),
        ({"packing": True, "use_flash_attn": True, "batch_size": 2}, NEW_GPU, "rows of one pack apart, not of several"),
        ({"packing": True, "max_length": -1}, CPU, "--packing needs --max_length"),
        ({"packing": True, "padding_free": True}, CPU, "both put rows together"),
        ({"padding_free": True, "sft_type": "prompt_tuning"}, CPU, "--padding_free and prompt_tuning exclude"),
        ({"padding_free": True, "acc_strategy": "sentence"}, CPU, "which --padding_free puts together"),
        ({"sft_type": "prefix_tuning", "gradient_checkpointing": True}, CPU, "cannot checkpoint gradients"),
        ({"use_galore": True}, CPU, "--use_galore only works with --sft_type full"),
        ({"optim": "galore_adamw"}, CPU, "--use_galore only works with --sft_type full"),
        ({"lisa_activated_layers": 2}, CPU, "--lisa_activated_layers only works with --sft_type full"),
        ({"sft_type": "full", "use_galore": True, "lisa_activated_layers": 2}, CPU, "exclude each other"),
        ({"sft_type": "full", "neftune_noise_alpha": 5.0, "neftune_backend": "swift"}, CPU, "needs a tuner"),
        ({"sft_type": "adapter", "tuner": ["lora"]}, CPU, "both say what trains"),
        ({"deepspeed": "zero2", "fsdp": "full_shard"}, CPU, "both share the model"),
        ({"fsdp": "full_shard", "sft_type": "full", "use_galore": True}, CPU, "whole gradients"),
        ({"fsdp": "full_shard", "sft_type": "adalora"}, CPU, "adalora ranks"),
        ({"deepspeed": "zero2", "optim": "muon", "sft_type": "full"}, CPU, "whole matrices"),
        ({"deepspeed": "zero2", "device_map": "auto"}, CPU, "places one process's model"),
        ({"device_map": "auto"}, replace(CPU, world_size=2), "not with 2 processes"),
    ],
)
def test_contradictions(
    options: dict[str, Any], hardware: Hardware, message: str, source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swift.models.kernels.find_spec", lambda name: name)
    with pytest.raises(ConfigError, match=message):
        decide_sft(said(**options), hardware, source)


@pytest.mark.parametrize(("tuner", "message"), [("lroa:rank=3", "did you mean lora"), ("lora:3", "is not key=value")])
def test_a_tuner_that_is_not_known(tuner: str, message: str, source: ModelSource) -> None:
    with pytest.raises(UsageError, match=message):
        decide_sft(said(tuner=[tuner]), CPU, source)


def test_all_problems_come_at_once(source: ModelSource) -> None:
    with pytest.raises(SeveralErrors) as caught:
        decide_sft(
            said(batch_size=0, dtype="fp8", lora_dropout_p=2.0, weight_decay="x", freeze_parameters=0.1), CPU, source
        )
    text = str(caught.value)
    for part in (
        "--batch_size is 0",
        "--dtype cannot be 'fp8'",
        "--lora_dropout_p is 2.0",
        "a number, not 'x'",
        "--freeze",
    ):
        assert part in text
    with pytest.raises(UsageError, match="takes a list"):
        decide_sft(said(lora_modules_to_save="lm_head"), CPU, source)


def test_template_names_are_checked(source: ModelSource) -> None:
    assert decide_template("auto", source) == "auto"
    with pytest.raises(SwiftError, match="qwen"):
        decide_template("qwenn", source)


def test_dtype_said_is_obeyed(source: ModelSource) -> None:
    assert decide_dtype("bf16", CPU, source) == "bf16"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"eval_human": True, "stream": True, "infer_backend": "pt"}),
        ({"dataset": ["a"]}, {"eval_human": False}),
        ({"val_dataset": ["a"]}, {"eval_human": False, "dataset_test_ratio": 0.0}),
        ({"num_beams": 2}, {"stream": False}),
        ({"temperature": 0.0}, {"do_sample": False}),
    ],
)
def test_decide_infer(options: dict[str, Any], expected: dict[str, Any], source: ModelSource) -> None:
    decided = decide_infer(InferArguments(**options), CPU, source)
    assert {name: getattr(decided, name) for name in expected} == expected


def test_no_chat_and_no_data(source: ModelSource) -> None:
    with pytest.raises(UsageError, match="needs a data set"):
        decide_infer(InferArguments(eval_human=False), CPU, source)


SAVED = {
    "model_id_or_path": "m",
    "template_type": "qwen",
    "system": "s",
    "dtype": "bf16",
    "dataset": ["d"],
    "dataset_test_ratio": 0.5,
}


def test_what_is_said_wins_over_the_checkpoint() -> None:
    args, taken = inherit(InferArguments(dtype="fp32"), SAVED)
    assert taken == {"model_id_or_path": "m", "template_type": "qwen", "system": "s"}
    assert (args.dtype, args.system, args.dataset) == ("fp32", "s", [])


def test_data_comes_from_the_checkpoint_only_when_asked() -> None:
    args, taken = inherit(InferArguments(load_dataset_config=True), SAVED)
    assert (args.dataset, args.dataset_test_ratio) == (["d"], 0.5)
    args, taken = inherit(InferArguments(load_dataset_config=True, val_dataset=["v"]), SAVED)
    assert (args.dataset, args.val_dataset, "dataset_test_ratio" in taken) == ([], ["v"], False)


def test_nothing_that_runs_code_is_inherited() -> None:
    args, _ = inherit(InferArguments(), {"trust_remote_code": True, "custom_register_path": ["evil.py"]})
    assert not args.trust_remote_code
    assert args.custom_register_path == []


def test_tidy_accepts_what_python_callers_write(tmp_path: Path) -> None:
    named = tmp_path / "a,b.jsonl"
    named.touch()
    assert tidy(SftArguments(dataset="a.jsonl")).dataset == ["a.jsonl"]  # type: ignore[arg-type]
    assert tidy(SftArguments(dataset=["a,b"])).dataset == ["a", "b"]
    assert tidy(SftArguments(dataset=[str(named)])).dataset == [str(named)]
    assert tidy(SftArguments(lora_target_modules=("q",))).lora_target_modules == ["q"]  # type: ignore[arg-type]
    assert tidy(SftArguments(lora_target_modules=["q{1,2}|^k"])).lora_target_modules == ["q{1,2}|^k"]


def test_options_without_an_effect_are_named() -> None:
    assert without_effect(said()) == []
    assert without_effect(said(sft_type="full", lora_rank=77, use_dora=True)) == ["lora_rank", "use_dora"]
    assert without_effect(said(sft_type="adapter", lora_alpha=1, lora_target_modules=["mlp"])) == ["lora_alpha"]
    assert without_effect(said(adapter_length=3)) == ["adapter_length"]
    assert without_effect(said(sft_type="ia3", ia3_feedforward_modules=["x"], loha_rank=3)) == ["loha_rank"]
    assert without_effect(said(tuner=["lora", "adapter"], adapter_length=3, lora_rank=2, reft_rank=2)) == ["reft_rank"]
    assert without_effect(said(galore_rank=3, neftune_backend="swift")) == ["neftune_backend", "galore_rank"]
    assert without_effect(said(sft_type="full", use_galore=True, galore_rank=3, neftune_noise_alpha=5.0)) == []
