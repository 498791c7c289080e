"""Values that Python callers put into arguments are checked like typed ones."""

from __future__ import annotations

from typing import Any

import pytest

from swift.arguments.fields import check_values, to_json
from swift.arguments.sft import SftArguments


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, None),
        ({"num_train_epochs": 1, "learning_rate": 1}, None),
        ({"report_to": None, "gradient_checkpointing": None}, None),
        ({"lora_rank": 0}, "--lora_rank is 0, below its minimum 1"),
        ({"lora_rank": 8.0}, "--lora_rank takes a whole number, not 8.0"),
        ({"lora_rank": True}, "--lora_rank takes a whole number, not True"),
        ({"lora_rank": None}, "--lora_rank takes a whole number, not None"),
        ({"warmup_ratio": 2}, "--warmup_ratio is 2, above its maximum 1"),
        ({"learning_rate": float("nan")}, "--learning_rate is nan, below its minimum 0"),
        ({"dataset": "d"}, "--dataset takes a list, not 'd'"),
        ({"dataset": [1]}, "--dataset takes text, not 1"),
        ({"report_to": ["paper"]}, "--report_to cannot be 'paper'"),
        ({"dtype": "fp8"}, "--dtype cannot be 'fp8'"),
        ({"lr_scheduler_kwargs": []}, "--lr_scheduler_kwargs takes a JSON object, not []"),
    ],
)
def test_values_are_checked(options: dict[str, Any], says: str | None) -> None:
    assert [error.what for error in check_values(SftArguments(**options))] == ([says] if says else [])


def test_what_is_saved_is_plain() -> None:
    args = SftArguments(lr_scheduler_kwargs={"a": (1, None)}, training_options={"hub_token": "x", "b": {1: object}})
    saved = to_json(args)
    assert saved["lr_scheduler_kwargs"] == {"a": [1, None]}
    assert saved["training_options"] == {"hub_token": "***", "b": {"1": str(object)}}
