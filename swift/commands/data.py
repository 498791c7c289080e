"""`swift data`: data sets as a model will meet them, to look at or to keep."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from swift import storage
from swift.arguments.data_verbs import DataArguments
from swift.arguments.help import width
from swift.arguments.sft import SftArguments
from swift.commands.chat import say
from swift.commands.dry_run import launch_line
from swift.commands.pictures import histogram, row_text, wants_colour
from swift.commands.prepare import load_plugins, load_template
from swift.commands.preview_page import draw_lengths, to_html
from swift.commands.ready import find_inputs
from swift.commands.rows import encode_rows, load_rows, made_of
from swift.datasets import cache
from swift.datasets.convert import Conversation
from swift.datasets.encode import encode, length_statistics
from swift.datasets.judge import problem
from swift.datasets.ledger import Ledger
from swift.datasets.pack import PackedDataset
from swift.datasets.show import Elements, elements_of
from swift.datasets.turns import Message
from swift.decide import decide_sft, tidy
from swift.errors import DataError, OutputError, UsageError
from swift.models.load import detect_hardware
from swift.templates.template import Template

PAGE, PICTURE, REPORT = "preview.html", "lengths.png", "data_report.json"


def data_main(said: DataArguments) -> dict[str, Any]:
    """Do what `swift data <action>` asks for; return the account of the rows."""
    return prepare(said) if said.action == "prepare" else preview(said)


def prepare(said: DataArguments) -> dict[str, Any]:
    """Encode data sets into a directory, from which `swift sft --dataset` trains; return the account.

    Raises:
        UsageError: no directory is said.
        OutputError: there is another thing under its name.
    """
    if not said.output:
        raise UsageError("USAGE-03", "--output is missing", fix="swift data prepare <data set> --output <directory>")
    output = Path(said.output).expanduser()
    storage.sweep(output.resolve().parent, output.resolve().name)
    if output.exists() and not cache.is_kept(output) and not (output.is_dir() and not any(output.iterdir())):
        raise OutputError("OUTPUT-01", f"--output {said.output} holds other files", fix="name another directory")
    args, template = decided(as_training(said))
    made = made_of(args, template) or made_of(args, template, of_files=False)
    assert made is not None
    if args.packing:
        made["options"]["packing"] = True
    with storage.staged_directory(output.resolve(), cache.facts(made)) as stage:
        data = encode_rows(args, template, stage)
    say(data.ledger.screen())
    if isinstance(data.train, PackedDataset):
        say(f"packed: {data.train.describe()}")
    launch = launch_line(replace(as_training(said), dataset=[str(output)], val_dataset=[]), None)
    say(f"written: {output}\nto train from it:  {launch}")
    return data.ledger.to_json()


@dataclass(frozen=True)
class Preview:
    """What there is to see of data sets: some rows, the same encoded, lengths, and the account of all rows.

    In place of a row that is dropped stands the reason.
    """

    rows: list[Conversation]
    encoded: list[Mapping[str, Any] | str]
    lengths: list[int]
    ledger: Ledger
    template: Template

    @property
    def elements(self) -> Elements:
        """The rows as a table."""
        return elements_of([_columns(row) for row in self.rows])


def preview(said: DataArguments) -> dict[str, Any]:
    """Show random rows of data sets, what is learnt of them, lengths and the account; return the account.

    With `output`, the same is written there as a page, a picture and a report.

    Raises:
        OutputError: `output` is a file.
    """
    if said.output and Path(said.output).is_file():
        raise OutputError("OUTPUT-01", f"--output {said.output} is a file", fix="name a directory")
    args, template = decided(replace(as_training(said), evaluation_strategy="no"))
    loaded = load_rows(args)
    rows = [*loaded.train, *(loaded.val or [])]
    parts = [encode(loaded.train, template, loaded.ledger)]
    parts += [encode(loaded.val, template, loaded.ledger, split="validation")] if loaded.val else []
    lengths = [length for part in parts for length in part.lengths]
    drawn = random.Random(args.dataset_seed).sample(rows, min(said.rows, len(rows)))
    found = Preview(drawn, [_encoded(row, template) for row in drawn], lengths, loaded.ledger, template)
    say("\n".join(to_text(found, wants_colour())))
    if said.output:
        write(found, Path(said.output))
        say(f"written: {Path(said.output) / PAGE}, {PICTURE}, {REPORT}")
    return loaded.ledger.to_json()


def _encoded(row: Conversation, template: Template) -> Mapping[str, Any] | str:
    """A row encoded, or why it is dropped."""
    errors: list[tuple[int, DataError]] = []
    inputs = template.encode_batch([row], errors)[0]
    return errors[0][1].what if errors else problem(inputs, template) or inputs


def as_training(said: DataArguments) -> SftArguments:
    """The options of a training run on the same data."""
    names = {field.name for field in fields(SftArguments)} & {field.name for field in fields(said)}
    return tidy(SftArguments(**{name: getattr(said, name) for name in sorted(names)}))


def decided(args: SftArguments) -> tuple[SftArguments, Template]:
    """The options as a training run decides them, and its template."""
    load_plugins(args.custom_register_path)
    source = find_inputs(args)
    args = decide_sft(args, detect_hardware(), source)
    return args, load_template(args, source)


def to_text(found: Preview, colour: bool) -> list[str]:
    """Lines for a terminal."""
    lines = [
        f"Rows ({len(found.rows)} drawn at random)",
        found.elements.to_text(width()),
        "",
        "As the model meets them",
    ]
    mark = "in green" if colour else "between ⟦ and ⟧"
    for row, inputs in zip(found.rows, found.encoded, strict=True):
        lines.append(f"{row['where']}: {_told(inputs)}{'' if isinstance(inputs, str) else f', {mark}'}")
        lines += [] if isinstance(inputs, str) else [row_text(inputs, found.template.tokenizer, colour)]
    lines += ["", f"Tokens per row: {length_statistics(found.lengths)}", *histogram(found.lengths), ""]
    return [*lines, found.ledger.screen()]


def _told(inputs: Mapping[str, Any] | str) -> str:
    if isinstance(inputs, str):
        return f"dropped: {inputs}"
    learnt = sum(label >= 0 for label in inputs["labels"])
    return f"{len(inputs['input_ids']):,} tokens, {learnt:,} of them learnt"


def _columns(row: Conversation) -> dict[str, Any]:
    """A conversation as columns: where it stands, what is said, and whatever goes with it."""
    said = "\n".join(f"{message['role']}: {_content(message)}" for message in row["messages"])
    more = {name: value for name, value in row.items() if name not in ("messages", "where", "dataset")}
    return {"where": row["where"], "conversation": said, **more}


def _content(message: Message) -> str:
    """What a message says, or the calls of tools that it is."""
    calls = message.get("tool_calls")
    return message["content"] or (json.dumps(calls, ensure_ascii=False, default=str) if calls else "")


def write(found: Preview, directory: Path) -> None:
    """Write the page, the picture and the report.

    Raises:
        DiskError: no space left.
        OutputError: nothing can be written there.
    """
    storage.make_directory(directory)
    picture = draw_lengths(found.lengths, found.template.max_length)
    told = zip(found.rows, found.encoded, strict=True)
    page = to_html(
        found.elements,
        [(row["where"], _told(inputs), {} if isinstance(inputs, str) else inputs) for row, inputs in told],
        found.template.tokenizer,
        length_statistics(found.lengths),
        picture,
        found.ledger,
        found.template.describe_end(),
    )
    storage.write_bytes(directory / PICTURE, picture)
    storage.write_text(directory / PAGE, page)
    storage.write_json(directory / REPORT, found.ledger.to_json())
