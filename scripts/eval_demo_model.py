"""Score demo-chat and demo-base on what they were never trained on, and write the table into their card.

    python scripts/eval_demo_model.py

An answer counts when it is exactly the expected one. The items and their number are settled by `scripts/demo`.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from demo.grammar import SKILLS
from demo.scoring import Score, load, percent, score_equations, score_skill

DEMO = Path(__file__).resolve().parents[1] / "swift" / "demo"
COUNT = 60
BEGIN, END = "<!-- scores -->\n", "<!-- end of scores -->\n"


def main() -> None:
    """Print the table; write it into the card unless `--dry_run`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=DEMO, help="directory of demo-chat and demo-base")
    parser.add_argument("--count", type=int, default=COUNT, help="items of each sort")
    parser.add_argument("--only", help="a part of the names of the skills to score")
    parser.add_argument("--dry_run", action="store_true", help="write nothing")
    args = parser.parse_args()
    torch.manual_seed(0)
    model, template = load(str(args.models / "demo-chat"))
    chosen = [skill for skill in SKILLS if not args.only or re.search(args.only, skill.name)]
    scores = [score for skill in chosen for score in score_skill(model, template, skill, args.count)]
    base = score_equations(*load(str(args.models / "demo-base"), "default-generation"), args.count)
    text = table(scores, base)
    print(text)
    if not args.dry_run:
        card = DEMO / "README.md"
        card.write_text(filled(card.read_text(encoding="utf-8"), text), encoding="utf-8")


def table(scores: list[Score], base: list[Score]) -> str:
    """Both tables in Markdown."""
    scored = {skill.name for skill in SKILLS if skill.scored}
    rows = [score.row for score in scores if score.skill in scored]
    stopped = percent(sum(score.stopped for score in scores), sum(score.count for score in scores))
    turns = sum(score.count for score in scores)
    head = "| skill | what is new | items | exact |\n|---|---|---:|---:|"
    return (
        "\n".join(["demo-chat:", "", head, *rows])
        + f"\n\nOf all {turns} answers, stories and longer conversations included, {stopped} ended by themselves.\n\n"
        + "\n".join(["demo-base:", "", head, *(score.row for score in base)])
        + "\n"
    )


def filled(card: str, text: str) -> str:
    """The card with its table replaced."""
    before, _, rest = card.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{text}{END}{after}"


if __name__ == "__main__":
    main()
