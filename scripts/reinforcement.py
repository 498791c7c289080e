"""Teach demo-chat by rewards alone to spell, asked in words it was never trained on; measured on words held out.

    python scripts/reinforcement.py [grpo rloo] [--write]

An answer is worth 1 when it is exactly the word letter by letter, else 0. The share of such answers is to rise by 30
points within 10 minutes of one processor, from a start between 10 and 50 %; the exit code is 1 where it does not. With
--write the figures go into docs/rlhf/, the curves into docs/images/.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import asking
from demo.scoring import answers, load, percent
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from swift import Swift
from swift.llm import rlhf_main
from swift.reinforcement.built_in import exact_match

ROOT = Path(__file__).resolve().parents[1]
START, GAIN, SECONDS = (0.1, 0.5), 0.3, 600
STEPS = 20
LONGEST = 24
COMMON: dict[str, Any] = {
    "model_type": "demo-chat", "reward_funcs": ["exact_match"], "num_generations": 8, "max_new_tokens": LONGEST,
    "lora_target_modules": ["ALL"], "lora_rank": 8, "lora_dropout_p": 0.0, "learning_rate": 1e-3, "batch_size": 8,
    "gradient_accumulation_steps": 1, "max_steps": STEPS, "eval_steps": 5, "logging_steps": 1,
    "save_strategy": "steps", "save_steps": STEPS, "add_output_dir_suffix": False, "report_to": "none",
    "disable_tqdm": True, "padding_free": True,
}  # fmt: skip
METHODS = ("grpo", "rloo")


@dataclass(frozen=True)
class Found:
    """What one method came to: shares of right answers to held-out questions, and seconds of one processor."""

    method: str
    before: float
    after: float
    seconds: float
    history: list[dict[str, Any]]

    @property
    def reached(self) -> bool:
        """Whether it is as was fixed beforehand."""
        return self.after - self.before >= GAIN and self.seconds <= SECONDS

    @property
    def line(self) -> str:
        """A line of the table."""
        shares = " | ".join(f"{100 * share:.1f} %" for share in (self.before, self.after))
        return f"| {self.method} | {shares} | {self.seconds:.0f} s |"


def main() -> int:
    """Train, measure, print, write; whether all methods reached the aim."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("methods", nargs="*", metavar="method", help="which; both unless said")
    parser.add_argument("--write", action="store_true", help="write figures and curves into docs/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for part in ("train", "held"):
            lines = [json.dumps(row) + "\n" for row in asking.rows(part == "held")]
            (place / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        before = measure(None)
        found = [learn(method, before, place) for method in args.methods or METHODS]
    count = len(asking.rows(True))
    print(f"before: {percent(round(before * count), count)} of {count} questions about words held out")
    print("| method | right before | right after | time of one processor |\n|---|---|---|---|")
    print("\n".join(each.line for each in found))
    if args.write:
        for each in found:
            write(each)
    return 0 if START[0] <= before <= START[1] and all(each.reached for each in found) else 1


def learn(method: str, before: float, place: Path) -> Found:
    """A run of one method."""
    begun = time.process_time()
    report = rlhf_main(
        [],
        **COMMON,
        rlhf_type=method,
        dataset=[str(place / "train.jsonl")],
        val_dataset=[str(place / "held.jsonl")],
        output_dir=str(place / method),
    )
    seconds = time.process_time() - begun
    after = measure(Path(report["last_model_checkpoint"]))
    return Found(method, before, after, seconds, report["log_history"])


def measure(adapter: Path | None) -> float:
    """The share of right answers to the questions that are held out, always taking the likeliest token."""
    model, template = load("demo-chat")
    if adapter is not None:
        model = Swift.from_pretrained(model, adapter)
    model.eval()
    rows = asking.rows(True)
    said = answers(model, template, [{"query": row["query"]} for row in rows], LONGEST)
    worth = exact_match([answer.text for answer in said], [row["solution"] for row in rows])
    return sum(each or 0.0 for each in worth) / len(rows)


def write(found: Found) -> None:
    """Put the figures of a method into its page, and draw its curve."""
    page = ROOT / "docs" / "rlhf" / f"{found.method}.md"
    head = "| method | right before | right after | time of one processor |\n|---|---|---|---|"
    picture = f"![{found.method}: mean reward over the steps](../images/rlhf-{found.method}.svg)"
    text = re.sub(
        r"(?<=<!-- figures -->\n).*?(?=<!-- /figures -->)",
        f"\n{head}\n{found.line}\n\n{picture}\n\n",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    page.write_text(text, encoding="utf-8")
    draw(found, ROOT / "docs" / "images" / f"rlhf-{found.method}.svg")


def draw(found: Found, path: Path) -> None:
    """The mean reward over the steps: of the answers that are learnt, and of the likeliest ones to what is held out."""
    figure = Figure(figsize=(6, 3.2))
    axes = figure.add_subplot()
    for key, label, colour in (
        ("reward", "answers that are learnt", "#FFB59F"),
        ("eval_reward", "likeliest answers, words held out", "#D84315"),
    ):
        points = [(line["step"], line[key]) for line in found.history if key in line]
        points = [(0, found.before), *points] if key == "eval_reward" else points
        axes.plot(*zip(*points, strict=True), color=colour, label=label)
    axes.set_ylim(0, 1)
    axes.set_xlabel("step")
    axes.set_ylabel("mean reward")
    axes.set_title(found.method)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    sys.exit(main())
