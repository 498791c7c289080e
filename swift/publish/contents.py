"""What of a directory that nobody made a list of belongs to a model, by the names that libraries give their files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

CARD = "README.md"
WEIGHTS, OLD_WEIGHTS = ("*.safetensors", "*.gguf"), ("*.bin",)
# Of transformers and tokenizers; of PEFT, ModelScope, sentence-transformers and quantisation; of swift.
FILES = ("config.json", "generation_config.json", "tokenizer*.json", "vocab.json", "added_tokens.json", "vocab.txt")
FILES += ("special_tokens_map.json", "*preprocessor_config.json", "processor_config.json", "chat_template.json")
FILES += ("merges.txt", "*.jinja", "*.model", "*.tiktoken", "*.vocab", "*.safetensors.index.json")
FILES += ("adapter_config.json", "configuration.json", "modules.json", "config_sentence_transformers.json")
FILES += ("sentence_*_config.json", "quantize_config.json", "quant_config.json", "hf_quant_config.json")
FILES += ("sft_args.json", "base_fingerprint.json", "Modelfile", CARD, "LICENSE*", "NOTICE*", "USE_POLICY*")
FILES += (
    "head.json",
    "new_tokens.json",
    "additional_config.json",
    "merge_report.json",
    "quantization_report.json",
    "gguf_report.json",
)
OLD_FILES = ("*.bin.index.json",)
WITH_CODE = ("config.json", "tokenizer_config.json", "*preprocessor_config.json", "processor_config.json")
IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import|^\s*from\s+\.\s+import\s+(\w+)", re.M)


def files_of_model(directory: Path, present: Sequence[str]) -> set[str]:
    """Those files of a directory that are a model's.

    They lie at its root, in folders with weights, or in those that `modules.json` names. Of Python they are the modules
    that `auto_map` of a configuration names, and what these import from beside them.

    Args:
        directory: of the model.
        present: its files, relative to it.
    """
    safe = any(name.endswith(".safetensors") for name in present)
    weights, patterns = (WEIGHTS, FILES) if safe else (WEIGHTS + OLD_WEIGHTS, FILES + OLD_FILES)
    folders = {str(Path(name).parent) for name in present if _is(name, weights)}
    folders |= {".", *_modules(directory)}
    found = {name for name in present if str(Path(name).parent) in folders and _is(name, weights + patterns)}
    return found | {name for folder in folders for name in _code(directory, folder, found)}.intersection(present)


def _is(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(Path(name).name, pattern) for pattern in patterns)


def _modules(directory: Path) -> Iterator[str]:
    """The folders of the parts of a sentence-transformers model."""
    told = _read(directory / "modules.json")
    for module in told if isinstance(told, list) else []:
        path = module.get("path") if isinstance(module, dict) else None
        if isinstance(path, str):
            yield str(Path(path))


def _code(directory: Path, folder: str, found: set[str]) -> set[str]:
    """The Python files that configurations in a folder name, with those that they import."""
    configs = [name for name in found if str(Path(name).parent) == folder and _is(name, WITH_CODE)]
    waiting = {module for name in configs for module in _named(_read(directory / name))}
    code: set[str] = set()
    while waiting:
        name = str(Path(folder, f"{waiting.pop()}.py"))
        if name not in code and (directory / name).is_file():
            code.add(name)
            text = (directory / name).read_text(encoding="utf-8", errors="replace")
            waiting |= {one or other for one, other in IMPORT.findall(text)}
    return code


def _named(config: Any) -> Iterator[str]:
    """The modules of `auto_map`: of `"modeling_x.Model"`, alone or in a list, `modeling_x`."""
    told = config.get("auto_map") if isinstance(config, dict) else None
    for value in told.values() if isinstance(told, dict) else []:
        for said in value if isinstance(value, list) else [value]:
            if isinstance(said, str) and "--" not in said:  # else it is code of another repository
                yield said.partition(".")[0]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
