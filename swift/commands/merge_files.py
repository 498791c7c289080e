"""What goes into a merged model besides weights: config, index, tokenizer, code, and the options of its training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swift import dist, storage
from swift._lazy import named
from swift.arguments.fields import to_json
from swift.arguments.infer import CheckpointOptions
from swift.commands.chosen import read_saved
from swift.merging.plan import Plan
from swift.merging.stream import Written
from swift.models import new_tokens
from swift.models.files import read_json
from swift.models.source import ModelSource

KINDS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py", ".vocab", ".bpe")  # of a model's small files
NOT_THE_MODELS = ("sft_args.json", "training_args.json", "trainer_state.json", "configuration.json", storage.MANIFEST)
INDEX = "model.safetensors.index.json"
ROOM = 1.5  # of the weights in float32, of which one model at a time is in memory
NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def fits(source: ModelSource) -> bool:
    """Whether the model in float32 fits into the memory that is free."""
    free = dist.free_memory()
    width = {"float32": 1, "None": 1}.get(str(source.config.get("dtype") or source.config.get("torch_dtype")), 2)
    return free is None or ROOM * width * source.weight_bytes < free


def write(
    args: CheckpointOptions, source: ModelSource, checkpoint: Path, stage: Path, plan: Plan, done: Written
) -> None:
    """Write everything but weights into `stage`: byte for byte the base's, but for what the merge changed."""
    for path in _small_files(source.path):
        shutil.copy2(path, stage / path.name)
    _write_config(args, source.path, stage, plan)
    if len(plan.items) > 1 or (source.path / INDEX).is_file():
        _write_index(source.path, stage, plan, done)
    if new_tokens.read(checkpoint) is not None or source.has_own_tokenizer(checkpoint):
        named("swift.commands.verify_merge:write_tokenizer")(source, checkpoint, stage)
    for name in ("generation_config.json", "chat_template.jinja", new_tokens.FILE):
        if (checkpoint / name).is_file():
            shutil.copy2(checkpoint / name, stage / name)
    write_options(args, checkpoint, stage)


def write_options(args: CheckpointOptions, checkpoint: Path, stage: Path) -> None:
    """Write the options that go with a merged model: the training's, now of a full model."""
    saved: dict[str, Any] = read_saved(checkpoint) or to_json(args)
    storage.write_json(stage / "sft_args.json", {**saved, "sft_type": "full"}, private=True)
    storage.write_json(stage / "configuration.json", {"framework": "pytorch", "task": "text-generation"})


def _small_files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        index = path.name.endswith(".index.json") or path.name in NOT_THE_MODELS
        if path.is_file() and path.suffix in KINDS and not index and not path.name.startswith("."):
            yield path


def _write_config(args: CheckpointOptions, base: Path, stage: Path, plan: Plan) -> None:
    """Change config.json where the merge changed what it says; elsewhere it stays as it is, byte for byte."""
    config = read_json(base / "config.json")
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    changes: dict[str, Any] = {}
    if plan.vocabulary is not None:
        changes["vocab_size"] = plan.vocabulary
    if args.dtype != "AUTO":
        changes["torch_dtype" if "torch_dtype" in config else "dtype"] = NAMES[args.dtype]
    if plan.untied:
        config["tie_word_embeddings"] = changes["tie_word_embeddings"] = False
    for name, value in changes.items():
        (text if name in text else config)[name] = value
    if changes:
        storage.write_text(stage / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def _write_index(base: Path, stage: Path, plan: Plan, done: Written) -> None:
    index = read_json(base / INDEX) if (base / INDEX).is_file() else {}
    if index.get("weight_map") == done.where and not plan.untied and plan.vocabulary is None:
        shutil.copy2(base / INDEX, stage / INDEX)
        return
    metadata = {**index.get("metadata", {}), "total_size": plan.bytes}
    storage.write_json(stage / INDEX, {"metadata": metadata, "weight_map": dict(sorted(done.where.items()))})
