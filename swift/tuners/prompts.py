"""PEFT's prompt methods beside other tuners: while one is active, PEFT's own model around the base runs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from typing import Any

import peft
from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING
from torch import nn

from swift.errors import ConfigError, DataError
from swift.tuners.branch import Active, attach
from swift.tuners.layers import prefixed
from swift.tuners.lora import kind_of
from swift.tuners.positions import Positions
from swift.tuners.sizes import check_sizes


class Prompt(Positions):
    """What a prompt method trains. It only says positions itself; as a child of the base it is saved and moved with it.

    Args:
        encoder: PEFT's module with the learnt tokens.
        model: the base.
    """

    def __init__(self, encoder: nn.Module, model: nn.Module) -> None:
        super().__init__(model)
        self.encoder = encoder


def surround(model: Any, config: peft.PeftConfig, name: str, active: Active, *, inference_mode: bool) -> peft.PeftModel:
    """PEFT's model around `model` for the prompt adapter `name`; its trained part is a child of `model` too.

    Raises:
        ConfigError: PEFT cannot put this prompt before this model.
    """
    kind, task = kind_of(config).value, str(config.task_type and peft.TaskType(config.task_type).value)
    if task not in MODEL_TYPE_TO_PEFT_MODEL_MAPPING:
        fix = f"task_type={' or '.join(MODEL_TYPE_TO_PEFT_MODEL_MAPPING)}"
        raise ConfigError("CONFIG-02", f"{kind} needs task_type, which says where the prompt goes", fix=fix)
    check_sizes(config)
    config = copy.deepcopy(config)
    config.base_model_name_or_path = model.__dict__.get("name_or_path") or config.base_model_name_or_path or None
    trains = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        around = MODEL_TYPE_TO_PEFT_MODEL_MAPPING[task](model, config, name)
    except (ValueError, TypeError, AttributeError, AssertionError) as error:
        raise ConfigError("CONFIG-02", f"{kind} does not go with {type(model).__name__}: {error}") from error
    finally:
        for parameter, trained in trains:  # PEFT freezes all that it finds, also other adapters
            parameter.requires_grad_(trained)
    prompt = Prompt(around.prompt_encoder[name], model)
    prompt.adapter, prompt.active = name, active
    for parameter in prompt.parameters():
        parameter.requires_grad_(parameter.requires_grad and not inference_mode)
    attach(model, f"prompt_learning_{name}", prompt)
    return around


def run(around: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call PEFT's model with the base's arguments, of which PEFT knows the order of only some.

    Raises:
        ConfigError: a prefix would be lost, as it is handed over in the cache, which checkpointing leaves out.
    """
    if _in_cache(around) and around.training and getattr(around.base_model, "is_gradient_checkpointing", False):
        fix = "gradient_checkpointing=False, or prompt tuning"
        raise ConfigError("CONFIG-02", "prefix tuning does not go with gradient checkpointing", fix=fix)
    named = inspect.signature(around.base_model.forward).bind_partial(*args).arguments
    with prefixed(_length_in_cache(around)):
        return _seeing(around)(**named, **kwargs)


def _length_in_cache(around: Any) -> int:
    return around.active_peft_config.num_virtual_tokens if _in_cache(around) else 0


def _in_cache(around: Any) -> bool:
    return kind_of(around.active_peft_config) in (peft.PeftType.PREFIX_TUNING, peft.PeftType.CARTRIDGE)


def generate(around: Any, *args: Any, **kwargs: Any) -> Any:
    """The base's `generate` with the prompt before what it is given."""
    with prefixed(_length_in_cache(around)):
        return _seeing(around).generate(*args, **kwargs)


def owned(model: nn.Module, name: str) -> dict[str, str]:
    """The prompt's keys in `model.state_dict()`, each with its pattern: `{}` stands for the adapter's name."""
    start = "prompt_learning_"
    prompt = model.get_submodule(f"{start}{name}")
    return {f"{start}{name}.{key}": f"{start}{{}}.{key}" for key in prompt.state_dict()}


def peft_keys(keys: Iterable[str], config: peft.PeftConfig) -> dict[str, str]:
    """The key in a file of PEFT's for each of our `keys` of a prompt: there is one, for the finished prompt.

    Raises:
        DataError: the prompt still comes out of a network that PEFT does not save.
    """
    keys = list(keys)
    if [key.endswith(".encoder.embedding.weight") for key in keys] != [True]:
        what = f"{kind_of(config).value}: PEFT saves the finished prompt, not the network that makes it"
        raise DataError("CKPT-03", what, fix="pass the config alone, without a dict, for a checkpoint of PEFT's")
    return {keys[0]: "prompt_embeddings"}


def _seeing(around: Any) -> Any:
    """`around`, which looks words up in the embedding as it is now, with the adapters in it."""
    if "get_input_embeddings" in dir(around.base_model):
        around.word_embeddings = around.base_model.get_input_embeddings()
    return around
