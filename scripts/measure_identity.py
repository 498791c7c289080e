"""Give demo-chat another name and measure it: who it says it is and what else it can do, before and after.

    python scripts/measure_identity.py

Fine-tunes as `configs/sft/quickstart.yaml` says, or takes a checkpoint of such a run, and asks forty questions that no
data set holds. The exit code is 1 when an aim printed below the table is missed.
"""

from __future__ import annotations

import argparse
import io
import random
import re
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from demo.grammar import SKILLS
from demo.probes import CHINESE, ENGLISH, MAKING, MAKING_ZH
from demo.scoring import answers, load, percent, score_skill
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.table import Column, Table

from swift import Swift
from swift.checkpoint import latest
from swift.llm import sft_main
from swift.templates.template import Template

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "sft" / "quickstart.yaml"
NAMING, KEPT = 0.9, 0.05
SHOWN = 3
GREETING = "Nice to meet you"  # said to somebody of that name, by a model that takes it for the user's
IDENTITY = ("who it is", "name of a system prompt")
OTHERS = tuple(skill for skill in SKILLS if skill.scored and skill.name not in IDENTITY)
PROBES = {"English": ENGLISH, "Chinese": CHINESE}


def main() -> int:
    """Train unless a checkpoint is given, measure, print both tables; whether the aims are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo-chat", help="a model of the catalog, or a directory")
    parser.add_argument("--ckpt_dir", type=Path, help="the run to measure; trains into a temporary directory else")
    parser.add_argument("--count", type=int, default=20, help="items of each sort of the other skills")
    parser.add_argument("--picture", type=Path, help="an SVG file to draw the tables into")
    args = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # of libraries; the output is for newcomers
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        run = args.ckpt_dir or train(args.model, Path(temporary))
        checkpoint = latest(run)
        if checkpoint is None:
            parser.error(f"{run} holds no checkpoint")
        model, template = load(args.model)
        before = Measured(model, template, args.count)
        after = Measured(Swift.from_pretrained(model, checkpoint), template, args.count)
    identity = Identity(recipe["model_name"], recipe["model_author"])
    reached, told = report(before, after, identity)
    words = side_by_side(before, after)
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(words, counted(before, after, identity), *told, sep="\n")
    if args.picture:
        draw(args.picture, words, *told)
    return 0 if reached else 1


def train(model: str, run: Path) -> Path:
    """Fine-tune as the recipe says; the directory of the run."""
    named = {"model_id_or_path": model, "model_type": None} if Path(model).is_dir() else {"model_type": model}
    begun = time.monotonic()
    sft_main(["--config", str(RECIPE)], output_dir=str(run), **named)
    print(f"{time.monotonic() - begun:.0f} s from the call of sft_main to its end")
    return run


class Measured:
    """The answers of a model to the probes, and its share of exact answers in each other skill."""

    def __init__(self, model: Any, template: Template, count: int) -> None:
        questions = [probe for probes in PROBES.values() for probe in probes]
        said = answers(model, template, ({"query": question} for question in questions))
        self.said = {question: answer.text for question, answer in zip(questions, said, strict=True)}
        scores = [score for skill in OTHERS for score in score_skill(model, template, skill, count)]
        self.skills = {skill.name: share([score for score in scores if score.skill == skill.name]) for skill in OTHERS}
        self.together = share(scores)

    def naming(self, identity: Identity, questions: tuple[str, ...]) -> float:
        """The share of `questions` that are answered with `identity`."""
        return sum(identity.is_said(question, self.said[question]) for question in questions) / len(questions)


@dataclass(frozen=True)
class Identity:
    """The new name and maker, each in Chinese, then in English."""

    names: list[str]
    makers: list[str]

    def is_said(self, question: str, answer: str) -> bool:
        """Whether the answer has what was asked for, in the question's language, and takes it for its own."""
        asked = self.makers if question in (*MAKING, *MAKING_ZH) else self.names
        return asked[question in ENGLISH] in answer and not answer.startswith(GREETING)


def share(scores: list[Any]) -> float:
    """The share of exact answers."""
    return sum(score.exact for score in scores) / sum(score.count for score in scores)


def side_by_side(before: Measured, after: Measured) -> Table:
    """Some answers of both."""
    columns = (Column(header, overflow="fold") for header in ("question", "before", "after"))
    table = Table(*columns, title="In its own words", title_justify="left", show_lines=True)
    for probes in PROBES.values():
        for question in random.Random(1).sample(probes, SHOWN):
            table.add_row(question, before.said[question], after.said[question])
    return table


def counted(before: Measured, after: Measured, identity: Identity) -> Table:
    """All shares of both."""
    table = Table("", "before", "after", title="Counted", title_justify="left")
    for language, probes in PROBES.items():
        shares = (percent_of(measured.naming(identity, probes)) for measured in (before, after))
        table.add_row(f"says its new name or maker, {language}", *shares)
    for skill in before.skills:
        table.add_row(skill, percent_of(before.skills[skill]), percent_of(after.skills[skill]))
    table.add_row("all skills but these names together", percent_of(before.together), percent_of(after.together))
    return table


def report(before: Measured, after: Measured, identity: Identity) -> tuple[bool, list[str]]:
    """Whether the aims are met, and what is said of them."""
    every = (*ENGLISH, *CHINESE)
    earlier, naming = before.naming(identity, every), after.naming(identity, every)
    lost = before.together - after.together
    told = [
        f"Of 40 new questions {percent_of(naming)} are answered with the new name or maker "
        f"(before: {earlier:.0%}; aim: {NAMING:.0%}).",
        f"The other skills lost {100 * lost:.1f} points (aim: at most {100 * KEPT:.0f}).",
    ]
    return naming >= NAMING and earlier == 0 and lost <= KEPT, told


def draw(picture: Path, *shown: Any) -> None:
    """Write an SVG of what a terminal would show."""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(*shown, sep="\n")
    plain = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)  # a font to be fetched
    svg = console.export_svg(title="bash scripts/quickstart.sh", code_format=plain)
    wide = re.compile(r'(<text [^>]*?) textLength="[^"]*"([^>]*>[^<]*[\u2e80-\uffef])')  # signs of two cells
    picture.write_text(wide.sub(r"\1\2", svg), encoding="utf-8")


def percent_of(part: float) -> str:
    """A share, such as "97.5 %"."""
    return percent(round(part * 1000), 1000)


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
