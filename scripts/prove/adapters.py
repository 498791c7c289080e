"""F5: an adapter that does not belong to the model is refused, and not loaded without effect."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from scripts.prove.runs import VOCAB, place
from swift.errors import SwiftError
from swift.tuners import LoraConfig, Swift
from tests.tiny import tiny_model


def base(**config: Any) -> Any:
    return tiny_model(**{"vocab_size": VOCAB, "hidden": 32, **config})


def rename(pattern: str, to: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        file = directory / "adapter_model.safetensors"
        save_file({re.sub(pattern, to, name): tensor for name, tensor in load_file(file).items()}, file)

    return change


def add(directory: Path) -> None:
    file = directory / "adapter_model.safetensors"
    extra = {"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}
    save_file({**load_file(file), **extra}, file)


def say(**values: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        file = directory / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


CASES: dict[str, tuple[dict[str, Any], Callable[[Path], None] | None]] = {
    "the model has more layers": ({"layers": 3}, None),
    "the model has fewer layers": ({"layers": 1}, None),
    "another hidden size": ({"hidden": 64}, None),
    "tensors renamed": ({}, rename("q_proj", "query")),
    "tensors with the prefix module.": ({}, rename("^base_model", "module.base_model")),
    "a tensor too many": ({}, add),
    "another base of the same shapes": ({"seed": 1}, None),
    "another vocabulary": ({"vocab_size": VOCAB + 8}, None),
    "another kind of adapter in its config": ({}, say(peft_type="IA3", feedforward_modules=[])),
}


def refused(engine: str) -> tuple[int, int]:
    """How many of the cases end with an error; those of ours with one for the user."""
    good = 0
    with place() as here:
        for number, (config, change) in enumerate(CASES.values()):
            directory = here / str(number)
            tuned = Swift.prepare_model(
                base(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
            )
            tuned.save_pretrained(str(directory), safe_serialization=True)
            directory = directory if (directory / "adapter_config.json").is_file() else directory / "default"
            if change is not None:
                change(directory)
            good += _fails(engine, base(**config), directory)
    return good, len(CASES)


def _fails(engine: str, model: Any, directory: Path) -> bool:
    try:
        if engine == "swift":
            Swift.from_pretrained(model, str(directory))
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                PeftModel.from_pretrained(model, str(directory))
    except SwiftError:
        return True
    except Exception:
        return engine == "plain"
    return False
