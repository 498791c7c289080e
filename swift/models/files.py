"""What a model directory must hold, checked from its small files and headers before anything is loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift.errors import DataError, NotFoundError, RefusedError, UsageError

ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3")
TEXT_PART = ("llama4",)  # several modalities, of which transformers loads the text part alone
NOTES = ("_name_or_path", "_commit_hash")
OF_TORCHAO = ("_type", "_data", "_version")  # how it writes its settings; the types are looked up in itself alone
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
TOKENIZER_FILES = (*VOCABULARIES, "tokenizer_config.json")
ADAPTER = "adapter_config.json"
HEADER_LIMIT_BYTES = 100 * 1024 * 1024


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError MODEL-01 for anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise _damaged(f"{path} holds a {type(content).__name__}, not an object")
    return content


def read_config(directory: Path) -> dict[str, Any]:
    """The model's config.json, once it is known to be harmless and a text model's.

    Raises:
        NotFoundError: there is no config.json.
        UsageError: the directory is an adapter's checkpoint.
        DataError: config.json cannot be read, or the model is not a text-to-text decoder.
        RefusedError: config.json asks for code from elsewhere.
    """
    path = directory / "config.json"
    if not path.is_file() or (directory / ADAPTER).is_file():  # beside an adapter, transformers loads another model
        raise _not_a_model(directory)
    config = read_json(path)
    _check_harmless(path, config)
    _check_kind(directory, config)
    return config


def check_tokenizer(directory: Path) -> None:
    """Raise DataError MODEL-01 unless the tokenizer's files are there and none of them lies elsewhere."""
    if not any((directory / name).is_file() for name in TOKENIZER_FILES) and not next(
        directory.glob("*.tiktoken"), None
    ):
        raise _damaged(f"{directory} has no tokenizer", fix="copy tokenizer.json and tokenizer_config.json there")
    path = directory / "tokenizer_config.json"
    for key, name in file_settings(directory).items():
        if not Path(name).is_absolute() and not _inside(directory, name):
            raise _damaged(f"{path}: {key} names {name!r}, which is not a file of this model", fix=f"remove {key}")


def has_vocabulary(directory: Path) -> bool:
    """Whether a directory has a tokenizer, not the settings of one alone."""
    return any((directory / name).is_file() for name in VOCABULARIES)


def file_settings(directory: Path) -> dict[str, str]:
    """The `*_file` settings of tokenizer_config.json: what its author's machine had, never to be opened."""
    path = directory / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    return {key: value for key, value in settings.items() if key.endswith("_file") and isinstance(value, str)}


def check_weights(directory: Path) -> None:
    """Raise DataError MODEL-01 unless every weight file is there and whole, as far as its header tells."""
    files = list(weight_files(directory))
    if not files:
        raise _damaged(f"{directory} has no weights", why="no *.safetensors and no pytorch_model*.bin")
    for path in files:
        if not path.is_file():
            raise _damaged(f"{path} is missing", why="the index of the weights names it", fix="download it again")
        if path.suffix == ".safetensors":
            _check_safetensors(path)


def weight_files(directory: Path) -> Iterator[Path]:
    """The files that hold a model's weights, as the single file or the index names them; they may be missing."""
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (directory / single).is_file():
            yield directory / single
            return
        if (directory / index).is_file():
            yield from _indexed(directory, directory / index)
            return


def _indexed(directory: Path, index: Path) -> Iterator[Path]:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise _damaged(f'{index} has no "weight_map" of names to files')
    for name in sorted(set(where.values())):
        if Path(name).name != name:
            raise _damaged(f"{index} names {name!r}, which lies outside the model's directory")
        yield directory / name


def _check_safetensors(path: Path) -> None:
    """The length of the header, the header, and tensors that follow each other up to the end of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length_bytes = file.read(8)
        length = struct.unpack("<Q", length_bytes)[0] if len(length_bytes) == 8 else size
        if length > min(size - 8, HEADER_LIMIT_BYTES):
            raise _damaged(f"{path} is cut or not safetensors", fix="download it again")
        text = file.read(length)
    try:
        header = json.loads(text)
        spans = sorted(tuple(entry["data_offsets"]) for name, entry in header.items() if name != "__metadata__")
        end = 0
        for begin, stop in spans:
            if begin != end or stop < begin:
                raise ValueError("overlap")
            end = stop
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise _damaged(f"{path} has a damaged header", fix="download it again") from None
    if 8 + length + end != size:
        raise _damaged(f"{path} has {size} bytes, its header says {8 + length + end}", fix="download it again")


def _check_harmless(path: Path, config: dict[str, Any]) -> None:
    """Refuse settings with which a config could load code (CVE-2026-4372)."""
    for key, value in _settings(config):
        attention = "attn_implementation" in key and isinstance(value, (str, dict)) and value not in ATTENTION
        private = key.startswith("_") and isinstance(value, (str, dict, list)) and key not in NOTES
        if attention or (private and "attn_implementation" not in key):
            raise RefusedError(
                "REFUSED-01",
                f"{path}: {key!r} = {value!r} is not accepted",
                why="such a setting can make the model load code from elsewhere",
                fix=f"remove {key!r} if you trust the model; attention is one of {', '.join(ATTENTION)}",
            )


def _settings(config: dict[str, Any], depth: int = 0, bits: bool = False) -> Iterator[tuple[str, Any]]:
    """Every setting, those inside of others too; `bits` says that they are of the quantisation."""
    for key, value in config.items():
        if not (bits and key in OF_TORCHAO):
            yield key, value
        if isinstance(value, dict) and depth < 8:
            yield from _settings(value, depth + 1, bits or key == "quantization_config")


def _check_kind(directory: Path, config: dict[str, Any]) -> None:
    modalities = [
        key
        for key in ("vision_config", "audio_config", "visual", "vision_tower", "mm_vision_tower", "audio")
        if config.get(key)
    ]
    if modalities and config.get("model_type") not in TEXT_PART:
        raise _unsupported(f"{directory} is a multimodal model (config.json has {modalities[0]!r})", "text models only")
    if config.get("is_encoder_decoder"):
        raise _unsupported(f"{directory} is an encoder-decoder model", "decoder-only models")
    if not isinstance(config.get("model_type"), str):
        raise _damaged(f'{directory / "config.json"} has no "model_type"')


def _not_a_model(directory: Path) -> Exception:
    if (directory / ADAPTER).is_file() or next(directory.glob(f"*/{ADAPTER}"), None):
        return UsageError(
            "USAGE-02",
            f"{directory} is a checkpoint with an adapter, not a model",
            fix=f"--ckpt_dir {directory}",
        )
    return NotFoundError("FOUND-01", f"{directory} has no config.json", why="a model's directory has one")


def _inside(directory: Path, name: str) -> bool:
    return Path(name).name == name and (directory / name).is_file()


def _damaged(what: str, why: str | None = None, fix: str | None = None) -> DataError:
    return DataError("MODEL-01", what, why=why, fix=fix)


def _unsupported(what: str, supported: str) -> DataError:
    return DataError("MODEL-02", what, why=f"this version handles {supported}")
