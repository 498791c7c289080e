"""Quantise a model: calibrated through our template, measured before and after, and written whole or not at all."""

from __future__ import annotations

import gc
import math
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from swift import storage
from swift.arguments.export import ExportArguments
from swift.commands.prepare import (
    find_checkpoint,
    find_source,
    from_checkpoint,
    load_plugins,
    load_template,
    read_saved,
)
from swift.commands.replacing import check_gives_way
from swift.datasets.info import register_infos
from swift.datasets.load import load_datasets
from swift.decide import OF_BASE, decide_template, tidy
from swift.errors import ConfigError, DataError, DiskError, OutputError, UsageError
from swift.log import get_logger
from swift.models.load import TORCH_DTYPES, default_dtype, detect_hardware, load_model, saved_dtype
from swift.models.quantisation import CALIBRATED, check_packages, check_shapes, directory_suffix, method_of, usual
from swift.models.quantising import PACKAGE, SHORTEST, quantise
from swift.models.source import ModelSource, find_model
from swift.templates.template import Template
from swift.tuners import layout

logger = get_logger()
REPORT = "quantization_report.json"
MEASURED_ROWS = 64
SIDE_FILES = ("*.py", "generation_config.json", "configuration.json", "chat_template*", "new_tokens.json")
Row = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Rows:
    """Encoded rows: `blocks` to calibrate with, `measured` (ids and labels) to compare on; `held_out` when apart."""

    blocks: list[list[int]]
    measured: list[Row]
    held_out: bool
    calibrated: int


@dataclass(frozen=True)
class Answers:
    """What a model says at every learnt token of some rows: its likeliest token, and the mean loss."""

    likeliest: torch.Tensor
    loss: float

    @property
    def perplexity(self) -> float:
        """E to the mean loss."""
        return math.exp(min(self.loss, 700.0))


def check(said: ExportArguments) -> None:
    """See what can be seen before anything is loaded.

    Raises:
        UsageError: a method without the data it needs.
        MissingPackageError: its package is not installed.
    """
    method, _ = usual(said.quant_method, said.quant_bits)
    if method in CALIBRATED and not said.dataset:
        what = f"--quant_method {method} looks at what the model is used for"
        fix = "--dataset rows.jsonl, such as it was trained on"
        raise UsageError("USAGE-03", f"{what}: --dataset is missing", fix=fix)
    check_packages(PACKAGE.get(method, method))


def quantize(said: ExportArguments) -> str:
    """Write the model or whole checkpoint of `said` in few bits, with a report; return its directory.

    Raises:
        UsageError: a checkpoint that is no whole model, or a method without the data it needs.
        ConfigError: the model is quantised already, or the method has no such bits.
        OutputError: the directory exists.
        DiskError: it would not fit.
    """
    check(said)
    method, bits = usual(said.quant_method, said.quant_bits)
    args = _whole(said)
    load_plugins(args.custom_register_path)
    source = find_source(args)
    if held := method_of(source.config):
        fix = "the model in full precision"
        raise ConfigError("CONFIG-02", f"{source.path} is in {held} already: it cannot be quantised again", fix=fix)
    check_shapes(method, source.config)
    output = output_of(args, source, method, bits)
    _check_place(args, output, source, bits)
    args = replace(args, template_type=decide_template(args.template_type, source))
    template = load_template(replace(args, max_length=-1), source)
    rows = read_rows(args, template)
    dtype = saved_dtype(source) if args.dtype == "AUTO" else TORCH_DTYPES[args.dtype]
    before = answers(source, rows.measured)
    with storage.staged_directory(output, {"base": str(source.path)}) as stage:
        started = time.perf_counter()
        settings = quantise(method, bits, source, stage, dtype, rows.blocks)
        seconds = time.perf_counter() - started
        _side_files(args, source, template, stage)
        after = answers(find_model(None, str(stage), trust_remote_code=args.trust_remote_code), rows.measured)
        report = {
            "method": method,
            "bits": bits,
            **settings,
            "seconds": round(seconds, 1),
            "bytes": _weights(stage),
            "bytes_before": source.weight_bytes,
            "calibrated_on": _calibrated_on(args, rows) if method in CALIBRATED else None,
            **_compared(rows, before, after),
        }
        storage.write_json(stage / REPORT, report)
    logger.info(_line(report))
    logger.info(f"quantised model: {output}")
    return str(output)


def _calibrated_on(args: ExportArguments, rows: Rows) -> dict[str, Any]:
    return {"dataset": args.dataset, "rows": rows.calibrated, "blocks": len(rows.blocks)}


def _whole(said: ExportArguments) -> ExportArguments:
    """The options with what a checkpoint says filled in. Raises UsageError for an adapter."""
    if said.ckpt_dir is None:
        return tidy(said)
    directory = find_checkpoint(said.ckpt_dir, told=False)
    if layout.folders(directory):
        raise UsageError("USAGE-03", f"{directory} is an adapter, not a model to quantise", fix="--merge_lora true")
    return replace(from_checkpoint(tidy(said)), dtype=said.dtype)  # the weights', whatever they were trained in


def output_of(args: ExportArguments, source: ModelSource, method: str, bits: int) -> Path:
    """Where the quantised model goes: what was said, else beside the checkpoint, else here."""
    if args.quant_output_dir:
        return Path(args.quant_output_dir).expanduser().resolve()
    suffix = directory_suffix(method, bits)
    if args.ckpt_dir:
        return source.path.with_name(f"{source.path.name}{suffix}")
    return Path.cwd() / f"{source.name}{suffix}"


def _check_place(args: ExportArguments, output: Path, source: ModelSource, bits: int) -> None:
    if output.exists() and not args.replace_if_exists:
        fix = "--replace_if_exists true, or --quant_output_dir elsewhere"
        raise OutputError("OUTPUT-01", f"{output} exists", fix=fix)
    check_gives_way(output, source.path, fix="--quant_output_dir elsewhere, or move what is there")
    storage.sweep(output.parent, output.name)
    text = source.config.get("text_config") or source.config
    width = saved_dtype(source).itemsize
    tables = 2 * width * int(text.get("vocab_size") or 0) * int(text.get("hidden_size") or 0)
    needed = min(source.weight_bytes, tables + source.weight_bytes * (bits + 1) // (8 * width)) + (32 << 20)
    free = storage.free_bytes(output.parent)
    if free < needed:
        what = f"No space left for {output}: about {needed >> 20} MiB needed, {free >> 20} MiB free"
        raise DiskError("DISK-01", what, fix="--quant_output_dir on a larger disk")


def read_rows(args: ExportArguments, template: Template) -> Rows:
    """Rows to calibrate with, as blocks of tokens, and rows to measure on, others where there are more.

    Raises:
        DataError: no row has a block's worth of tokens.
    """
    if not args.dataset and not args.val_dataset:
        return Rows([], [], False, 0)
    register_infos(args.custom_dataset_info)
    loaded = load_datasets(
        args.dataset or args.val_dataset,
        val_specs=args.val_dataset if args.dataset else (),
        test_ratio=0.0,
        seed=args.dataset_seed,
        columns=args.columns,
        model_name=args.model_name,
        model_author=args.model_author,
        max_bad_rows=args.max_bad_rows,
    )
    logger.info(loaded.ledger.summary())
    drawn = list(loaded.train)
    random.Random(args.dataset_seed).shuffle(drawn)
    seen, rest = drawn[: args.quant_n_samples], drawn[args.quant_n_samples :]
    encoded = _encoded(template, seen)
    tokens = [token for ids, _ in encoded for token in ids]
    blocks = [tokens[at : at + args.quant_seqlen] for at in range(0, len(tokens), args.quant_seqlen)]
    blocks = [block for block in blocks if len(block) >= SHORTEST] if args.dataset else []
    if args.dataset and not blocks:
        raise DataError("DATA-05", f"--dataset has {len(tokens)} tokens: nothing to calibrate with")
    apart = _encoded(template, (loaded.val or rest)[:MEASURED_ROWS])
    return Rows(blocks, apart or encoded[:MEASURED_ROWS], bool(apart) or not args.dataset, len(encoded))


def _encoded(template: Template, rows: Sequence[Any]) -> list[Row]:
    inputs = [template.encode(row)[0] for row in rows]
    return [(row["input_ids"], row["labels"]) for row in inputs if row.get("labels")]


def answers(source: ModelSource, rows: Sequence[Row]) -> Answers | None:
    """What the model of `source` says to rows; None without any."""
    if not rows:
        return None
    hardware = detect_hardware()
    device = "auto" if hardware.accelerator else None
    model = load_model(source, default_dtype(source, hardware), device_map=device).eval()
    found = answers_of(model, rows)
    del model
    gc.collect()
    return found


@torch.inference_mode()
def answers_of(model: Any, rows: Sequence[Row]) -> Answers:
    """What a loaded model says to rows."""
    likeliest, losses = [], []
    for ids, labels in rows:
        ids_1T = torch.tensor([ids], device=model.device)
        labels_T = torch.tensor(labels[1:], device=model.device)
        learnt_T = labels_T >= 0
        logits_NV = model(input_ids=ids_1T).logits[0, :-1][learnt_T].float()
        likeliest.append(logits_NV.argmax(-1).cpu())
        losses.append(torch.nn.functional.cross_entropy(logits_NV, labels_T[learnt_T], reduction="none").cpu())
    return Answers(torch.cat(likeliest), float(torch.cat(losses).mean()))


def same(one: Answers, other: Answers) -> float:
    """The share of learnt tokens whose place has the same likeliest token."""
    return float((one.likeliest == other.likeliest).float().mean())


def _compared(rows: Rows, before: Answers | None, after: Answers | None) -> dict[str, Any]:
    if before is None or after is None:
        return {"measured_on": None, "perplexity_before": None, "perplexity": None, "agreement": None}
    return {
        "measured_on": {"rows": len(rows.measured), "tokens": len(before.likeliest), "held_out": rows.held_out},
        "perplexity_before": round(before.perplexity, 4),
        "perplexity": round(after.perplexity, 4),
        "agreement": round(same(before, after), 4),
    }


def _side_files(args: ExportArguments, source: ModelSource, template: Template, stage: Path) -> None:
    """What is neither weight nor config: tokenizer, remote code, generation config, the options it was trained with."""
    template.tokenizer.save_pretrained(stage)
    for pattern in SIDE_FILES:
        for path in source.path.glob(pattern):
            if not (stage / path.name).exists():
                shutil.copy2(path, stage / path.name)
    saved = read_saved(source.path) or {"template_type": args.template_type, "system": args.system}
    kept = {name: value for name, value in saved.items() if name not in OF_BASE}
    storage.write_json(stage / "sft_args.json", {**kept, "sft_type": "full"}, private=True)


def _weights(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def _line(report: dict[str, Any]) -> str:
    size = f"{report['bytes_before'] / 2**20:.1f} -> {report['bytes'] / 2**20:.1f} MiB in {report['seconds']} s"
    if report["agreement"] is None:
        return f"{report['method']}, {report['bits']} bits: {size}; --dataset measures what it costs"
    return (
        f"{report['method']}, {report['bits']} bits: {size}; perplexity {report['perplexity_before']:.3f} -> "
        f"{report['perplexity']:.3f}, {report['agreement']:.1%} of likeliest tokens equal"
    )
