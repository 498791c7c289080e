"""Teach demo-chat to prefer a style, with every method, and measure it on questions that were held out.

    python scripts/preferences.py [dpo orpo ...] [--draw]

First a model is fine-tuned that answers friendly and plainly in turn; from it every method learns to be friendly. A
method has learnt it when nine of ten held-out pairs have the friendly answer as the likelier one, and nine of ten
answers are friendly. The exit code is 1 when one has not. With --draw its curve is drawn into docs/images/.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from demo import style
from demo.scoring import answers, load, percent
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from swift import Swift
from swift.llm import rlhf_main, sft_main
from swift.preference.batches import INPUTS, Collator
from swift.preference.encode import PreferenceEncoder
from swift.preference.logps import of_logits
from swift.preference.scores import Scores

ROOT = Path(__file__).resolve().parents[1]
AIM = 0.9
TRAIN, HELD_OUT = 256, 64
COMMON: dict[str, Any] = {
    "lora_target_modules": ["ALL"], "lora_rank": 8, "lora_dropout_p": 0.0, "batch_size": 16,
    "gradient_accumulation_steps": 1, "add_output_dir_suffix": False, "logging_steps": 2, "save_strategy": "no",
    "report_to": "none", "disable_tqdm": True, "padding_free": True,
}  # fmt: skip
FIRST: dict[str, Any] = {
    **COMMON, "sft_type": "full", "learning_rate": 1e-3, "num_train_epochs": 4, "save_strategy": "epoch",
    "evaluation_strategy": "no",
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "dpo": {"learning_rate": 1e-3},
    "orpo": {"learning_rate": 2e-3, "beta": 0.5},
    "simpo": {"learning_rate": 6e-4, "beta": 10.0, "simpo_gamma": 5.0},
    "cpo": {"learning_rate": 1e-3},
    "kto": {"learning_rate": 2e-3},
}
STEPS = 32


def main() -> int:
    """Train, measure, print, draw; whether all methods reached the aim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="method", help="which; all unless said")
    parser.add_argument("--draw", action="store_true", help="draw the curves into docs/images/")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        base = prepare(place)
        before = measure(base, None)
        lines = [row("before", before, 0.0)]
        reached = True
        for method in args.methods or METHODS:
            begun = time.monotonic()
            report = learn(method, base, place)
            found = measure(base, Path(report["last_model_checkpoint"]))
            lines.append(row(method, found, time.monotonic() - begun))
            reached = reached and found.likelier >= AIM and found.friendly >= AIM
            if args.draw:
                draw(method, report["log_history"], ROOT / "docs" / "images" / f"rlhf-{method}.svg")
    print("| method | friendly answer likelier | friendly answers | right answers |\n|---|---|---|---|")
    print("\n".join(lines))
    return 0 if reached else 1


def prepare(place: Path) -> str:
    """Write the rows, and fine-tune the model to begin with; where it is."""
    found, held = style.items(TRAIN, held=False), style.items(HELD_OUT, held=True)
    rows = {
        "mixed": style.mixed(found),
        "pairs": style.pairs(found),
        "held-pairs": style.pairs(held),
        "labelled": style.labelled(found),
        "held-labelled": style.labelled(held),
    }
    for name, each in rows.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in each]
        (place / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    dataset = [str(place / "mixed.jsonl")]
    report = sft_main([], **FIRST, model_type="demo-chat", dataset=dataset, output_dir=str(place / "first"))
    return report["last_model_checkpoint"]


def learn(method: str, base: str, place: Path) -> dict[str, Any]:
    """The report of a run of one method."""
    rows = "labelled" if method == "kto" else "pairs"
    return rlhf_main(
        [],
        **{**COMMON, "save_strategy": "steps", "save_steps": STEPS, "eval_steps": 4, "max_steps": STEPS},
        rlhf_type=method,
        model_id_or_path=base,
        template_type="chatml",
        dataset=[str(place / f"{rows}.jsonl")],
        val_dataset=[str(place / f"held-{rows}.jsonl")],
        output_dir=str(place / method),
        **METHODS[method],
    )


@dataclass(frozen=True)
class Found:
    """Shares of held-out questions: the friendly answer is the likelier one; it is given; what is given is right."""

    likelier: float
    friendly: float
    right: float


def measure(base: str, adapter: Path | None) -> Found:
    """What a model prefers and says."""
    model, template = load(base)
    if adapter is not None:
        model = Swift.from_pretrained(model, adapter)
    model.eval()
    items = style.items(HELD_OUT, held=True)
    said = answers(model, template, [{"messages": item.messages(answered=False)} for item in items])
    friendly = sum(style.is_friendly(answer.text) for answer in said)
    right = sum(style.is_right(answer.text, item) for answer, item in zip(said, items, strict=True))
    encoder = PreferenceEncoder(template, 1024, pairs=True)
    rows = [
        {"messages": [*item.messages()[:-1], {"role": "assistant", "content": style.friendly(item)}],
         "rejected_response": item.answer}
        for item in items
    ]  # fmt: skip
    batch = Collator(0)(encoder.encode_batch(rows))
    with torch.no_grad():
        logits = model(**{name: batch[name] for name in INPUTS if name in batch}).logits
    scores = Scores.of(*of_logits(logits, batch["at"], batch["targets"], logits.shape[1]), batch)
    chosen, rejected = scores.logps_A.chunk(2)
    return Found(float((chosen > rejected).float().mean()), friendly / len(items), right / len(items))


def row(name: str, found: Found, seconds: float) -> str:
    """A line of the table."""
    shares = (found.likelier, found.friendly, found.right)
    told = f" ({seconds:.0f} s)" if seconds else ""
    return f"| {name}{told} | " + " | ".join(percent(round(share * HELD_OUT), HELD_OUT) for share in shares) + " |"


def draw(method: str, history: list[dict[str, Any]], path: Path) -> None:
    """The margin of rewards over the steps, of rows that train and of those held out."""
    figure = Figure(figsize=(6, 3.2))
    axes = figure.add_subplot()
    for key, label, colour in (
        ("rewards/margins", "rows that train", "#FFB59F"),
        ("eval_rewards/margins", "rows held out", "#D84315"),
    ):
        points = [(line["step"], line[key]) for line in history if key in line]
        axes.plot(*zip(*points, strict=True), color=colour, label=label)
    axes.axhline(0, color="#999999", linewidth=0.6)
    axes.set_xlabel("step")
    axes.set_ylabel("reward, chosen - rejected")
    axes.set_title(method)
    axes.legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    sys.exit(main())
