"""Teach demo-base a new kind of text with `swift pt`, and measure the perplexity of texts that it was not shown.

    python scripts/pretraining.py [--output_dir DIR] [--steps N] [--sft_type lora] [--picture FILE]

The new texts are logbooks of ships, made from a grammar; the old ones are of the kinds that demo-base was made from.
The exit code is 1 when the held-out logbooks do not become at least three times as likely a token.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from demo.plain import document
from transformers import AutoModelForCausalLM, AutoTokenizer

from swift.llm import PtArguments, pt_main
from swift.models import MODELS

AIM = 3.0
SHIPS = ("Albatross", "Petrel", "Cormorant", "Gannet", "Sandpiper", "Osprey")
WINDS = ("north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west")
SKIES = ("clear sky", "low clouds", "rain before noon", "fog until four bells", "hail in the night")
CARGO = ("salt", "timber", "copper", "wool", "tea", "lamp oil", "barley")
NOTES = (
    "The cook mended the fore sail.", "Two hands are ill.", "We saw a whale to port.", "The pump works again.",
    "A cask of {cargo} broke open.", "The mate reads the stars at midnight.", "No other ship in sight.",
)  # fmt: skip


def logbook(draw: random.Random) -> str:
    """Some days of a voyage."""
    ship, cargo, day = draw.choice(SHIPS), draw.choice(CARGO), draw.randint(1, 20)
    lines = [f"Log of the {ship}, bound for harbour with {cargo}."]
    for k in range(draw.randint(3, 9)):
        note = draw.choice(NOTES).format(cargo=cargo)
        force = draw.randint(1, 9)
        lines.append(f"Day {day + k}: wind {draw.choice(WINDS)}, force {force}, {draw.choice(SKIES)}. {note}")
    return "\n".join(lines)


def write_texts(path: Path, count: int, seed: int, make: Any = logbook) -> Path:
    """So many texts as rows of a jsonl file."""
    draw = random.Random(seed)
    path.write_text("".join(json.dumps({"text": make(draw)}) + "\n" for _ in range(count)), encoding="utf-8")
    return path


@torch.no_grad()
def perplexity(model_dir: str, file: Path) -> float:
    """exp of the mean -log p of the tokens of all texts with their ends, each text alone."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    total, count = 0.0, 0
    for line in file.read_text(encoding="utf-8").splitlines():
        ids = [*tokenizer(json.loads(line)["text"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
        count += len(ids) - 1
    return math.exp(total / count)


def learn(place: Path, steps: int, sft_type: str) -> tuple[list[tuple[int, float]], dict[str, tuple[float, float]]]:
    """The perplexity of held-out logbooks by step, and of both kinds of text before and after."""
    base = MODELS["demo-base"].path
    assert base is not None
    place.mkdir(parents=True, exist_ok=True)
    train = write_texts(place / "logbooks.jsonl", 1500, 1)
    held = write_texts(place / "held-out.jsonl", 60, 2)
    old = write_texts(place / "old.jsonl", 60, 3, document)
    mixed = write_texts(place / "general.jsonl", 300, 4, document)
    report = pt_main(
        PtArguments(
            model_type="demo-base", dataset=[str(train), str(mixed)], val_dataset=[str(held)], max_length=256,
            batch_size=8, gradient_accumulation_steps=1, learning_rate=2e-3 if sft_type == "full" else 5e-3,
            sft_type=sft_type, max_steps=steps, eval_steps=max(steps // 10, 1), logging_steps=10,
            output_dir=str(place / "run"), add_output_dir_suffix=False, save_total_limit=1, report_to=["none"],
        )
    )  # fmt: skip
    after = str(report["last_model_checkpoint"])
    if sft_type != "full":
        from swift.llm import InferArguments, merge_lora

        after = merge_lora(InferArguments(ckpt_dir=after))
    curve = [(0, perplexity(base, held))]
    curve += [(line["step"], math.exp(line["eval_loss"])) for line in report["log_history"] if "eval_loss" in line]
    kinds = {"logbooks, held out": held, "texts of the old kinds": old}
    return curve, {name: (perplexity(base, file), perplexity(after, file)) for name, file in kinds.items()}


def draw_curve(curve: list[tuple[int, float]], path: Path) -> None:
    """The perplexity by step, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "swift"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    axes.plot(*zip(*curve, strict=True), marker="o", markersize=3, color="#e8670c")
    axes.set(xlabel="step", ylabel="perplexity of held-out texts", yscale="log")
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, help="where the texts and the run are kept; a temporary directory")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--sft_type", default="full", help="full or lora")
    parser.add_argument("--picture", type=Path, help="an SVG file to draw the curve into")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        curve, kinds = learn(args.output_dir or Path(temporary), args.steps, args.sft_type)
    for step, value in curve:
        print(f"step {step:4}: perplexity {value:8.2f}")
    print("| perplexity of | before | after |\n|---|---:|---:|")
    for name, (before, after) in kinds.items():
        print(f"| {name} | {before:.2f} | {after:.2f} |")
    if args.picture:
        draw_curve(curve, args.picture)
    before, after = kinds["logbooks, held out"]
    return int(before < AIM * after)


if __name__ == "__main__":
    sys.exit(main())
