"""Merge adapters into their model: tensor by tensor where that can be done, in the model where it cannot."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from swift import storage
from swift._lazy import named
from swift.arguments.export import ExportArguments
from swift.arguments.infer import CheckpointOptions, InferArguments
from swift.commands import merge_files
from swift.commands.chosen import from_checkpoint, load_plugins
from swift.commands.replacing import check_gives_way
from swift.decide import tidy
from swift.errors import ConfigError, DataError, NotFoundError, UsageError
from swift.log import get_logger
from swift.merging import adapters, plan, stream, tensors
from swift.merging.adapters import Adapter
from swift.merging.combine import Combination
from swift.merging.parts import NeedsModel
from swift.merging.weights import Base
from swift.models import new_tokens
from swift.models.quantisation import method_of
from swift.models.source import ModelSource, find_model, with_weights
from swift.tuners import layout, sampled

logger = get_logger()
HEAD = "head.json"  # as swift.heads.files calls it
HEADROOM = 1.02
REPORT = "merge_report.json"


@dataclass(frozen=True)
class Merge:
    """What is merged into what.

    Args:
        args: the options, with what the checkpoint says in them.
        source: the base.
        checkpoint: the adapters' directory, the first one where there are several.
        others: further directories of adapters.
        weights: by how much each directory counts, in their order.
        output: where the merged model goes.
    """

    args: CheckpointOptions
    source: ModelSource
    checkpoint: Path
    others: tuple[Path, ...]
    weights: tuple[float, ...]
    output: Path

    @property
    def how(self) -> Combination:
        """How the changes of several adapters become one."""
        if not isinstance(self.args, ExportArguments):
            return Combination()
        args = self.args
        return Combination(args.combination_type, args.combination_density, args.combination_rank)

    @property
    def read(self) -> tuple[Path, ...]:
        """The directories that it reads."""
        return self.source.path, self.checkpoint, *self.others

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest of the merged model says of it: another merge has others."""
        directories = (self.checkpoint, *self.others)
        return {
            "base": str(self.source.path),
            "adapters": [f"{one}:{weight}" for one, weight in zip(directories, self.weights, strict=True)],
            "written": max(map(_written, directories)),
            "combination": asdict(self.how) if self.others else None,
            "dtype": self.args.dtype,
        }

    @property
    def plain(self) -> bool:
        """Whether it is one checkpoint as it is, with nothing to combine."""
        return not self.others and self.weights == (1.0,)


def merge_lora(
    args: InferArguments | ExportArguments, device_map: str | None = None, replace_if_exists: bool = False
) -> str:
    """Write `<ckpt_dir>-merged`, a plain model with the adapters of `args.ckpt_dir` merged in; return its path.

    `args` is not changed. An existing merged model is used as it is unless `replace_if_exists`.

    Raises:
        UsageError: no checkpoint is named.
        DataError: the checkpoint holds no adapter, or merging would not be equal to the unmerged model.
        OutputError: the output is something else, or holds what is read.
    """
    merge = _decide(args, device_map)
    output = merge.output
    if output.exists() and not (replace_if_exists or (isinstance(args, ExportArguments) and args.replace_if_exists)):
        _check_existing(merge)
        logger.info(f"already merged: {output} (--replace_if_exists true merges anew)")
        return str(output)
    check_gives_way(output, *merge.read)
    why = _quantised(merge) or _why_not(merge)
    if why is None:
        try:
            _stream(merge)
            return str(output)
        except NeedsModel as error:
            why = str(error)
    if not merge.plain:
        raise ConfigError("MERGE-01", f"adapters with weights are merged by rows, and {why}", fix="merge one of them")
    logger.info(f"merging in the model: {why}")
    named("swift.commands.merge_model:merge")(merge.args, merge.source, merge.checkpoint, output, merge.facts)
    return str(output)


def _decide(args: InferArguments | ExportArguments, device_map: str | None) -> Merge:
    """What the options mean.

    Raises:
        UsageError: no checkpoint is named.
        NotFoundError: a directory is not there.
        DataError: it has no adapter.
    """
    said = [_weighted(word) for word in args.adapters] if isinstance(args, ExportArguments) else []
    if said and args.ckpt_dir:
        raise UsageError("USAGE-02", "--adapters and --ckpt_dir both say what is merged", fix="drop one of the two")
    if not said and args.ckpt_dir is None:
        raise UsageError("USAGE-03", "merging needs a checkpoint", fix="--ckpt_dir <run>/checkpoint-<step>")
    missing = next((one for one, _ in said if not Path(one).expanduser().is_dir()), None)
    if missing is not None:
        fix = "directories, each with a number behind a colon if it is to count more or less than 1: a:0.7 b:0.3"
        raise NotFoundError("FOUND-01", f"--adapters {missing} is not a directory", fix=fix)
    first = replace(args, ckpt_dir=said[0][0]) if said else args
    wanted = replace(from_checkpoint(tidy(first)), dtype=args.dtype)  # the base's, whatever it was trained in
    if device_map and not wanted.merge_device_map:
        wanted = replace(wanted, merge_device_map=device_map)
    directory = Path(str(wanted.ckpt_dir))
    others = tuple(Path(str(from_checkpoint(tidy(replace(args, ckpt_dir=one))).ckpt_dir)) for one, _ in said[1:])
    for one in (directory, *others):
        if not layout.folders(one):
            raise DataError("MERGE-01", f"{one} is a whole model: there is no LoRA in it to merge")
    load_plugins(wanted.custom_register_path)
    source = find_model(
        wanted.model_type,
        wanted.model_id_or_path,
        wanted.model_revision,
        check_latest=wanted.check_model_is_latest,
        trust_remote_code=wanted.trust_remote_code,
    )
    weights = tuple(weight for _, weight in said) or (1.0,)
    return Merge(wanted, source, directory, others, weights, _output_of(wanted, directory))


def _written(checkpoint: Path) -> int:
    """When the adapters of a directory were last written, in nanoseconds: many a script trains into the same one."""
    names = (layout.SAFE_WEIGHTS_FILE, layout.WEIGHTS_FILE, layout.CONFIG_FILE)
    files = [file for folder in layout.folders(checkpoint).values() for file in map(folder.joinpath, names)]
    return max(file.stat().st_mtime_ns for file in files if file.is_file())


def _weighted(word: str) -> tuple[str, float]:
    """`directory:0.7` -> the directory and its weight, 1 where none is said."""
    directory, _, weight = word.rpartition(":")
    try:
        return (directory, float(weight)) if directory else (word, 1.0)
    except ValueError:
        return word, 1.0


def _output_of(args: CheckpointOptions, checkpoint: Path) -> Path:
    said = args.output_dir if isinstance(args, ExportArguments) else None
    return Path(said).expanduser().resolve() if said else checkpoint.with_name(f"{checkpoint.name}-merged")


def _check_existing(merge: Merge) -> None:
    """Refuse what is in the place of the merged model and is damaged, or another merge's."""
    output = merge.output
    problems = storage.verify(output)
    what = f"is damaged: {problems[0]}" if problems else _other_merge(merge, storage.read_manifest(output))
    if what:
        check_gives_way(output, *merge.read)
        here = isinstance(merge.args, ExportArguments)
        fix = "--replace_if_exists true" if here else f"swift merge-lora --ckpt_dir {merge.checkpoint}"
        raise DataError("MERGE-01", f"{output} exists and {what}", fix=fix)


def _other_merge(merge: Merge, there: Mapping[str, Any]) -> str | None:
    """What a merged model was made of, where that is not what is asked for; older ones say only their base."""
    wanted = merge.facts
    if not isinstance(merge.args, ExportArguments):
        del wanted["dtype"]  # it is that of the answers, whatever the files have
    if there.get("base") != wanted["base"]:
        return f"was merged into {there.get('base')}, not into {wanted['base']}"
    other = next((name for name, value in wanted.items() if there.get(name, value) != value), None)
    if other == "written":
        return "was merged before the adapters were written anew"
    return f"was merged with {other} {there[other]}, not {wanted[other]}" if other else None


def _quantised(merge: Merge) -> str | None:
    """Why a quantised base is merged in the model. Raises ConfigError unless that is asked for."""
    if not merge.source.config.get("quantization_config"):
        return None
    if not (isinstance(merge.args, ExportArguments) and merge.args.allow_quantized_base):
        raise ConfigError(
            "MERGE-01",
            f"{merge.source.name} is quantised: merging into it would lose precision",
            why="what an adapter adds is smaller than a step of the quantised weights",
            fix="--model_id_or_path <its full model>, or --allow_quantized_base true to merge into a dequantised copy",
        )
    return f"the base is quantised by {method_of(merge.source.config)}, and is dequantised first"


def _why_not(merge: Merge) -> str | None:
    """Why the merge has to be made in the model, None when it can be made by rows."""
    if (merge.checkpoint / HEAD).is_file():
        return "it has a head of its own"
    for directory in (merge.checkpoint, *merge.others):
        configs = [layout.read_json(folder / layout.CONFIG_FILE) for folder in layout.folders(directory).values()]
        why = next((why for config in configs if (why := adapters.why_not(config))), None)
        if why is not None:
            return why
        if len(configs) > 1 and not all(map(adapters.adds, configs)):
            return "several adapters of one checkpoint build on each other"
    return None


def _stream(merge: Merge) -> None:
    """Merge by rows, check what came out, and let it count."""
    began = time.monotonic()
    source = with_weights(merge.source)
    base = Base(source.path, source.config)
    several = _adapters(merge)
    for adapter in several:
        _check_base(merge, base, adapter)
    _check_words(merge, source)
    dtype = tensors.named_dtype(merge.args.dtype) if merge.args.dtype != "AUTO" else None
    wanted = plan.make(base, several, dtype, new_tokens.read(merge.checkpoint))
    storage.sweep(merge.output.parent, merge.output.name)
    storage.check_free(merge.output.parent, int(HEADROOM * wanted.bytes))
    digests: dict[str, str] = {}
    with storage.staged_directory(merge.output, merge.facts, digests) as stage:
        done = stream.write(wanted, stage, merge.how)
        digests |= done.digests
        merge_files.write(merge.args, source, merge.checkpoint, stage, wanted, done)
        told = {
            "base": str(source.path),
            "adapters": {str(one.folder): one.weight for one in several},
            "combination": merge.how.kind if len(several) > 1 else None,
            "tensors": {"changed": done.changed, "copied": done.copied},
            "bytes": wanted.bytes,
            "untied": wanted.untied,
            "seconds": round(time.monotonic() - began, 2),
        }
        told["verified"] = _verify(merge, source, stage)
        storage.write_json(stage / REPORT, told)
    logger.info(f"{done.changed} tensors changed, {done.copied} copied byte for byte, in {told['seconds']} s")
    logger.info(f"merged model: {merge.output}")


def _adapters(merge: Merge) -> list[Adapter]:
    """What is merged, in order: every adapter of every directory, and what else of the base was trained beside them."""
    found = []
    for directory, weight in zip((merge.checkpoint, *merge.others), merge.weights, strict=True):
        folders = layout.folders(directory)
        order = layout.read_order(directory)
        names = sorted(folders, key=lambda name: order.index(name) if name in order else len(order))
        found += [adapters.read(folders[name], name, weight) for name in names]
        if (directory / layout.EXTRA_STATES).is_dir():
            found.append(adapters.read_whole(directory / layout.EXTRA_STATES, weight))
    return found


def _check_base(merge: Merge, base: Base, adapter: Adapter) -> None:
    """Raise DataError where the adapter was trained on other weights than the base's, unless that is allowed."""
    said = adapter.config.get(sampled.REMEMBERED)
    beside = adapter.folder / sampled.FINGERPRINT_FILE
    if said is None and beside.is_file():
        said = layout.read_json(beside)
    trained_on = sampled.Fingerprint.from_dict(said) if said is not None else None
    new = new_tokens.read(merge.checkpoint)
    rows = new.rows if new is not None else None
    here = base.sample(rows=rows) if trained_on is not None else sampled.Fingerprint(str(base.directory))
    if trained_on is not None and trained_on.differing(here):
        here = base.sample(named("swift.merging.outline:parameter_names")(merge.source), rows)
    if adapter.config:
        sampled.check_base(trained_on, here, str(adapter.folder), merge.args.allow_other_base)


def _check_words(merge: Merge, source: ModelSource) -> None:
    """Raise ConfigError where an adapter was trained with tokens that the first one, whose the words are, lacks."""
    first = new_tokens.read(merge.checkpoint)
    for one in merge.others:
        if new_tokens.read(one) not in (None, first):
            what = f"{one} was trained with new tokens that {merge.checkpoint} does not have alike"
            why = "the merged model has the words of the first"
            raise ConfigError("MERGE-01", what, why=why, fix="name it first, or merge it alone")


def _verify(merge: Merge, source: ModelSource, stage: Path) -> dict[str, Any] | None:
    """What the comparison of the merged model with the unmerged one says; None when it is not made."""
    said = merge.args.verify_merge if isinstance(merge.args, ExportArguments) else None
    if said is False or (said is None and not merge_files.fits(source)):
        why = "--verify_merge false" if said is False else "the model does not fit into memory; --verify_merge true"
        logger.info(f"not compared with the unmerged model: {why}")
        return None
    return named("swift.commands.verify_merge:verify")(merge.args, source, merge.checkpoint, stage, merge.plain)
