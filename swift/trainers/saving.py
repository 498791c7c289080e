"""What a checkpoint holds besides the optimiser: weights of a tuner or a model, and the files that tell their use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from swift import storage
from swift.arguments.fields import to_json
from swift.arguments.sft import SftArguments
from swift.errors import DataError
from swift.models import new_tokens
from swift.peft.lora import LoRAModel
from swift.peft.prefix import PrefixModelForCausalLM
from swift.peft.wrapper import Wrapper
from swift.trainers.adalora import whole_ranks
from swift.tuners import files
from swift.tuners.groups import param_groups
from swift.tuners.lora import LoraConfig, is_relative
from swift.tuners.model import SwiftModel
from swift.tuners.relative import fold, unfold

CHAT_TEMPLATE = "chat_template.jinja"  # as transformers calls it
CONFIGURATION = "configuration.json"
ENCODER_FILE = "prompt_encoder.safetensors"
ADAPTER_OPTIONS = (
    "model_id_or_path",
    "model_revision",
    "sft_type",
    "tuner",
    "tuner_backend",
    "template_type",
    "dtype",
    "system",
)


def base_of(model: nn.Module) -> nn.Module:
    """The model under its tuners."""
    if isinstance(model, Wrapper):
        return model.model
    return model.get_base_model() if isinstance(model, (PeftModel, SwiftModel)) else model


def tuner_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]] | None:
    """The optimiser's parameter groups that the model's tuners ask for, None when they ask for nothing special."""
    if isinstance(model, SwiftModel):
        return model.create_optimizer_param_groups(lr=lr, weight_decay=weight_decay)
    if isinstance(model, LoRAModel) and model.lora_config.lora_plus_scale != 1:
        return model.create_optimizer_param_groups(lr=lr, weight_decay=weight_decay)
    configs = model.peft_config if isinstance(model, PeftModel) else {}
    if any(isinstance(config, LoraConfig) and config.lorap_lr_ratio is not None for config in configs.values()):
        return param_groups(model, configs, lr=lr, weight_decay=weight_decay)
    return None


def write_weights(model: nn.Module, directory: Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """Write the weights of a tuner, or of a whole model with its config, as safetensors.

    Args:
        model: a PeftModel or SwiftModel (tuner weights only), a PreTrainedModel, or any module; one of `swift.peft`
            writes its own files.
        directory: an existing directory.
        state_dict: the weights where `model` does not hold them all, as when they are sharded; None where it does.
    """
    if isinstance(model, SwiftModel):
        with whole_ranks(model):
            model.save_pretrained(directory, safe_serialization=True, state_dict=state_dict)
    elif isinstance(model, (PeftModel, PreTrainedModel)):
        with whole_ranks(model):
            model.save_pretrained(str(directory), state_dict=state_dict, **_rows_alone(model))
    elif isinstance(model, (LoRAModel, PrefixModelForCausalLM)):
        model.save_pretrained(directory)
    else:
        weights = {name: tensor.contiguous() for name, tensor in (state_dict or model.state_dict()).items()}
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def kept_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that are saved with a model's weights."""
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def write_config(model: nn.Module, directory: Path) -> None:
    """Write the config of a model whose weights lie elsewhere."""
    if isinstance(model, PreTrainedModel):
        model.config.architectures = [type(model).__name__.removeprefix("FSDP")]
        model.config.save_pretrained(str(directory))


def _rows_alone(model: nn.Module) -> dict[str, Any]:
    """What keeps PEFT from saving a whole embedding of which a few rows train, because it has more than before."""
    configs = model.peft_config.values() if isinstance(model, PeftModel) else ()
    trains_rows = any(vars(config).get("trainable_token_indices") for config in configs)
    return {"save_embedding_layers": False} if trains_rows else {}


def write_chat_template(directory: Path, tokenizer: Any) -> None:
    """Write the tokenizer's chat template where the tokenizer itself is not saved; several are left to the model."""
    if isinstance(tokenizer, PreTrainedTokenizerBase) and isinstance(tokenizer.chat_template, str):
        storage.write_text(directory / CHAT_TEMPLATE, tokenizer.chat_template)


def write_side_files(
    model: nn.Module,
    directory: Path,
    *,
    sft_args: SftArguments | None = None,
    stop_ids: Iterable[int] = (),
    copied: Iterable[str] = (),
) -> None:
    """Write `configuration.json`, `generation_config.json` and `sft_args.json`, and copy the files `copied`."""
    base = base_of(model)
    configuration = _read_json(directory / CONFIGURATION)
    if sft_args is not None:
        storage.write_json(directory / "sft_args.json", to_json(sft_args), private=True)
        if sft_args.model_id_or_path:
            configuration = _read_json(Path(sft_args.model_id_or_path) / CONFIGURATION) | configuration
        if sft_args.sft_type != "full":
            saved = to_json(sft_args)
            configuration["adapter_cfg"] = {name: saved.get(name) for name in ADAPTER_OPTIONS}
    storage.write_json(directory / CONFIGURATION, {"framework": "pytorch", "task": "text-generation", **configuration})
    if isinstance(base, PreTrainedModel) and base.can_generate() and base.generation_config is not None:
        _write_generation_config(base, directory, stop_ids)
    for path in copied:
        shutil.copy2(path, directory)


def write_new_tokens(model: nn.Module, directory: Path, tokenizer: Any, words: Iterable[str]) -> None:
    """Write which tokens the run added, with which ids."""
    base: Any = base_of(model)
    ids = {word: int(tokenizer.convert_tokens_to_ids(word)) for word in words}
    new_tokens.write(directory, new_tokens.NewTokens(ids, len(base.get_input_embeddings().weight)))


def _write_generation_config(base: PreTrainedModel, directory: Path, stop_ids: Iterable[int]) -> None:
    """The model's own generation config, which also stops where the template's turns end."""
    config = json.loads(base.generation_config.to_json_string(use_diff=True))
    known = config.get("eos_token_id")
    known = known if isinstance(known, list) else [known] if known is not None else []
    ends = list(dict.fromkeys([*known, *stop_ids]))
    if ends:
        config["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    storage.write_json(directory / "generation_config.json", config)


def load_adapters(model: SwiftModel, directory: Path) -> None:
    """Give a model's adapters the weights of a checkpoint.

    Raises:
        DataError: the names or shapes are not those of the model's adapters.
    """
    tensors: dict[str, Tensor] = {}
    for name, stored in files.find(directory).items():
        if name in model.adapters and not model.owned(name):
            continue  # noise has no weights
        found = files.read_tensors(stored.folder)
        tensors |= unfold(found) if is_relative(model.adapters.get(name)) else found
    if (directory / files.EXTRA_STATES).is_dir():
        tensors |= files.read_tensors(directory / files.EXTRA_STATES)
    model.load_state_dict(tensors)


def check_adapter_fits(model: PeftModel, directory: Path) -> None:
    """Make sure that a checkpoint has exactly the tensors of the model's active adapter, in the same shapes.

    Raises:
        DataError: it has not; up to five names are shown.
    """
    name = model.active_adapters[0]
    stored = files.find(directory).get(name)
    if stored is None:
        raise DataError("CKPT-02", f"{directory} has no adapter {name!r}")
    wanted = fold(get_peft_model_state_dict(model, adapter_name=name, **_rows_alone(model)))
    files.check_fit(wanted, files.read_tensors(stored.folder), str(directory))


def write_encoder(model: nn.Module, directory: Path) -> None:
    """Write the network that makes virtual tokens: PEFT's file has only what it made, which cannot be trained on."""
    for encoder in _encoders(model):
        state = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
        save_file(state, directory / ENCODER_FILE, metadata={"format": "pt"})


def read_encoder(model: nn.Module, directory: Path) -> bool:
    """Read that network again, where the model has one; say whether it has.

    Raises:
        DataError: the checkpoint has none, or one of another shape.
    """
    encoders = _encoders(model)
    for encoder in encoders:
        if not (directory / ENCODER_FILE).is_file():
            why = "without it the virtual tokens can be used, but not be trained further"
            raise DataError("CKPT-02", f"{directory} has no {ENCODER_FILE}", why=why)
        found = load_file(directory / ENCODER_FILE)
        files.check_fit(encoder.state_dict(), found, str(directory / ENCODER_FILE))
        encoder.load_state_dict(found)
    return bool(encoders)


def _encoders(model: Any) -> list[nn.Module]:
    """The networks of `p_tuning`, or of `prefix_tuning` with a projection, that train; at most one."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    projects = isinstance(config, PrefixTuningConfig) and config.prefix_projection
    if config is None or config.inference_mode or not (projects or isinstance(config, PromptEncoderConfig)):
        return []
    return [model.prompt_encoder[model.active_adapters[0]]]


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
