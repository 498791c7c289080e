"""Every spelling of a training argument, and how decided options become training arguments."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swift.arguments.sft import SftArguments
from swift.errors import ConfigError, MissingPackageError, UnknownNameError, UsageError
from swift.trainers import Seq2SeqTrainingArguments, training_arguments
from swift.trainers.arguments import trackers


def made(**said: Any) -> Seq2SeqTrainingArguments:
    return Seq2SeqTrainingArguments("out", use_cpu=True, **said)


@pytest.mark.parametrize(
    ("said", "name", "value"),
    [
        ({"evaluation_strategy": "steps", "eval_steps": 5}, "eval_strategy", "steps"),
        ({"warmup_ratio": 0.1}, "warmup_steps", 0.1),
        ({"warmup_ratio": 0.1, "warmup_steps": 7}, "warmup_steps", 7),
        ({"save_safetensors": False}, "save_only_model", False),
        ({"logging_dir": "x"}, "logging_dir", "x"),
        ({"group_by_length": True}, "train_sampling_strategy", "group_by_length"),
        ({"group_by_length": False}, "train_sampling_strategy", "random"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing", True),
        ({"push_to_hub_token": "t"}, "hub_token", "t"),
        ({"per_gpu_train_batch_size": 3}, "per_device_train_batch_size", 3),
        ({"adafactor": True}, "optim", "adafactor"),
        ({"adafactor": False, "overwrite_output_dir": True}, "optim", "adamw_torch_fused"),
        ({"label_names": ["targets"]}, "label_names", ["targets"]),
        ({}, "label_names", ["labels"]),
        ({"logging_nan_inf_filter": True}, "logging_nan_inf_filter", False),
    ],
)
def test_old_names_mean_what_they_meant(said: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(made(**said), name) == value


def test_a_warm_up_over_the_whole_run() -> None:
    assert made(warmup_ratio=1.0).get_warmup_steps(1000) == 1000
    assert made(warmup_ratio=0.05).get_warmup_steps(100) == 5


def test_batches_are_split_as_they_were() -> None:
    assert made(split_batches=True, dispatch_batches=False).accelerator_config.split_batches is True


def test_no_deprecation_is_left_for_the_user(recwarn: pytest.WarningsRecorder) -> None:
    made(gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False})
    assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]


def test_contradictions_and_unknown_names() -> None:
    with pytest.raises(ConfigError, match="contradicts eval_strategy='no'"):
        made(evaluation_strategy="steps", eval_strategy="no")
    assert made(evaluation_strategy="no", eval_strategy="no").eval_strategy == "no"
    with pytest.raises(UnknownNameError, match="no training argument is called 'learning_rat'") as caught:
        made(learning_rat=1)
    assert "learning_rate" in str(caught.value.fix)


def test_arguments_can_be_copied() -> None:
    args = made(evaluation_strategy="steps", eval_steps=3, acc_strategy="sentence")
    again = dataclasses.replace(args, learning_rate=1.0)
    assert (again.eval_steps, again.acc_strategy, again.learning_rate) == (3, "sentence", 1.0)


def decided(tmp_path: Path, **said: Any) -> SftArguments:
    basic = {"output_dir": str(tmp_path / "run"), "dtype": "fp32", "learning_rate": 1e-4, "report_to": ["none"]}
    return SftArguments(**{**basic, "gradient_accumulation_steps": 4, **said})


def test_decided_options_become_arguments(tmp_path: Path) -> None:
    args = training_arguments(
        decided(tmp_path, batch_size=3, save_total_limit=-1, warmup_ratio=0.1, metrics=["token-accuracy"], seed=7)
    )
    found = {name: getattr(args, name) for name in ("per_device_train_batch_size", "per_device_eval_batch_size")}
    assert found == {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 3}
    assert (args.save_total_limit, args.warmup_steps, args.data_seed, args.weight_decay) == (None, 0.1, 7, 0.1)
    assert (args.max_grad_norm, args.save_steps, args.eval_steps, args.run_name) == (0.5, 50, 50, "run")
    assert args.metric_names == ["token-accuracy"]
    assert args.eval_strategy == "steps"
    assert args.report_to == []
    assert args.remove_unused_columns is False
    assert (args.bf16, args.fp16) == (False, False)


def test_training_options_win(tmp_path: Path) -> None:
    options = {"optim": "adafactor", "warmup_ratio": 0.5, "evaluation_strategy": "no"}
    args = training_arguments(decided(tmp_path, training_options=options))
    assert (args.optim, args.warmup_steps, args.eval_strategy) == ("adafactor", 0.5, "no")
    with pytest.raises(UnknownNameError, match="optimm"):
        training_arguments(decided(tmp_path, training_options={"optimm": "x"}))


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"optim": "adamw_troch"}, "adamw_torch"),
        ({"lr_scheduler_type": "cosin"}, "'cosine'"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"powr": 2}}, "powr"),
        ({"training_options": {"eval_strategy": "often"}}, "often"),
    ],
)
def test_what_transformers_does_not_know_is_told_as_it_was_said(
    tmp_path: Path, said: dict[str, Any], word: str
) -> None:
    with pytest.raises(UsageError) as caught:
        training_arguments(decided(tmp_path, **said))
    assert word in str(caught.value)


def test_precision_follows_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def noted(**options: Any) -> SimpleNamespace:
        seen.update(options)
        return SimpleNamespace(**options)

    monkeypatch.setattr("swift.trainers.arguments.Seq2SeqTrainingArguments", noted)
    training_arguments(decided(tmp_path, dtype="bf16"))
    assert (seen["bf16"], seen["fp16"], seen["dataloader_pin_memory"]) == (True, False, True)


def test_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"tensorboard"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in there else None)
    assert trackers(None) == ["tensorboard"]
    assert trackers(["none"]) == []
    assert trackers(["all"]) == ["all"]
    assert trackers(["tensorboard"]) == ["tensorboard"]
    with pytest.raises(MissingPackageError, match="needs the package swanlab") as caught:
        trackers(["tensorboard", "swanlab"])
    assert caught.value.exit_code == 69
    there.clear()
    assert trackers(None) == []


def test_a_backend_is_for_several_processes_and_no_error_for_one(tmp_path: Path) -> None:
    training_arguments(SftArguments(output_dir=str(tmp_path), dtype="fp32", ddp_backend="gloo"))
