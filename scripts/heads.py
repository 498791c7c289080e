"""Teach demo-chat to judge, sort and find instead of to write, and measure it on questions that it was not shown.

    python scripts/heads.py [rm seq_cls embedding reranker] [--steps N] [--write]

`rm` tells a right answer from one to another question, `seq_cls` says what a question is about, `embedding` and
`reranker` find the answer of a question among others. The exit code is 1 when one does not reach its aim. With --write
the table of all four goes into docs/heads.md.
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
PAGE = Path(__file__).resolve().parents[1] / "docs" / "heads.md"
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
    items = asked(900)
    train, held = write_rows(place / f"{kind}.jsonl", kind, items[:760], 1), items[760:]
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
        eval_steps=max(steps // 4, 1),
        save_steps=steps,
        add_output_dir_suffix=False,
        report_to=["none"],
    )
    return [line for line in report["log_history"] if "eval_loss" in line]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="kind", help="which; all unless said")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--write", action="store_true", help="put the table into docs/heads.md")
    args = parser.parse_args()
    if args.write and args.kinds:
        parser.error("--write is of all kinds")
    lines, reached = [], True
    with tempfile.TemporaryDirectory() as name:
        for kind in args.kinds or SETTINGS:
            begun = time.process_time()
            found = learn(kind, Path(name), args.steps)
            metric, aim = AIMS[kind]
            values = ", ".join(f"{line[metric]:.3f}" for line in found)
            lines.append(
                f"| {kind} | {metric.removeprefix('eval_')} | {values} | {time.process_time() - begun:.0f} s |"
            )
            reached = reached and found[-1][metric] >= aim
    head = f"| head | measure on held-out rows | at each quarter of {args.steps} steps | CPU time |\n|---|---|---|---|"
    table = "\n".join([head, *lines])
    print(table)
    if args.write:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(before + BEGIN + table + "\n" + END + rest.partition(END)[2], encoding="utf-8")
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())
