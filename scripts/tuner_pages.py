"""Write the pages about tuners and the reference of the public names: docs/tuners/ and docs/api/.

    python scripts/tuner_pages.py [--check]

Read from the code are equations, settings, options, configuration files and the pictures; from docs/tuners/cost.md the
costs; what is left is said in scripts/pages/facts.py. With --check nothing is written; exits with 1 and names the pages
that are stale.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import sys
import textwrap
from dataclasses import MISSING, fields
from pathlib import Path

from pages.docstrings import WIDTH, markdown, split
from pages.facts import CHOOSE, TUNERS, Tuner
from pages.pictures import PICTURES
from pages.svg import Picture

from docs import option, table
from swift.arguments.fields import options_of
from swift.arguments.help import grouped
from swift.arguments.sft import SftArguments

ROOT = Path(__file__).resolve().parents[1]
TO = ROOT / "docs" / "tuners"
WRITTEN = "<!-- Written by `python scripts/tuner_pages.py`. -->"
ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n(?:        .*)?)*)", re.M)
MODULES = ("swift", "swift.llm", "swift.tuners", "swift.peft", "swift.trainers")
LONGEST = 88  # characters of a line in an example
HOSTS = {
    "language": ("AutoModelForCausalLM", "transformers", "my-model"),
    "vit": ("ViTForImageClassification", "transformers", "my-vit"),
    "unet": ("UNet2DConditionModel", "diffusers", "my-unet"),
}


ABOUT = (
    "A tuner is a small trainable part in a frozen model, or a way to train the model itself with less memory. They "
    "work on any PyTorch model by `Swift.prepare_model`, and on language models by `swift sft`; several of different "
    "kinds can be on one model: `--tuner lora:rank=8,targets=ALL --tuner adapter:length=64`, where `name=` names "
    "an adapter. Each page says what is computed and where, what is saved, and how to use it; [cost.md](cost.md) has "
    "all measured costs."
)
BELOW = (
    "*in*, *out*: sizes of a layer's input and output; *r*: the rank; *D*: the hidden size. What merges becomes a part "
    "of the weights by `Swift.merge_and_unload` or `swift export --merge_lora true`, and then costs nothing. Any other "
    "config class of PEFT can be given to `Swift.prepare_model` too."
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a page is stale")
    check = parser.parse_args().check
    pages = documents()
    stale = [path for path, text in pages.items() if not path.is_file() or path.read_text("utf-8") != text]
    written = {path for folder in ("tuners", "api") for path in (ROOT / "docs" / folder).rglob("*.*")}
    left = written - pages.keys() - {TO / "cost.md"}
    for path in stale:
        print(f"{path.relative_to(ROOT)} is stale: python scripts/tuner_pages.py" if check else f"written: {path}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages[path], "utf-8")
    for path in left:
        print(f"{path.relative_to(ROOT)} is about nothing that there is: remove it")
    return int(bool(left) or (check and bool(stale)))


def documents() -> dict[Path, str]:
    """Every page and picture by its path."""
    pages = {TO / f"{tuner.name}.md": page(tuner) for tuner in TUNERS}
    pictures = {TO / "images" / f"{tuner.name}.svg": picture(tuner) for tuner in TUNERS}
    api = {ROOT / "docs" / "api" / f"{module}.md": reference(module) for module in MODULES}
    return {TO / "README.md": index(), **pages, **pictures, **api}


def picture(tuner: Tuner) -> str:
    drawn = Picture(tuner.title)
    PICTURES[tuner.name](drawn)
    return drawn.svg(tuner.line)


def index() -> str:
    """docs/tuners/README.md: all of them, and which to choose."""
    rows = (
        (
            f"[{tuner.title}]({tuner.name}.md)",
            tuner.line,
            tuner.trained,
            "yes" if tuner.merges else "no",
            {"both": "language, vision"}.get(tuner.on, tuner.on),
        )
        for tuner in TUNERS
    )
    lines = [
        "# Tuners",
        "",
        WRITTEN,
        "",
        *wrapped(ABOUT),
        "",
        "## Which to choose",
        "",
        CHOOSE,
        "",
        "## All of them",
        "",
        *table(("tuner", "what it is", "parameters trained", "merges", "for"), rows),
        "",
        *wrapped(BELOW),
    ]
    return "\n".join(lines) + "\n"


def page(tuner: Tuner) -> str:
    """The page of one tuner."""
    lines = [f"# {tuner.title}", "", WRITTEN, "", *wrapped(tuner.about), ""]
    lines += [f"![{tuner.title}: {tuner.line}](images/{tuner.name}.svg)", "", "## What is computed", ""]
    lines += computed(tuner)
    lines += command_line(tuner) if tuner.yaml else []
    lines += python(tuner) if tuner.config else []
    lines += costs(tuner) + settings(tuner)
    return "\n".join(lines).rstrip() + "\n"


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def config_of(tuner: Tuner) -> type | None:
    """The class of a tuner's settings; None where that is not one of `swift.tuners` or `swift.trainers`."""
    if not tuner.config:
        return None
    module, _, name = tuner.config.rpartition(".")
    return getattr(importlib.import_module(module or "swift.tuners"), name)


def own_docstring(tuner: Tuner) -> str:
    """The docstring of a class of ours; nothing for one of PEFT's."""
    cls = config_of(tuner)
    return inspect.getdoc(cls) or "" if cls is not None and cls.__module__.startswith("swift.") else ""


def computed(tuner: Tuner) -> list[str]:
    """The equation, from the facts or from the docstring with all that it says."""
    block = ["```text", *tuner.equation.splitlines(), "```", ""] if tuner.equation else []
    if tuner.paper:
        return [*block, *wrapped(f"Paper: {tuner.paper}."), ""]
    return [*block, *markdown(split(own_docstring(tuner))[0]), ""]


def command_line(tuner: Tuner) -> list[str]:
    path = f"configs/sft/{tuner.yaml}.yaml"
    text = (ROOT / path).read_text("utf-8").splitlines()
    command = f"swift sft --config {path} {tuner.more}".rstrip()
    block = "bash skip: needs a CUDA GPU and the package" if tuner.more else "bash"
    shown = [line for line in text if not line.startswith("#")]
    return [
        "## From the command line",
        "",
        f"```{block}",
        command,
        "```",
        "",
        f"where `{path}` says",
        "",
        "```yaml",
        *shown,
        "```",
        "",
    ]


def python(tuner: Tuner) -> list[str]:
    """The example: tune, save, load again."""
    if tuner.host in SPECIAL:
        return ["## From Python", "", "```python", *SPECIAL[tuner.host].strip().splitlines(), "```", ""]
    cls, package, path = HOSTS[tuner.host]
    load = f'{cls}.from_pretrained("{path}")'
    config = f"config = {tuner.config}({tuner.example})"
    first = [
        f"from {package} import {cls}",
        f"from swift.tuners import {', '.join(sorted((tuner.config, 'Swift'), key=str.lower))}",
        "",
        f"model = {load}",
        config if len(config) <= LONGEST else f"config = {tuner.config}(\n    {tuner.example}\n)",
        "model = Swift.prepare_model(model, config)",
    ]
    lines = ["## From Python", "", "```python", *first, "```", ""]
    if tuner.name == "neftune":  # it leaves nothing to save
        return lines
    second = ['model.save_pretrained("tuned")', "", f"model = {load}", 'model = Swift.from_pretrained(model, "tuned")']
    second += ["Swift.merge_and_unload(model)  # a part of the weights from now on"] if tuner.merges else []
    return [*lines, "Train it with any loop or trainer, save it, load it:", "", "```python", *second, "```", ""]


SPECIAL = {
    "galore": """
from transformers import AutoModelForCausalLM
from swift.trainers import GaLoreConfig, create_galore_optimizer

model = AutoModelForCausalLM.from_pretrained("my-model")
optimizer = create_galore_optimizer(model, GaLoreConfig(rank=16), lr=1e-5)  # used as any other
""",
    "lisa": """
from transformers import AutoModelForCausalLM
from swift.trainers import Lisa, Seq2SeqTrainer, Seq2SeqTrainingArguments

model = AutoModelForCausalLM.from_pretrained("my-model")
lisa = Lisa(model, activated=1, interval=20, seed=42)
trainer = Seq2SeqTrainer(model=model, args=Seq2SeqTrainingArguments(output_dir="output"), callbacks=[lisa])
""",
}


def costs(tuner: Tuner) -> list[str]:
    """The tuner's row of cost.md."""
    lines = ["## What it costs", "", *wrapped(f"Trained parameters: {tuner.trained}."), ""]
    if not tuner.cost:
        return lines
    head, rows = cost_table()
    return [*lines, *head, rows[tuner.cost], "", *wrapped(f"{tuner.costs} {MEASURED}".strip()), ""]


MEASURED = "Times and memory are over those of the bare frozen model; [cost.md](cost.md) says how they were measured."


def cost_table() -> tuple[list[str], dict[str, str]]:
    """The head of the first table in cost.md and its rows by tuner."""
    lines = [
        line for line in (TO / "cost.md").read_text("utf-8").partition("| aim |")[0].splitlines() if line[:1] == "|"
    ]
    return lines[:2], {line.split("|")[1].strip(): line for line in lines[2:]}


def settings(tuner: Tuner) -> list[str]:
    """Options of the command line, and the arguments of a class of ours."""
    lines: list[str] = []
    if tuner.options:
        groups, single = grouped(SftArguments), options_of(SftArguments)
        infos = [info for name in tuner.options for info in ([single[name]] if name in single else groups[name])]
        lines += ["## Options", "", *table(("option", "value", "", "default"), map(option, infos)), ""]
    cls, arguments = config_of(tuner), split(own_docstring(tuner))[1].partition("\nRaises:")[0]
    if cls is None or not arguments or (tuner.paper and tuner.config == "LoraConfig"):  # they stand on LoRA's page
        return lines
    own = {field.name: field for field in fields(cls)} if hasattr(cls, "__dataclass_fields__") else {}
    said = ARGUMENT.findall(arguments)
    rows = [(f"`{name}`", " ".join(text.split()), default(own[name]) if name in own else "") for name, text in said]
    return [*lines, f"## Arguments of `{tuner.config}`", "", *table(("argument", "", "default"), rows), ""]


def default(field: object) -> str:
    value = getattr(field, "default", MISSING)
    return "has to be said" if value is MISSING else f"`{value!r}`"


def reference(module: str) -> str:
    """docs/api/<module>.md: the public names of a module, each where it is defined."""
    about = inspect.getdoc(importlib.import_module(module)) or ""
    names = public(module)
    own = {name: home for name, home in names.items() if home.startswith("swift.")}
    foreign = sorted(name for name, home in names.items() if not home.startswith("swift."))
    lines = [f"# {module}", "", WRITTEN, "", about, ""]
    if foreign:
        shown = ", ".join(f"`{name}`" for name in foreign)
        lines += [*wrapped(f"From PEFT, as they are there (<https://huggingface.co/docs/peft>): {shown}."), ""]
    for name, home in sorted(own.items(), key=lambda item: item[0].lower()):
        lines += described(module, name, home)
    return "\n".join(lines).rstrip() + "\n"


def described(module: str, name: str, home: str) -> list[str]:
    """One name: its documentation, or where that is when another module has it too."""
    first = next(other for other in (*MODULES[1:], MODULES[0]) if home in public(other).values())
    if first != module:
        return [f"## {name}", "", f"See [{first}]({first}.md).", ""]
    return [f"::: {home}", "    options:", f"      heading: {name}", "      heading_level: 2", ""]


def public(module: str) -> dict[str, str]:
    """Public name -> where it is defined, from the module's stub."""
    found = importlib.import_module(module)
    stub = Path(str(found.__file__)).with_suffix(".pyi")
    nodes = (node for node in ast.parse(stub.read_text("utf-8")).body if isinstance(node, ast.ImportFrom))
    return {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in nodes for alias in node.names}


if __name__ == "__main__":
    sys.exit(main())
