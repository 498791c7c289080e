"""What a dry run found, in words: options with their origins, rows, one row with its loss mask, and the run to come."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from swift import storage
from swift.arguments.fields import to_json
from swift.arguments.help import width
from swift.commands.estimates import Size
from swift.commands.pictures import histogram, row_text, row_tokens, size, table
from swift.commands.ready import Data
from swift.commands.task import task_of
from swift.datasets.encode import EncodedDataset, length_statistics
from swift.datasets.groups import Groups
from swift.datasets.pack import PackedDataset
from swift.datasets.prompts import Prompts
from swift.datasets.stream import Stream
from swift.templates.template import Template

if TYPE_CHECKING:
    from swift.commands.dry_run import Rehearsal


def describe(found: Rehearsal, colour: bool) -> str:
    """Everything found, for a terminal or a pipe."""
    parts = [_options(found)]
    if found.data is not None and found.template is not None:
        parts += [_rows(found.data), _sample(found, found.data, found.template, colour)]
    parts += [_plan(found), [f"to run it:  {found.launch}"]]
    return "\n\n".join("\n".join(part) for part in parts)


def _options(found: Rehearsal) -> list[str]:
    """A line for every option that is not its default, and the defaults in a paragraph."""
    values = to_json(found.args)
    said = [name for name, origin in found.origins.items() if origin != "default" and name != "dry_run"]
    default = ", ".join(
        f"{name}={_short(values[name])}"
        for name, origin in found.origins.items()
        if name not in said and name != "dry_run"
    )
    wrapped = textwrap.wrap(f"default: {default}", width() - 2, break_long_words=False, break_on_hyphens=False)
    return [
        "Options",
        *table([(name, _short(values[name]), found.origins[name]) for name in said]),
        "",
        *(f"  {line}" for line in wrapped),
    ]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "[]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def _rows(data: Data) -> list[str]:
    lines = ["Rows", f"  {data.ledger.summary()}"]
    lines += [
        f"  {source['dataset']}: {source['rows']:,} rows of format {source['format']}" for source in data.ledger.sources
    ]
    for part, rows in (("train", data.train), ("validation", data.val)):
        if isinstance(rows, Stream):
            lines.append(f"  {part}: read while training goes on, {rows.buffer_size:,} rows shuffled together")
        elif isinstance(rows, PackedDataset):
            found = rows.rows.lengths
            lines += [f"  {part}: tokens per row {length_statistics(found)}", *histogram(found), f"  {rows.describe()}"]
        elif isinstance(rows, EncodedDataset | Groups | Prompts):
            lines += [f"  {part}: tokens per row {length_statistics(rows.lengths)}", *histogram(rows.lengths)]
    return lines


def _sample(found: Rehearsal, data: Data, template: Template, colour: bool) -> list[str]:
    inputs = data.example
    if not isinstance(inputs, Mapping):  # texts of a head, or a prompt
        return ["One row", textwrap.indent(task_of(found.args).show(template, data), "  ")]
    learnt = sum(label >= 0 for label in inputs["labels"])
    marks = ("in green", "in green") if colour else ("between ⟦ and ⟧", "after a *")
    return [
        f"One row: {len(inputs['input_ids'])} tokens, {learnt} of them learnt, {marks[0]}",
        row_text(inputs, template.tokenizer, colour),
        "",
        f"  its tokens, those learnt {marks[1]}",
        row_tokens(inputs, template.tokenizer, colour),
        f"  {template.describe_end()}",
    ]


def _plan(found: Rehearsal) -> list[str]:
    lines = ["The run"]
    plan = found.schedule
    if plan is not None:
        rows = f"{plan.rows_per_step} rows a step over {found.processes} process{'es' if found.processes > 1 else ''}"
        epochs = f"{plan.epochs:g} epochs, " if plan.epochs is not None else ""
        lines += [f"  steps: {plan.steps:,} ({epochs}{rows})"]
        if plan.tokens is not None and plan.supervised:
            lines += [f"  tokens: {plan.tokens:,}, of which {plan.supervised:,} are learnt"]
        lines += [
            f"  evaluation: {_often(plan.evaluate_every)}; checkpoint: {_often(plan.save_every)}",
        ]
    if found.size is not None:
        lines += _sizes(found.size, found)
    elif found.unsized:
        lines.append(f"  memory and disk: not estimated, {found.unsized}")
    return lines


def _often(every: int | str | None) -> str:
    if every is None:
        return "never"
    return "every epoch" if every == "epoch" else f"every {every} steps and at the end"


def _sizes(sizes: Size, found: Rehearsal) -> list[str]:
    share = 100 * sizes.trainable / max(sizes.parameters, 1)
    lines = [f"  parameters: {sizes.parameters:,}, of which {sizes.trainable:,} train ({share:.3g} %)", _memory(sizes)]
    memory = free_memory()
    if memory is not None and memory < sizes.memory_bytes:
        lines.append(f"  warning: only {size(memory)} of memory are free")
    free = size(storage.free_bytes(Path(found.args.output_dir)))
    one = (
        f"about {size(sizes.checkpoint_bytes)} a checkpoint" if sizes.checkpoint_bytes is not None else "not estimated"
    )
    kept = found.schedule.checkpoints_kept if found.schedule else None
    return [*lines, f"  disk: {one}, {kept or 'all'} kept; {free} free in {found.args.output_dir}"]


def _memory(sizes: Size) -> str:
    """What a process needs at the height of a step; without activations where shapes do not tell them."""
    if sizes.memory is not None and sizes.batch is not None:
        parts = ", ".join(f"{name} {size(count)}" for name, count in sizes.memory.parts().items() if count)
        largest = f"{sizes.batch.rows} x {sizes.batch.tokens:,} tokens"
        return f"  memory: about {size(sizes.memory.total)} a process for the largest batch, {largest} ({parts})"
    known = [f"weights {size(sizes.weight_bytes)}", f"gradients {size(sizes.gradient_bytes)}"]
    known += [f"optimiser {size(sizes.optimiser_bytes)}"] if sizes.optimiser_bytes is not None else []
    return f"  memory: at least {size(sizes.memory_bytes)} a process ({', '.join(known)}); activations come on top"


def free_memory() -> int | None:
    """Free bytes of the device that would train; None where that cannot be asked."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]  # needs-cuda
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(found[1]) << 10 if found else None
