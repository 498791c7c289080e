"""Give demo-chat another name and measure it: who it says it is and what else it can do, before and after.

    python scripts/measure_identity.py

Fine-tunes with LoRA on `self-cognition` and `demo-general` through `sft_main`, then asks forty questions that no data
set holds. The exit code is 1 when an aim printed below the table is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from demo.grammar import SKILLS
from demo.probes import CHINESE, ENGLISH
from demo.scoring import answers, load, percent, score_skill

from swift import Swift
from swift.llm import SftArguments, sft_main
from swift.templates.template import Template

NAMING, KEPT = 0.9, 0.05
IDENTITY = ("who it is", "name of a system prompt")
OTHERS = tuple(skill for skill in SKILLS if skill.scored and skill.name not in IDENTITY)
SETTINGS: dict[str, Any] = {
    "sft_type": "lora",
    "lora_target_modules": ["ALL"],
    "lora_rank": 16,
    "lora_alpha": 32,
    "lora_dropout_p": 0.0,
    "learning_rate": 4e-3,
    "batch_size": 16,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 10,
    "dataset_test_ratio": 0.0,
    "logging_steps": 10,
    "save_strategy": "epoch",
    "save_total_limit": 1,
}


def main() -> int:
    """Train, measure, print the table; whether both aims are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo-chat", help="a model of the catalog, or a directory")
    parser.add_argument("--model_name", nargs="+", default=["小黄", "Swifty"], help="Chinese, then English")
    parser.add_argument("--model_author", nargs="+", default=["魔搭", "ModelScope"], help="Chinese, then English")
    parser.add_argument("--general", type=int, default=300, help="rows of demo-general mixed in")
    parser.add_argument("--count", type=int, default=20, help="items of each sort of the other skills")
    parser.add_argument("--output_dir", type=Path, help="where the checkpoints stay; a temporary directory else")
    args = parser.parse_args()
    model, template = load(args.model)
    identity = [*args.model_name, *args.model_author]
    before = measure(model, template, identity, args.count)
    with tempfile.TemporaryDirectory() as temporary:
        seconds, checkpoint = fine_tune(args, args.output_dir or Path(temporary))
        tuned = Swift.from_pretrained(load(args.model)[0], checkpoint)
        after = measure(tuned, template, identity, args.count)
    return report(before, after, seconds)


def fine_tune(args: argparse.Namespace, output_dir: Path) -> tuple[float, str]:
    """Seconds of training, and the checkpoint."""
    named = "model_id_or_path" if Path(args.model).is_dir() else "model_type"
    said = SftArguments(
        **{named: args.model},
        template_type="chatml",
        dataset=["self-cognition", f"demo-general#{args.general}"],
        model_name=args.model_name,
        model_author=args.model_author,
        output_dir=str(output_dir),
        **SETTINGS,
    )
    begun = time.monotonic()
    result = sft_main(said)
    return time.monotonic() - begun, result["last_model_checkpoint"]


def measure(model: Any, template: Template, identity: list[str], count: int) -> dict[str, float]:
    """Share of the probes that name the identity, by language; share of exact answers of the other skills."""
    shares = {}
    for label, probes in (("names itself, English", ENGLISH), ("names itself, Chinese", CHINESE)):
        said = [answer.text for answer in answers(model, template, ({"query": probe} for probe in probes))]
        for probe, text in zip(probes, said, strict=True):
            print(f"  {probe} -> {text}")
        shares[label] = sum(any(name in text for name in identity) for text in said) / len(said)
    scores = [score for skill in OTHERS for score in score_skill(model, template, skill, count)]
    for skill in OTHERS:
        own = [score for score in scores if score.skill == skill.name]
        shares[skill.name] = sum(score.exact for score in own) / sum(score.count for score in own)
    shares["other skills together"] = sum(score.exact for score in scores) / sum(score.count for score in scores)
    return shares


def report(before: dict[str, float], after: dict[str, float], seconds: float) -> int:
    """Print the table and the aims."""
    print("\n| | before | after |\n|---|---:|---:|")
    for name in before:
        print(f"| {name} | {percent_of(before[name])} | {percent_of(after[name])} |")
    naming = sum(after[name] for name in list(after)[:2]) / 2
    earlier = sum(before[name] for name in list(before)[:2]) / 2
    lost = before["other skills together"] - after["other skills together"]
    print(f"\n{seconds:.0f} s from the call of sft_main to its end.")
    print(f"Of 40 new questions {percent_of(naming)} name the new identity (aim: {NAMING:.0%}; before: {earlier:.0%}).")
    print(f"The other skills lost {100 * lost:.1f} points (aim: at most {100 * KEPT:.0f}).")
    return 0 if naming >= NAMING and earlier == 0 and lost <= KEPT else 1


def percent_of(share: float) -> str:
    """A share, such as "97.5 %"."""
    return percent(round(share * 1000), 1000)


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
