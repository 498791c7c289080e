"""`swift data`: data sets as a model will meet them, to look at or to keep."""

from __future__ import annotations

import base64
import html
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from swift import storage
from swift.arguments.data_verbs import DataArguments
from swift.arguments.help import width
from swift.arguments.sft import SftArguments
from swift.commands.chat import say
from swift.commands.pictures import histogram, row_text, segments, wants_colour
from swift.commands.prepare import load_plugins, load_template
from swift.commands.ready import find_inputs
from swift.commands.rows import encode_rows, load_rows, made_of
from swift.datasets import cache
from swift.datasets.convert import Conversation
from swift.datasets.encode import encode, length_statistics
from swift.datasets.ledger import Ledger
from swift.datasets.pack import PackedDataset
from swift.datasets.show import STYLE, Elements, elements_of, printable
from swift.decide import decide_sft, tidy
from swift.errors import OutputError, UsageError
from swift.models.load import detect_hardware
from swift.templates.template import Template

PAGE, PICTURE, REPORT = "preview.html", "lengths.png", "data_report.json"
BINS = 40
LEARNT = "#1b7f3b"
OWN_STYLE = (
    "body{font-family:sans-serif;margin:2em}pre{white-space:pre-wrap;overflow-wrap:anywhere;color:#777}"
    f".learnt{{color:{LEARNT}}}"
)
HEAD = f'<head><meta charset="utf-8"><title>Data preview</title><style>{STYLE}{OWN_STYLE}</style></head>'


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
    say(f"written: {output}; train from it with `swift sft --dataset {output}`")
    return data.ledger.to_json()


@dataclass(frozen=True)
class Preview:
    """What there is to see of data sets: some rows, the same encoded, lengths, and the account of all rows."""

    rows: list[Conversation]
    encoded: list[dict[str, list[int]]]
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
    """
    args, template = decided(replace(as_training(said), evaluation_strategy="no"))
    loaded = load_rows(args)
    rows = [*loaded.train, *(loaded.val or [])]
    parts = [encode(loaded.train, template, loaded.ledger)]
    parts += [encode(loaded.val, template, loaded.ledger, split="validation")] if loaded.val else []
    lengths = [length for part in parts for length in part.lengths]
    drawn = random.Random(args.dataset_seed).sample(rows, min(said.rows, len(rows)))
    samples = [template.encode_batch([row], [])[0] for row in drawn]
    found = Preview(drawn, [dict(sample) for sample in samples], lengths, loaded.ledger, template)
    say("\n".join(to_text(found, wants_colour())))
    if said.output:
        write(found, Path(said.output))
        say(f"written: {Path(said.output) / PAGE}, {PICTURE}, {REPORT}")
    return loaded.ledger.to_json()


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
        lines.append(f"{row['where']}: {_told(inputs, mark)}")
        lines += [row_text(inputs, found.template.tokenizer, colour)] if inputs else []
    lines += ["", f"Tokens per row: {length_statistics(found.lengths)}", *histogram(found.lengths), ""]
    return [*lines, found.template.describe_end(), found.ledger.screen()]


def _told(inputs: Mapping[str, Any], mark: str) -> str:
    if not inputs:
        return "dropped: too long, or refused by the template"
    learnt = sum(label >= 0 for label in inputs["labels"])
    return f"{len(inputs['input_ids']):,} tokens, {learnt:,} of them learnt, {mark}"


def _columns(row: Conversation) -> dict[str, Any]:
    """A conversation as columns: where it stands, what is said, and whatever goes with it."""
    said = "\n".join(f"{message['role']}: {message['content']}" for message in row["messages"])
    more = {name: value for name, value in row.items() if name not in ("messages", "where", "dataset")}
    return {"where": row["where"], "conversation": said, **more}


def write(found: Preview, directory: Path) -> None:
    """Write the page, the picture and the report.

    Raises:
        DiskError: no space left.
        OutputError: nothing can be written there.
    """
    storage.make_directory(directory)
    picture = draw_lengths(found.lengths)
    storage.write_bytes(directory / PICTURE, picture)
    storage.write_text(directory / PAGE, to_html(found, picture))
    storage.write_json(directory / REPORT, found.ledger.to_json())


def to_html(found: Preview, picture: bytes) -> str:
    """One page that needs no other file; nothing of the data is read as markup."""
    tokenizer = found.template.tokenizer
    body = ["<h1>Data preview</h1>", f"<h2>{len(found.rows)} rows drawn at random</h2>", found.elements.to_html()]
    body.append("<h2>As the model meets them</h2>")
    for row, inputs in zip(found.rows, found.encoded, strict=True):
        body.append(f"<p>{_escaped(row['where'])}: {_escaped(_told(inputs, 'in green'))}</p>")
        spans = [
            f'<span class="learnt">{_escaped(text)}</span>' if learnt else _escaped(text)
            for learnt, text in (segments(inputs, tokenizer) if inputs else ())
        ]
        body.append(f"<pre>{''.join(spans)}</pre>")
    body.append(f"<h2>Tokens per row</h2><p>{_escaped(length_statistics(found.lengths))}</p>")
    body.append(f'<img alt="lengths" src="data:image/png;base64,{base64.b64encode(picture).decode()}">')
    account = f"{found.template.describe_end()}\n{found.ledger.screen()}"
    body.append(f"<h2>Account</h2><pre>{_escaped(account)}</pre>")
    body += ["</body>", "</html>", ""]
    return "\n".join(["<!doctype html>", "<html>", HEAD, "<body>", *body])


def _escaped(text: str) -> str:
    return html.escape(printable(text))


def draw_lengths(lengths: Sequence[int]) -> bytes:
    """A PNG that shows how many rows have which length."""
    figure = Figure(figsize=(8, 4), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.hist(lengths, bins=min(BINS, max(lengths) - min(lengths) + 1), color=LEARNT)
    axes.set_xlabel("tokens")
    axes.set_ylabel("rows")
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
