"""What guessing from the prompt saves where answers copy.

    python scripts/bench/lookup.py [--model small] [--tokens 128] [--out docs/infer.md]

A model of random weights copies nothing, so that what it says is laid down: each answer is the prompt's second half
again, with a share of its tokens changed. Every token is computed all the same. With and without guesses take turns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

BEGIN, END = "<!-- table of scripts/bench/lookup.py -->", "<!-- end -->"
CHANGED = {"a copy": 0.0, "one token in ten changed": 0.1, "nothing copied": 1.0}
GUESS = 8


class LaidDown:
    """A constraint that leaves one token at every place."""

    def __init__(self, ids: list[int]) -> None:
        self.ids, self.at = ids, 0

    def allow(self, logits_V: Any) -> Any:
        chosen_V = logits_V.new_full(logits_V.shape, float("-inf"))
        chosen_V[self.ids[self.at]] = 0.0
        return chosen_V

    def accept(self, token: int) -> None:
        self.at += 1


def requests_for(model: Any, template: Any, rows: int, tokens: int, changed: float, most: int | None) -> list[Any]:
    """Prompts of twice as many ids as their answers have, which repeat the second half."""
    from functools import partial

    from transformers import GenerationConfig

    from swift.inference.answer import Reader
    from swift.inference.engine import Request
    from swift.inference.settings import prepare_generation_config

    rng, made = random.Random(7), []
    for _ in range(rows):
        prompt = [rng.randrange(10, 2000) for _ in range(2 * tokens)]
        answer = [rng.randrange(10, 2000) if rng.random() < changed else i for i in prompt[tokens:]]
        said = GenerationConfig(max_new_tokens=tokens, do_sample=False, prompt_lookup_num_tokens=most)
        config = prepare_generation_config(model, template, said, num_prompt_tokens=len(prompt))
        made.append(Request(prompt, config, Reader(template, [-1]), constraint=partial(LaidDown, answer)))
    return made


def seconds(model: Any, requests: list[Any]) -> float:
    """How long all answers take."""
    from swift.inference.batching import Batching

    started = time.perf_counter()
    count = sum(len(each.ids) for each in Batching(model, len(requests)).run(requests))
    assert count == sum(request.config.max_new_tokens for request in requests)
    return time.perf_counter() - started


def table(model: Any, template: Any, tokens: int, turns: int) -> str:
    """Tokens per second without and with guesses, in Markdown."""
    lines = ["| answers | rows at once | without | guessing 8 | times |", "|---|---|---|---|---|"]
    for name, changed in CHANGED.items():
        for rows in (1, 4, 16):
            taken: dict[int | None, list[float]] = {None: [], GUESS: []}
            for _ in range(turns):
                for most, times in taken.items():
                    times.append(seconds(model, requests_for(model, template, rows, tokens, changed, most)))
            plain, guessed = (rows * tokens / statistics.median(times) for times in taken.values())
            lines.append(f"| {name} | {rows} | {plain:.0f} tokens/s | {guessed:.0f} tokens/s | {guessed / plain:.2f} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    from scripts.bench.infer import make

    with tempfile.TemporaryDirectory() as place:
        model, template = make(Path(place), args.model)
        found = table(model, template, args.tokens, args.turns)
    if args.out:
        text = args.out.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        args.out.write_text(f"{head}{BEGIN}\n\n{found}\n\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
