"""Teach demo-chat to judge, sort and find instead of to write, and measure it on questions that it was not shown.

    python scripts/heads.py [rm seq_cls embedding reranker] [--write]

`rm` tells a right answer from one to another question, `seq_cls` says what a question is about, `embedding` and
`reranker` find the answer of a question among others. The exit code is 1 when one does not reach its aim. With --write
its line goes into the table of docs/heads.md, and its curve into docs/images/.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo import counting, wording
from demo.talking import SIMPLE
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from swift.llm import rlhf_main, sft_main

ABOUT = {"numbers": counting.SKILLS, "words": wording.SKILLS, "itself": SIMPLE}
AIMS = {"rm": ("eval_accuracy", 0.95), "seq_cls": ("eval_accuracy", 0.95), "embedding": ("eval_recall@5", 0.5)}
AIMS["reranker"] = ("eval_recall@1", 0.7)
SETTINGS: dict[str, dict[str, Any]] = {
    "rm": {"rlhf_type": "rm"},
    "seq_cls": {"task_type": "seq_cls", "num_labels": len(ABOUT)},
    "embedding": {"task_type": "embedding", "pooling": "mean"},
    "reranker": {"task_type": "reranker", "loss_name": "listwise"},
}
OTHERS = 3
QUESTIONS, HELD_OUT = 2400, 140
EVALUATIONS = 8
DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "heads.md"
STEPS = {"rm": 160, "seq_cls": 40, "embedding": 80, "reranker": 80}
HEAD = "| head | measure on held-out rows | after each quarter | steps | CPU time |\n|---|---|---|---|---|"
BEGIN, END = "<!-- scripts/heads.py begins -->\n", "<!-- scripts/heads.py ends -->"


def asked(count: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Different questions, each with its answer and what it is about."""
    draw, found = random.Random(seed), {}
    while len(found) < count:
        about = draw.choice(list(ABOUT))
        skills = ABOUT[about]
        skill = draw.choices(skills, [skill.weight for skill in skills])[0]
        question, answer = skill.make(draw, False, False).turns[0]
        found.setdefault(question, (question, answer, about))
    return list(found.values())


def row(kind: str, item: tuple[str, str, str], others: list[str]) -> dict[str, Any]:
    """An item as a row of a kind; the `others` are answers to other questions."""
    question, answer, about = item
    if kind == "rm":
        return {"prompt": question, "chosen": answer, "rejected": others[0]}
    if kind == "seq_cls":
        return {"text": question, "label": about}
    return {"query": question, "pos": [answer], "neg": others}


def write_rows(path: Path, kind: str, items: list[tuple[str, str, str]], seed: int) -> Path:
    """The items as a jsonl file."""
    draw, answers = random.Random(seed), [answer for _, answer, _ in items]
    rows = []
    for item in items:
        wrong = [answer for answer in draw.sample(answers, 4 * OTHERS) if answer != item[1]]
        rows.append(row(kind, item, wrong[:OTHERS]))
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    return path


def learn(kind: str, place: Path, steps: int) -> list[dict[str, Any]]:
    """The evaluations of a run."""
    items = asked(QUESTIONS)
    train, held = write_rows(place / f"{kind}.jsonl", kind, items[HELD_OUT:], 1), items[:HELD_OUT]
    main = rlhf_main if kind == "rm" else sft_main
    report = main(
        [],
        **SETTINGS[kind],
        model_type="demo-chat",
        dataset=[str(train)],
        val_dataset=[str(write_rows(place / f"held-{kind}.jsonl", kind, held, 2))],
        output_dir=str(place / f"run-{kind}"),
        sft_type="full",
        learning_rate=1e-3,
        batch_size=32,
        gradient_accumulation_steps=1,
        max_steps=steps,
        eval_steps=max(steps // EVALUATIONS, 1),
        save_steps=steps,
        add_output_dir_suffix=False,
        report_to=["none"],
    )
    return [line for line in report["log_history"] if "eval_loss" in line]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="kind", help="which; all unless said")
    parser.add_argument("--write", action="store_true", help="put lines and curves into docs/")
    args = parser.parse_args()
    lines, reached = {}, True
    with tempfile.TemporaryDirectory() as name:
        for kind in args.kinds or SETTINGS:
            begun = time.process_time()
            metric, aim = AIMS[kind]
            curve = [(line["step"], line[metric]) for line in learn(kind, Path(name), STEPS[kind])]
            reached = reached and curve[-1][1] >= aim
            quarters = ", ".join(f"{value:.3f}" for _, value in curve[1::2])
            told = f"{metric.removeprefix('eval_')} | {quarters} | {STEPS[kind]} | {time.process_time() - begun:.0f} s"
            lines[kind] = f"| {kind} | {told} |"
            if args.write:
                draw(kind, curve, metric.removeprefix("eval_"))
                put(kind, lines[kind])
    print("\n".join([HEAD, *lines.values()]))
    return int(not reached)


def put(kind: str, line: str) -> None:
    """Write a line into the table of the page; those of other heads stay."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    known = {row.split(" | ")[0].removeprefix("| "): row for row in table.splitlines()[2:]}
    rows = [(known | {kind: line})[name] for name in SETTINGS if name in known | {kind: line}]
    PAGE.write_text(before + BEGIN + "\n".join([HEAD, *rows]) + "\n" + END + after, encoding="utf-8")


def draw(kind: str, curve: list[tuple[int, float]], measure: str) -> None:
    """What a head comes to on held-out rows, by step."""
    figure = Figure(figsize=(6, 3.2))
    axes = figure.add_subplot()
    axes.plot(*zip(*curve, strict=True), marker="o", markersize=3, color="#D84315")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("step")
    axes.set_ylabel(f"{measure}, rows held out")
    axes.set_title(kind)
    figure.tight_layout()
    path = DOCS / "images" / ("rlhf-rm.svg" if kind == "rm" else f"heads-{kind}.svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    sys.exit(main())
