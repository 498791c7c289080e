"""Teach demo-chat what a larger model knows, and measure how much of it arrives on rows that were held out.

    python scripts/distillation.py [--teacher DIR] [--write]

The teacher is demo-chat with twice the layers, fine-tuned on many logbooks of ships. The student, demo-chat itself, has
seen none; it learns from the teacher on a few, or on their questions alone. The gap is that of the loss on held-out
logbooks, before, to the teacher's; the exit code is 1 when GKD closes less than half of it. With --write figures and
curve go into docs/.
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

import torch
from demo.deeper import deepen
from demo.scoring import load
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from pretraining import logbook
from torch.nn.functional import cross_entropy

from swift import Swift
from swift.llm import rlhf_main, sft_main
from swift.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGE, PICTURE = ROOT / "docs" / "rlhf" / "gkd.md", ROOT / "docs" / "images" / "rlhf-gkd.svg"
BEGIN, END = "<!-- distillation -->\n", "<!-- end of distillation -->"
AIM = 0.5
MANY, FEW, HELD_OUT = 640, 64, 48
TEACHER_STEPS, STEPS = 80, 32
DAYS = 2  # of a logbook
COMMON: dict[str, Any] = {
    "batch_size": 8, "gradient_accumulation_steps": 1, "add_output_dir_suffix": False, "report_to": "none",
    "disable_tqdm": True, "max_length": 160, "template_type": "chatml", "save_total_limit": 1, "logging_steps": 4,
}  # fmt: skip
STUDENT: dict[str, Any] = {
    **COMMON, "lora_target_modules": ["ALL"], "lora_rank": 16, "lora_dropout_p": 0.0, "learning_rate": 4e-3,
    "max_steps": STEPS, "eval_steps": 8, "save_steps": STEPS,
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "fine-tuning on the few rows": {},
    "GKD, answers of the rows": {"lmbda": 0.0, "beta": 0.0},
    "GKD, half the answers its own": {"lmbda": 0.5, "beta": 0.0, "max_new_tokens": 80},
    "GKD, answers of the teacher to the questions alone": {
        "seq_kd": True,
        "lmbda": 0.0,
        "beta": 0.0,
        "max_new_tokens": 80,
    },
}
"""How the student learns; what is no GKD is `swift sft`. As it begins far from the teacher, beta is 0."""
NO_ANSWER = "?"


def main() -> int:
    """Train, measure, print, write; whether GKD closed enough of the gap."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put figures and curve into docs/")
    parser.add_argument("--teacher", help="one that was trained before, instead of a new one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        many, few, held = (write(place / f"{k}.jsonl", *said) for k, said in enumerate(SETS))
        student = str(MODELS["demo-chat"].path)
        teacher = args.teacher or taught(student, place, many, held)
        start, aim = loss_of(student, held), loss_of(teacher, held)
        found = {"the student before": (start, 0.0), "the teacher": (aim, 0.0)}
        curves: dict[str, list[tuple[int, float]]] = {}
        for number, (way, said) in enumerate(WAYS.items()):
            begun = time.process_time()
            rows = without_answers(few, place / "asked.jsonl") if said.get("seq_kd") else few
            report = learn(said, student, teacher, place / f"way-{number}", rows, held)
            spent = time.process_time() - begun
            curves[way] = [(line["step"], line["eval_loss"]) for line in report["log_history"] if "eval_loss" in line]
            found[way] = (loss_of(student, held, report["last_model_checkpoint"]), spent)
        lines = table(found, start, aim)
        print("\n".join(lines))
        if args.write:
            draw(curves, PICTURE)
            put("\n".join(lines))
    closed = [(start - found[way][0]) / (start - aim) for way in WAYS if way.startswith("GKD")]
    return 0 if min(closed) >= AIM else 1


SETS = ((MANY, "many"), (FEW, "few"), (HELD_OUT, "held out"))


def write(path: Path, count: int, seed: str) -> str:
    """So many questions for a logbook, with one as the answer."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        first, _, rest = logbook(rng).partition("\n")
        rows.append({"query": first, "response": "\n".join(rest.split("\n")[:DAYS])})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def without_answers(rows: str, path: Path) -> str:
    """The same questions, with nothing to learn of them."""
    read = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps({**row, "response": NO_ANSWER}) + "\n" for row in read]
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def taught(student: str, place: Path, rows: str, held: str) -> str:
    """The teacher, made of the student."""
    report = sft_main(
        [],
        **{**COMMON, "eval_steps": TEACHER_STEPS, "save_steps": TEACHER_STEPS},
        model_id_or_path=deepen(student, 2, place / "larger"),
        dataset=[rows],
        val_dataset=[held],
        sft_type="full",
        learning_rate=2e-3,
        max_steps=TEACHER_STEPS,
        output_dir=str(place / "teacher"),
    )
    return report["last_model_checkpoint"]


def learn(said: dict[str, Any], student: str, teacher: str, place: Path, rows: str, held: str) -> dict[str, Any]:
    """The report of a run of the student."""
    options = {
        **STUDENT, "model_id_or_path": student, "dataset": [rows], "val_dataset": [held], "output_dir": str(place),
    }  # fmt: skip
    if not said:
        return sft_main([], **options)
    return rlhf_main([], **options, rlhf_type="gkd", teacher_model=teacher, **said)


@torch.no_grad()
def loss_of(model: str, held: str, adapters: str | None = None) -> float:
    """The mean cross-entropy of a token of the answers to held-out questions."""
    loaded, template = load(model)
    if adapters:
        loaded = Swift.from_pretrained(loaded, adapters)
    loaded.eval()
    total, count = 0.0, 0
    for line in Path(held).read_text(encoding="utf-8").splitlines():
        inputs, _ = template.encode(json.loads(line))
        ids, labels = torch.tensor([inputs["input_ids"]]), torch.tensor(inputs["labels"][1:])
        logits = loaded(input_ids=ids).logits[0, :-1]
        total += float(cross_entropy(logits, labels, ignore_index=-100, reduction="sum"))
        count += int((labels != -100).sum())
    return total / count


def table(found: dict[str, tuple[float, float]], start: float, aim: float) -> list[str]:
    """Losses, the share of the gap that is closed, and CPU seconds."""
    lines = ["| | loss of held-out rows | of the gap closed | CPU time |", "|---|---|---|---|"]
    for name, (loss, seconds) in found.items():
        closed = "" if name in ("the student before", "the teacher") else f"{(start - loss) / (start - aim):.0%}"
        spent = f"{seconds:.0f} s" if seconds else ""
        lines.append(f"| {name} | {loss:.3f} | {closed} | {spent} |")
    return lines


def put(text: str) -> None:
    """Write the table between the marks of the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + text + "\n" + END + rest.partition(END)[2], encoding="utf-8")


def draw(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """The divergence from the teacher on held-out rows by step."""
    figure = Figure(figsize=(6, 3.2))
    axes = figure.add_subplot()
    for (way, points), colour in zip(curves.items(), ("#999999", "#FFB59F", "#D84315", "#1565C0"), strict=True):
        if way.startswith("GKD"):
            axes.plot(*zip(*points, strict=True), color=colour, label=way)
    axes.set_xlabel("step")
    axes.set_ylabel("divergence, rows held out")
    axes.set_ylim(bottom=0)
    axes.set_title("gkd")
    axes.legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    sys.exit(main())
