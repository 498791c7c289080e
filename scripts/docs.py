"""Write what is read from the code: the reference pages in docs/, the table of docs/templates.md, docs/schema/*.json.

    python scripts/docs.py [--check]

With --check nothing is written; exits with 1 and names the documents that are stale.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from swift.arguments.fields import OptionInfo
from swift.arguments.help import default_of, first_line, grouped, values
from swift.cli import COMMANDS, load
from swift.commands.models import needs
from swift.commands.schema import CLASSES, schema_of, to_text
from swift.datasets import DATASETS
from swift.models import MODELS, ModelRecord
from swift.models.remote_code import native_type
from swift.templates import TEMPLATES, Piece, TemplateRecord

DOCS = Path(__file__).resolve().parent.parent / "docs"
TABLE, TABLE_END = "<!-- The table is written by `python scripts/docs.py`. -->", "<!-- End of the table. -->"
WRITTEN = "<!-- Written by `python scripts/docs.py`. -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a document is stale")
    check = parser.parse_args().check
    stale = [path for path, text in documents().items() if not path.is_file() or path.read_text("utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(DOCS.parent)} is stale: python scripts/docs.py" if check else f"written: {path}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(documents()[path], "utf-8")
    return int(check and bool(stale))


def documents() -> dict[Path, str]:
    """Every document by its path."""
    schemas = {DOCS / "schema" / f"{name}.json": to_text(schema_of(name)) for name in CLASSES}
    return {
        DOCS / "cli.md": commands(),
        DOCS / "models.md": registries(),
        DOCS / "templates.md": templates(DOCS / "templates.md"),
        DOCS / "supported-models.md": models(),
        **schemas,
    }


def commands() -> str:
    """docs/cli.md: every command with its options by topic."""
    lines = [
        "# Commands and options",
        "",
        WRITTEN,
        "",
        "`swift COMMAND --help` says the same in the terminal. Options are written `--name value`, lists as",
        "`--name a b`, flags as `--name` or `--name false`; `-` and `_` in names are the same. They may stand in a",
        "YAML or JSON file (`--config run.yaml`, or the file as the first word), and the command line wins over it.",
        "`--debug` shows the traceback of an error; [errors.md](errors.md) explains every code.",
    ]
    for name, command in COMMANDS.items():
        cls = load(command.arguments)
        lines += ["", f"## swift {name}", "", command.about or first_line(cls)]
        same = next((other for other, row in COMMANDS.items() if row.arguments == command.arguments), name)
        if same != name:
            lines += ["", f"Its options are those of [swift {same}](#swift-{same})."]
            continue
        for group, infos in grouped(cls).items():
            lines += ["", f"### {group}", "", *table(("option", "value", "", "default"), map(option, infos))]
    return "\n".join(lines) + "\n"


def option(info: OptionInfo) -> tuple[str, ...]:
    unit = f" {info.unit}" if info.unit and info.default is not None else ""
    return f"`--{info.name}`", f"`{values(info)}`", info.help, default_of(info) + unit


def registries() -> str:
    """docs/models.md: what has a name."""
    datasets = (
        (
            f"`{row.name}`",
            row.ms or ("in the package" if row.path else ""),
            row.hf or "",
            " ".join(row.subsets),
            " ".join(row.tags),
        )
        for row in DATASETS.values()
    )
    lines = [
        "# Templates and data sets with a name",
        "",
        WRITTEN,
        "",
        "A name is a convenience: without one, a model is trained with its tokenizer's own chat template, and any file",
        "or hub id of a known shape is a data set. [customize.md](customize.md) says how to add one. Models are in",
        "[supported-models.md](supported-models.md).",
        "",
        f"## Templates ({len(TEMPLATES)})",
        "",
        "The value of `--template_type`; `auto` is the tokenizer's own.",
        "",
        *table(("name", "a round", "ends with", "system"), map(template, TEMPLATES.values())),
        "",
        f"## Data sets ({len(DATASETS)})",
        "",
        "A value of `--dataset`; `name:subset` and `name#500` select.",
        "",
        *table(("name", "ModelScope", "Hugging Face", "subsets", "about"), datasets),
    ]
    return "\n".join(lines) + "\n"


def templates(path: Path) -> str:
    """docs/templates.md: what somebody wrote, with the table of templates between its marks."""
    head, start, rest = path.read_text("utf-8").partition(f"{TABLE}\n")
    _, end, tail = rest.partition(TABLE_END)
    users: dict[str, set[str]] = {}
    for row in MODELS.values():
        users.setdefault(row.template, set()).add(row.family)
    auto = ("`auto`", " ".join(sorted(users["auto"])), "it is the model's own", "the model's own", "the model's own")
    rows = (
        (
            f"`{row.name}`",
            " ".join(sorted(users.get(row.name, ()))),
            row.checked,
            f"`{row.tool_format}`" if row.tool_format else "no",
            "yes" if row.thinking else "no",
        )
        for row in TEMPLATES.values()
    )
    lines = table(("template", "families", "compared with", "tools", "thoughts"), [auto, *rows])
    return head + start + "\n" + "\n".join(lines) + "\n\n" + (end or TABLE_END) + tail


def models() -> str:
    """docs/supported-models.md: the registered models by family, and what was built of them."""
    families = sorted({row.family for row in MODELS.values()})
    rows = {name: [row for row in MODELS.values() if row.family == name] for name in families}
    classes = Counter(row.arch for row in MODELS.values())
    lines = [
        "# Supported models",
        "",
        WRITTEN,
        "",
        "A name is a convenience: any directory that `save_pretrained` wrote and any hub id of a causal language model",
        "works by `--model_id_or_path`, with the tokenizer's own chat template. [customize.md](customize.md) says how",
        "to add a row, in the package or from a file of your own. `swift models` searches these rows, and",
        "`swift models <directory>` says what a directory holds.",
        "",
        f"{len(MODELS)} models of {len(families)} families: "
        + ", ".join(f"[{name}](#{anchor(name)})" for name in families)
        + ".",
        "",
        "`auto` is the tokenizer's own chat template. Ids are fetched from ModelScope, or with `USE_HF=1` from Hugging",
        "Face, whatever their capitals. *Own code*: transformers lacks the class, so that `--trust_remote_code true`",
        "is needed, and what that code was written for may be older than what is installed.",
        *(line for name in families for line in family_table(name, rows[name])),
        "",
        f"## Classes ({len(classes)})",
        "",
        "Each class that transformers has is built tiny in a test, run forward and backward, and tuned by LoRA on its",
        "DEFAULT. The others come with code of their own, which no test runs.",
        "",
        *table(
            ("class", "models", "tested"),
            ((f"`{a}`", str(n), "yes" if native_type(a) else "own code") for a, n in sorted(classes.items())),
        ),
    ]
    return "\n".join(lines) + "\n"


def family_table(name: str, rows: list[ModelRecord]) -> list[str]:
    """The section of one family."""
    cells = (
        (
            f"`{row.name}`",
            f"`{row.template}`",
            row.ms or ("in the package" if row.path else ""),
            row.hf or "",
            " ".join(row.targets),
            needs(row),
        )
        for row in rows
    )
    head = ("name", "template", "ModelScope", "Hugging Face", "LoRA's DEFAULT", "needs")
    return ["", f"## {name}", "", *table(head, cells)]


def anchor(title: str) -> str:
    """Where a title is on its page."""
    return title.lower().replace(" ", "-").replace(".", "")


def template(row: TemplateRecord) -> tuple[str, ...]:
    system = "none"
    pieces = (*row.prefix, *(row.system_prefix or ()), *row.prompt)
    if any("{{SYSTEM}}" in str(piece) for piece in pieces):
        system = code(row.default_system) if row.default_system else "if said"
    return f"`{row.name}`", code(pieces_text(row.prompt)), code(pieces_text(row.suffix)), system


def pieces_text(pieces: Iterable[Piece]) -> str:
    return "".join(piece if isinstance(piece, str) else "".join(map(token_text, piece)) for piece in pieces)


def token_text(token: int | str) -> str:
    """A token's text, or `<eos_token_id>` for an attribute of the tokenizer and `<2>` for an id."""
    return token if isinstance(token, str) and not token.isidentifier() else f"<{token}>"


def code(text: str) -> str:
    """Text as code on one line of a table."""
    shown = repr(text)[1:-1]
    return f"``{shown}``" if "`" in shown else f"`{shown}`"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows]


def escaped(cell: str) -> str:
    """A bar would end the cell, inside code too."""
    return cell.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
