"""Merge LoRA into its model: in float32, cast once, and checked against the unmerged model before it counts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from swift import storage
from swift.arguments.export import ExportArguments
from swift.arguments.fields import to_json
from swift.arguments.infer import CheckpointOptions, InferArguments
from swift.commands.prepare import (
    add_saved_rows,
    add_saved_tokens,
    find_source,
    from_checkpoint,
    load_plugins,
    read_saved,
    use_chat_template,
)
from swift.decide import tidy
from swift.errors import ConfigError, DataError, UsageError
from swift.log import get_logger
from swift.models import new_tokens
from swift.models.load import TORCH_DTYPES, load_model, load_tokenizer, saved_dtype
from swift.models.source import ModelSource
from swift.tuners import Swift, SwiftConfig, SwiftModel, files
from swift.tuners.files import Config
from swift.tuners.lora import kind_of

logger = get_logger()
LARGEST_DIFFERENCE = 1e-4
PROBE_TOKENS = 32
SIDE_FILES = ("*.py", "preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Equality:
    """How a merged model compares with the unmerged one on the same tokens.

    `difference` is the largest of any logit in float32, relative to the largest logit; `agreement` the share of
    positions whose likeliest token is the same after the cast to the saved dtype.
    """

    difference: float
    agreement: float


def merge_lora(
    args: InferArguments | ExportArguments, device_map: str | None = None, replace_if_exists: bool = False
) -> str:
    """Write `<ckpt_dir>-merged`, a plain model with the adapters of `args.ckpt_dir` merged in; return its path.

    `args` is not changed. An existing merged model is used as it is unless `replace_if_exists`.

    Raises:
        UsageError: no checkpoint is named.
        DataError: the checkpoint holds no LoRA, or merging would not be equal to the unmerged model.
    """
    if args.ckpt_dir is None:
        raise UsageError("USAGE-03", "merging needs a checkpoint", fix="--ckpt_dir <run>/checkpoint-<step>")
    wanted = from_checkpoint(tidy(args))
    directory = Path(str(wanted.ckpt_dir))
    if not files.folders(directory):
        raise DataError("MERGE-01", f"{directory} is a whole model: there is no LoRA in it to merge")
    output = _output_of(wanted, directory)
    replacing = replace_if_exists or (isinstance(args, ExportArguments) and args.replace_if_exists)
    load_plugins(wanted.custom_register_path)
    source = find_source(wanted)
    if output.exists() and not replacing:
        _check_existing(output, source)
        logger.info(f"already merged: {output} (--replace_if_exists true merges anew)")
        return str(output)
    _merge(wanted, source, directory, output, device_map or wanted.merge_device_map or "cpu")
    return str(output)


def _check_existing(output: Path, source: ModelSource) -> None:
    """Refuse a merged model that is damaged or was merged into another base."""
    problems = storage.verify(output)
    what = f"is damaged: {problems[0]}" if problems else None
    if not problems and (base := storage.read_manifest(output).get("base")) != str(source.path):
        what = f"was merged into {base}, not into {source.path}"
    if what:
        raise DataError("MERGE-01", f"{output} exists and {what}", fix="--replace_if_exists true")


def _output_of(args: CheckpointOptions, checkpoint: Path) -> Path:
    said = args.output_dir if isinstance(args, ExportArguments) else None
    return Path(said).expanduser().resolve() if said else checkpoint.with_name(f"{checkpoint.name}-merged")


def _merge(args: CheckpointOptions, source: ModelSource, checkpoint: Path, output: Path, device: str) -> None:
    if source.config.get("quantization_config"):
        raise ConfigError(
            "MERGE-01",
            f"{source.name} is quantised: merging into it would lose precision",
            fix="merge into its full model",
        )
    tokenizer = load_tokenizer(source)
    add_saved_tokens(tokenizer, checkpoint)
    use_chat_template(tokenizer, None, checkpoint)
    tuned = _load(args, source, checkpoint, device)
    dtype = TORCH_DTYPES[args.dtype] if args.dtype != "AUTO" else saved_dtype(source)
    merged, equality = merge_checked(tuned, dtype, len(tokenizer))
    logger.info(
        f"merged = unmerged: largest logit difference {equality.difference:.1e} in float32, "
        f"{equality.agreement:.1%} of likeliest tokens equal in {str(dtype).removeprefix('torch.')}"
    )
    rest = tuners_left(tuned)
    if rest:
        gone = [name for name in files.folders(checkpoint) if name not in rest]
        tuned = _load(args, source, checkpoint, device, gone)
        Swift.merge_and_unload(tuned)
        merged = tuned.model.to(dtype)
    with storage.staged_directory(output, {"base": str(source.path)}) as stage:
        merged.save_pretrained(stage)
        tokenizer.save_pretrained(stage)
        _save_side_files(args, source, checkpoint, stage)
    logger.info(f"merged model: {output}")
    if rest:
        _save_rest(args, merged, checkpoint, output, rest)


def _load(
    args: CheckpointOptions, source: ModelSource, checkpoint: Path, device: str, names: list[str] | None = None
) -> Any:
    base = load_model(source, torch.float32, device_map=device)
    add_saved_rows(base, checkpoint)
    allowed = args.allow_other_base
    return Swift.from_pretrained(base, str(checkpoint), names, inference_mode=True, allow_other_base=allowed).eval()


def tuners_left(tuned: Any) -> list[str]:
    """The adapters of a model that are still there, and have weights."""
    return [name for name in tuned.adapters if tuned.owned(name)] if isinstance(tuned, SwiftModel) else []


def _save_rest(args: CheckpointOptions, merged: Any, checkpoint: Path, output: Path, rest: list[str]) -> None:
    """Write `<output>-tuners`: what no weights can hold, as a checkpoint for the merged model."""
    directory = output.with_name(f"{output.name}-tuners")
    tuned = Swift.from_pretrained(merged, str(checkpoint), rest, allow_other_base=True)
    assert isinstance(tuned, SwiftModel)
    saved = read_saved(checkpoint) or to_json(args)
    with storage.staged_directory(directory, {"base": str(output)}) as stage:
        tuned.save_pretrained(stage, safe_serialization=True)
        storage.write_json(stage / "sft_args.json", {**saved, "model_id_or_path": str(output)}, private=True)
    logger.warning(f"not merged, as no weights can hold it: {', '.join(rest)}; for the merged model: {directory}")


def merge_checked(tuned: Any, dtype: torch.dtype, vocab_size: int) -> tuple[Any, Equality]:
    """The plain model with what can be merged of `tuned` in it and cast to `dtype`, and how equal it is.

    Raises:
        DataError: nothing can be merged, or the merged model answers differently by more than `LARGEST_DIFFERENCE`.
    """
    _check_mergeable(tuned)
    generator = torch.Generator().manual_seed(0)
    device = next(tuned.parameters()).device
    probe_BT = torch.randint(0, vocab_size, (2, PROBE_TOKENS), generator=generator).to(device)
    with torch.inference_mode():
        before_BTV = tuned(input_ids=probe_BT).logits.float()
        Swift.merge_and_unload(tuned)
        merged = tuned.model
        after_BTV = merged(input_ids=probe_BT).logits.float()
    merged = merged.to(dtype)
    with torch.inference_mode():
        cast_BTV = merged(input_ids=probe_BT).logits.float()
    difference = float((after_BTV - before_BTV).abs().max() / before_BTV.abs().max().clamp_min(1.0))
    agreement = float((cast_BTV.argmax(-1) == before_BTV.argmax(-1)).float().mean())
    if not difference <= LARGEST_DIFFERENCE:
        raise DataError("MERGE-01", f"the merged model differs from the unmerged one: logits by {difference:.1e}")
    return merged, Equality(difference, agreement)


def _check_mergeable(tuned: Any) -> None:
    """Raise DataError when no adapter can be merged."""
    kept = list(tuned.adapters) if isinstance(tuned, SwiftModel) else []
    if isinstance(tuned, SwiftModel) and not any(map(_can_merge, tuned.adapters.values())):
        why = "they work on what passes through the model, and weights cannot hold that"
    elif isinstance(tuned, PeftModel) and tuned.active_peft_config.is_prompt_learning:
        kept, why = [kind_of(tuned.active_peft_config).value], "virtual tokens are no weights"
    else:
        return
    raise DataError("MERGE-01", f"{', '.join(kept)} cannot be merged", why=why, fix="use the checkpoint as it is")


def _can_merge(config: Config) -> bool:
    return config.merges if isinstance(config, SwiftConfig) else not config.is_prompt_learning


def _save_side_files(args: CheckpointOptions, source: ModelSource, checkpoint: Path, stage: Path) -> None:
    """What is neither weight nor tokenizer: remote code, generation config, and the options, now of a full model."""
    for pattern in SIDE_FILES:
        for path in source.path.glob(pattern):
            shutil.copy2(path, stage / path.name)
    for origin in (source.path, checkpoint):
        if (origin / "generation_config.json").is_file():
            shutil.copy2(origin / "generation_config.json", stage)
    if (checkpoint / new_tokens.FILE).is_file():
        shutil.copy2(checkpoint / new_tokens.FILE, stage)
    saved = read_saved(checkpoint) or to_json(args)
    storage.write_json(stage / "sft_args.json", {**saved, "sft_type": "full"}, private=True)
    storage.write_json(stage / "configuration.json", {"framework": "pytorch", "task": "text-generation"})
