"""Merge adapters in the model that they are in: in float32, cast once, and compared before it counts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from swift import storage
from swift.arguments.fields import to_json
from swift.arguments.infer import CheckpointOptions
from swift.commands import merge_files
from swift.commands.chosen import read_saved
from swift.commands.merge import REPORT
from swift.commands.prepare import add_saved_rows, load_trained_tokenizer, quiet_libraries, use_chat_template
from swift.commands.replacing import check_gives_way
from swift.errors import ConfigError, DataError, brief
from swift.heads.files import Head, write_recipe
from swift.heads.model import loading, settle
from swift.log import get_logger
from swift.models import new_tokens
from swift.models.load import TORCH_DTYPES, load_model, saved_dtype
from swift.models.quantisation import method_of
from swift.models.quantised import dequantise
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


def merge(
    args: CheckpointOptions, source: ModelSource, checkpoint: Path, output: Path, facts: Mapping[str, Any]
) -> None:
    """Load the model with its adapters, merge them in it, and write it to `output`, with `facts` in its manifest.

    Raises:
        DataError: nothing can be merged, or the merged model answers differently.
    """
    quiet_libraries()
    device = args.merge_device_map or "cpu"
    tokenizer = load_trained_tokenizer(source, checkpoint)
    use_chat_template(tokenizer, None, checkpoint)
    tuned = _load(args, source, checkpoint, device)
    dtype = TORCH_DTYPES[args.dtype] if args.dtype != "AUTO" else saved_dtype(source)
    merged, equality = merge_checked(tuned, dtype, len(tokenizer))
    logger.info(
        f"merged = unmerged: largest logit difference {equality.difference:.1e} in float32, "
        f"{equality.agreement:.1%} of likeliest tokens equal in {str(dtype).removeprefix('torch.')}"
    )
    told = {
        "base": str(source.path),
        "adapters": {str(checkpoint): 1.0},
        "in_model": True,
        "verified": asdict(equality),
    }
    if source.config.get("quantization_config"):
        told["verified"] |= _loss_of_dequantising(args, source, checkpoint, merged, len(tokenizer))
    rest = tuners_left(tuned)
    if rest:
        check_gives_way(_place_of_rest(output), source.path, checkpoint, fix="move what is there")
        gone = [name for name in files.folders(checkpoint) if name not in rest]
        tuned = _load(args, source, checkpoint, device, gone)
        Swift.merge_and_unload(tuned)
        merged = tuned.model.to(dtype)
    with storage.staged_directory(output, facts) as stage:
        merged.save_pretrained(stage)
        tokenizer.save_pretrained(stage)
        _save_side_files(args, source, checkpoint, stage)
        storage.write_json(stage / REPORT, told)
    logger.info(f"merged model: {output}")
    if rest:
        _save_rest(args, merged, checkpoint, output, rest)


def _load(
    args: CheckpointOptions, source: ModelSource, checkpoint: Path, device: str, names: list[str] | None = None
) -> Any:
    head = Head.read(checkpoint)
    base: Any = load_model(source, torch.float32, device_map=device, **(loading(head, fresh=True) if head else {}))
    if head is not None:
        settle(base, head, source)
    if source.config.get("quantization_config"):
        base = dequantised(base, method_of(source.config))
    add_saved_rows(base, checkpoint)
    allowed = args.allow_other_base
    return Swift.from_pretrained(base, str(checkpoint), names, inference_mode=True, allow_other_base=allowed).eval()


def dequantised(base: Any, method: str | None) -> Any:
    """The model with the weights that its quantised ones stand for, in float32; `method` made those.

    Raises:
        ConfigError: nothing takes this quantisation back.
    """
    try:
        full = dequantise(base, method)
    except (NotImplementedError, ValueError, AttributeError, TypeError, RuntimeError) as error:
        what = f"a base in {method} cannot be dequantised: {brief(error)}"
        raise ConfigError("MERGE-01", what, fix="--model_id_or_path <its full model>") from error
    full.config.__dict__.pop("quantization_config", None)
    vars(full).pop("_weight_conversions", None)  # by which the quantised weights were read
    return full


def _loss_of_dequantising(
    args: CheckpointOptions, source: ModelSource, checkpoint: Path, merged: Any, vocab_size: int
) -> dict[str, float]:
    """How the merged model compares with the adapter on the quantised base that it was trained on; says so."""
    quantised: Any = load_model(source, torch.float32, device_map=args.merge_device_map or "cpu")
    add_saved_rows(quantised, checkpoint)
    allowed = args.allow_other_base
    tuned = Swift.from_pretrained(
        quantised, str(checkpoint), None, inference_mode=True, allow_other_base=allowed
    ).eval()
    probe_BT = probe(vocab_size, next(tuned.parameters()).device)
    with torch.inference_mode():
        before_BTV = tuned(input_ids=probe_BT).logits.float()
        after_BTV = merged(input_ids=probe_BT).logits.float()
    loss = float((after_BTV - before_BTV).abs().max() / before_BTV.abs().max().clamp_min(1.0))
    same = float((after_BTV.argmax(-1) == before_BTV.argmax(-1)).float().mean())
    logger.warning(
        f"merged into a dequantised copy of the base: logits differ from the adapter on the quantised base by "
        f"{loss:.1e} at most, {same:.1%} of likeliest tokens are equal"
    )
    return {"quantised_difference": loss, "quantised_agreement": same}


def probe(vocab_size: int, device: torch.device) -> torch.Tensor:
    """Token ids to compare models with, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocab_size, (2, PROBE_TOKENS), generator=generator).to(device)


def tuners_left(tuned: Any) -> list[str]:
    """The adapters of a model that are still there, and have weights."""
    return [name for name in tuned.adapters if tuned.owned(name)] if isinstance(tuned, SwiftModel) else []


def _place_of_rest(output: Path) -> Path:
    return output.with_name(f"{output.name}-tuners")


def _save_rest(args: CheckpointOptions, merged: Any, checkpoint: Path, output: Path, rest: list[str]) -> None:
    """Write `<output>-tuners`: what no weights can hold, as a checkpoint for the merged model."""
    directory = _place_of_rest(output)
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
    probe_BT = probe(vocab_size, next(tuned.parameters()).device)
    with torch.inference_mode():
        before_BTV = said(tuned, probe_BT)
        Swift.merge_and_unload(tuned)
        merged = tuned.model
        after_BTV = said(merged, probe_BT)
    merged = merged.to(dtype)
    with torch.inference_mode():
        cast_BTV = said(merged, probe_BT)
    difference = float((after_BTV - before_BTV).abs().max() / before_BTV.abs().max().clamp_min(1.0))
    agreement = float((cast_BTV.argmax(-1) == before_BTV.argmax(-1)).float().mean())
    if not difference <= LARGEST_DIFFERENCE:
        raise DataError("MERGE-01", f"the merged model differs from the unmerged one: logits by {difference:.1e}")
    return merged, Equality(difference, agreement)


def said(model: Any, ids_BT: torch.Tensor) -> torch.Tensor:
    """What a model says of tokens, in float32: logits, or hidden states where it has no more."""
    outputs = model(input_ids=ids_BT)
    found = outputs.get("logits")
    return (outputs.last_hidden_state if found is None else found).float()


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
    merge_files.write_options(args, checkpoint, stage)
    head = Head.read(checkpoint)
    if head is not None:
        head.write(stage)
        if head.task_type == "embedding":
            limit = read_saved(checkpoint).get("max_length")
            size = source.config.get("text_config", source.config)["hidden_size"]
            write_recipe(head, stage, size, limit if limit and limit > 0 else None)
