"""From a checked `ModelSource` to a tokenizer and a causal language model; what the machine has."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from swift import dist
from swift.arguments.quantised import QuantisedOptions
from swift.dist import Hardware
from swift.errors import DataError, MissingPackageError, SwiftError, brief
from swift.log import get_logger
from swift.models.files import file_settings
from swift.models.quantisation import method_of
from swift.models.quantised import config_for, hqq_settings, is_hqq, load_hqq, prepare_packages, quantise_hqq
from swift.models.source import ModelSource, find_model, with_weights
from swift.registry import unknown

logger = get_logger()

TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LENGTH_NAMES = (
    "seq_length",
    "max_position_embeddings",
    "n_positions",
    "model_max_length",
    "seq_len",
    "max_seq_len",
    "max_sequence_length",
    "max_seq_length",
)
UNUSED = "pooler."  # what an encoder's states go through for a task that is none of ours
LOAD_IN = {"load_in_8bit": 8, "load_in_4bit": 4}
READ_FROM_CONFIG = ("is_training", "is_awq", "is_aqlm", "gptq_bits", "max_length", "download_model")


def detect_hardware() -> Hardware:
    """What this machine computes on, and how many processes train together."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        free = dist.free_memory()
        return Hardware(world_size=dist.world_size(), memory=free and free // dist.local_world_size())
    bf16 = accelerator.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)  # needs-cuda
    memory = torch.cuda.mem_get_info(dist.local_rank())[0] if accelerator.type == "cuda" else None  # needs-cuda
    return Hardware(accelerator.type, bf16, dist.world_size(), memory)  # needs-cuda


def load_tokenizer(source: ModelSource, *, answers: bool = True) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token, `model_type` and `model_dir`, and an end token if it `answers`.

    Raises:
        DataError: its files are damaged, or it names no end token.
    """
    nowhere: dict[str, Any] = dict.fromkeys(file_settings(source.path))  # only files found in the directory are opened
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source.path), trust_remote_code=source.trusted, local_files_only=True, **nowhere
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _unloadable(source.path, "tokenizer", error) from error
    _finish_tokenizer(tokenizer, source, answers)
    return tokenizer


def load_model(
    source: ModelSource,
    torch_dtype: torch.dtype,
    *,
    device_map: str | Mapping[str, Any] | None = None,
    attn_implementation: str | None = None,
    quantization_config: Any = None,
    quantised: QuantisedOptions | None = None,
    auto_class: Any = AutoModelForCausalLM,
    fresh: tuple[str, ...] = (),
    **model_kwargs: Any,
) -> PreTrainedModel:
    """The model in `torch_dtype`, every weight of it read from its files.

    Args:
        source: what `find_model` gave; a hub model's weights are fetched when they are not there.
        torch_dtype: of all floating-point weights.
        device_map: where the parts go, as accelerate reads it; None keeps all on the CPU.
        attn_implementation: "eager", "sdpa", "flash_attention_2"; None for the best there is.
        quantization_config: of transformers, to quantise while loading; None loads as saved.
        quantised: options that say how to quantise while loading, decided; None or no method in it loads as saved.
        auto_class: of transformers; what stands on the layers, if anything.
        fresh: parts whose weights may be missing: they start at random then.
        model_kwargs: more for `from_pretrained`.

    Raises:
        DataError: weights are missing, damaged or of another shape.
        MissingPackageError: an optional package is needed.
    """
    source = with_weights(source)
    if not sys.stderr.isatty():
        disable_progress_bar()
    saved, method = method_of(source.config), quantised.quant_method if quantised else None
    if quantization_config is not None:
        method = method_of({"quantization_config": quantization_config.to_dict()})
    if saved or method:
        prepare_packages(saved or method)
        device_map = device_map or {"": _first_device()}
    if saved == "torchao":
        torch_dtype = saved_dtype(source)  # its tensors give what their scales are in, whatever is asked for
    if is_hqq(source):
        model = load_hqq(source, torch_dtype, _first_device())
        finish_model(model, source)
        return model
    if quantised is not None and method and not saved:
        quantization_config = config_for(quantised, source.config, torch_dtype, TORCH_DTYPES)
    options = {
        "device_map": device_map,
        "attn_implementation": attn_implementation,
        "quantization_config": quantization_config,
        **model_kwargs,
    }
    try:
        loaded: Any = auto_class.from_pretrained(
            str(source.path),
            dtype=torch_dtype,
            trust_remote_code=source.trusted,
            local_files_only=True,
            output_loading_info=True,
            **{name: value for name, value in options.items() if value is not None},
        )
    except ImportError as error:
        raise MissingPackageError("PACKAGE-01", f"{source.path} cannot be loaded: {brief(error)}") from error
    except UnpicklingError as error:
        raise DataError(
            "MODEL-01",
            f"{source.path}: its weights hold more than tensors",
            why="reading them could run code",
            fix="convert the weights to safetensors where you trust them",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, SafetensorError) as error:
        raise _unloadable(source.path, "model", error) from error
    model, report = loaded
    _check_complete(source.path, report, fresh)
    if quantised is not None and method == "hqq":
        made = quantise_hqq(model, *hqq_settings(quantised), torch_dtype)
        logger.info(f"hqq: {made}")
    finish_model(model, source)
    return model


def _first_device() -> str:
    accelerator = detect_hardware().accelerator
    return f"{accelerator}:{dist.local_rank()}" if accelerator else "cpu"


def get_model_tokenizer(
    model_type: str | None = None,
    torch_dtype: torch.dtype | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    load_model: bool = True,
    *,
    model_id_or_path: str | None = None,
    revision: str | None = None,
    use_flash_attn: bool | None = None,
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> tuple[PreTrainedModel | None, PreTrainedTokenizerBase]:
    """A model and its tokenizer, from a registered name, a hub id or a directory.

    Args:
        model_type: a registered name; None when `model_id_or_path` says it.
        torch_dtype: of the weights; None for the checkpoint's own on an accelerator, float32 on a CPU.
        model_kwargs: more for `from_pretrained`; `device_map` is "auto" on an accelerator unless given, and
            `load_in_8bit` or `load_in_4bit` holds the model in so many bits of bitsandbytes.
        load_model: False gives None for the model and fetches no weights.
        model_id_or_path: a directory or hub id; None for the registered one.
        revision: branch, tag or commit on the hub; None for the newest.
        use_flash_attn: True for flash-attention 2; None for the best there is.
        trust_remote_code: whether the model's own code may run.
        kwargs: `tokenizer` to use instead of the model's; names that are now read from the model's config.

    Raises:
        SwiftError: as `find_model`, `load_tokenizer` and `load_model` do.
    """
    given = kwargs.pop("tokenizer", None)
    for name in set(kwargs) - set(READ_FROM_CONFIG):
        raise unknown("argument of get_model_tokenizer", name, _argument_names())
    source = find_model(
        model_type, model_id_or_path, revision, download_weights=load_model, trust_remote_code=trust_remote_code
    )
    tokenizer = given or load_tokenizer(source)
    if not load_model:
        return None, tokenizer
    hardware = detect_hardware()
    alone = hardware.accelerator is not None and hardware.world_size == 1
    options: dict[str, Any] = {"device_map": "auto" if alone else None, **(model_kwargs or {})}
    if use_flash_attn:
        options["attn_implementation"] = "flash_attention_2"
    for name, bits in LOAD_IN.items():
        if options.pop(name, False):
            options["quantised"] = QuantisedOptions(quant_method="bnb", quantization_bit=bits)
    return _load_model(source, torch_dtype or default_dtype(source, hardware), **options), tokenizer


_load_model = load_model  # by the name that the flag `load_model` of `get_model_tokenizer` does not hide


def _argument_names() -> list[str]:
    return [*list(inspect.signature(get_model_tokenizer).parameters)[:-1], "tokenizer"]


def saved_dtype(source: ModelSource) -> torch.dtype:
    """The precision its weights are saved in, as config.json says; float32 when it does not."""
    name = str(source.config.get("dtype") or source.config.get("torch_dtype")).removeprefix("torch.")
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name, torch.float32)


def default_dtype(source: ModelSource, hardware: Hardware) -> torch.dtype:
    """The precision to load in when nobody says: float32 on a CPU, else the registered or saved half precision.

    That is bfloat16 for weights saved in float32, and float16 where the machine has no bfloat16.
    """
    if hardware.accelerator is None:
        return torch.float32
    registered = source.record.dtype if source.record else None
    half = TORCH_DTYPES[registered] if registered else saved_dtype(source)
    return torch.float16 if half is torch.float16 or not hardware.bf16 else torch.bfloat16


def get_max_model_len(config: Mapping[str, Any]) -> int | None:
    """The longest sequence the model was made for, in tokens; None when its config does not say."""
    lengths = [config[name] for name in LENGTH_NAMES if isinstance(config.get(name), int) and config[name] > 0]
    return min(lengths, default=None)


def _finish_tokenizer(tokenizer: Any, source: ModelSource, answers: bool) -> None:
    wanted = source.record.eos_token if source.record else None
    if wanted and wanted in tokenizer.get_vocab():
        tokenizer.eos_token = wanted
    if tokenizer.eos_token_id is None and answers:
        raise DataError(
            "MODEL-01",
            f"{source.path}: the tokenizer has no end token",
            why="without one no answer could end",
            fix='set "eos_token" in tokenizer_config.json',
        )
    if tokenizer.pad_token_id is None:
        own = source.record.pad_token if source.record else None
        tokenizer.pad_token = own if own and own in tokenizer.get_vocab() else tokenizer.eos_token
    tokenizer.model_type = source.name
    tokenizer.model_dir = str(source.path)


def finish_model(model: Any, source: ModelSource) -> None:
    """Give a loaded model `model_type`, `model_dir`, `max_model_len`, and a generation config that can be saved."""
    model.model_type = source.name
    model.model_dir = str(source.path)
    model.max_model_len = get_max_model_len(source.config)
    generation = model.generation_config if model.can_generate() else None
    if generation is not None and not generation.do_sample:
        try:
            generation.validate(strict=True)
        except ValueError:  # sampling values without sampling: such a config could not be saved again
            generation.do_sample = True


def _check_complete(directory: Path, report: Mapping[str, Any], fresh: tuple[str, ...] = ()) -> None:
    """Weights that no file had would be random numbers; only the parts `fresh` may be that."""
    allowed = (UNUSED, *(f"{part}." for part in fresh))
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(allowed))
    if missing:
        raise DataError(
            "MODEL-01",
            f"{directory} lacks {len(missing)} weights of the model: {', '.join(missing[:5])}",
            why="its files are of another architecture or incomplete",
            fix="check config.json, or download the model again",
        )
    unused = sorted(report["unexpected_keys"])
    if unused:
        logger.warning(f"{directory}: {len(unused)} weights are not used by this model: {', '.join(unused[:5])}")


def _unloadable(directory: Path, what: str, error: Exception) -> SwiftError:
    return DataError(
        "MODEL-01",
        f"{directory}: the {what} cannot be loaded: {brief(error)}",
        fix="check its files, or download it again",
    )
